"""The model against arithmetic by hand, against itself, and against transformers."""

import json

import pytest
import torch
from safetensors.torch import save_file

import gguf_file
from export import hf_config
from model import Cache, Llama, Shape, document_mask, load_folder, padded_mask, rope_tables, rotate
from sample import generate

SHAPE = Shape(
    vocab_size=64, hidden_size=32, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=16, ff_size=48, context_len=64
)
CPU = torch.device("cpu")


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(11)
    model = Llama(SHAPE).eval().requires_grad_(False)
    # Fresh weights give nearly flat logits; larger ones make differences visible.
    for parameter in model.parameters():
        parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model


def test_rope_turns_half_split_pairs_by_position_times_frequency() -> None:
    cos, sin = rope_tables(head_dim=4, theta=100.0, n_positions=3)
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).expand(1, 1, 3, 4)
    turned = rotate(x, cos, sin)[0, 0]
    # Pairs (1, 0) and (0, 2); frequencies 100^0 = 1 and 100^(-2/4) = 0.1; position 2 turns by 2 and 0.2 radians.
    expected = torch.tensor([-0.416147, -2 * 0.198669, 0.909297, 2 * 0.980067])
    assert torch.allclose(turned[2], expected, atol=1e-5)
    assert torch.equal(turned[0], x[0, 0, 0])


def test_interleaved_weights_turn_neighbouring_pairs_alike() -> None:
    n_heads, head_dim = 2, 8
    weight, x = torch.randn(n_heads * head_dim, 5), torch.randn(5)
    cos, sin = rope_tables(head_dim, 10000.0, 4)
    half_split = rotate((weight @ x).view(1, n_heads, 1, head_dim), cos[3], sin[3]).flatten()
    pairs = (torch.from_numpy(gguf_file.interleaved(weight.numpy(), n_heads)) @ x).view(n_heads, head_dim // 2, 2)
    neighbours = torch.stack(
        (pairs[..., 0] * cos[3] - pairs[..., 1] * sin[3], pairs[..., 1] * cos[3] + pairs[..., 0] * sin[3]), dim=-1
    )
    back = neighbours.transpose(1, 2).reshape(-1)
    assert torch.allclose(back, half_split, atol=1e-6)


def test_packed_documents_do_not_see_each_other(model: Llama) -> None:
    first, second = torch.randint(64, (5,)), torch.randint(64, (7,))
    row = torch.cat((first, second)).unsqueeze(0)
    mask = document_mask(torch.tensor([[1] * 5 + [2] * 7]))
    together = model(row, mask)[0]
    assert torch.allclose(together[:5], model(first.unsqueeze(0))[0], atol=1e-4)
    # Positions differ by 5, and rotary attention sees only differences.
    assert torch.allclose(together[5:], model(second.unsqueeze(0))[0], atol=1e-4)
    assert not torch.allclose(model(row)[0, 5:], together[5:], atol=1e-2)


def test_cached_and_left_padded_rows_equal_whole_rows(model: Llama) -> None:
    long, short = torch.randint(64, (9,)), torch.randint(64, (6,))
    rows = torch.stack((long, torch.cat((torch.zeros(3, dtype=torch.long), short))))
    first = torch.tensor([0, 3])
    cache = Cache(SHAPE, 2, 9, CPU, torch.float32)
    parts = []
    for start, stop in ((0, 5), (5, 6), (6, 9)):
        parts.append(model(rows[:, start:stop], padded_mask(first, start, stop - start), cache))
    cached = torch.cat(parts, dim=1)
    assert torch.allclose(cached[0], model(long.unsqueeze(0))[0], atol=1e-4)
    assert torch.allclose(cached[1, 3:], model(short.unsqueeze(0))[0], atol=1e-4)


def test_greedy_answers_do_not_depend_on_the_batch(model: Llama) -> None:
    prompts = [[5, 6, 7, 8, 9], [1, 2], [30, 31, 32]]

    def answers(some: list[list[int]]) -> list[list[int]]:
        return generate(model, some, 8, 0.0, torch.Generator(), stops={63})

    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]


def test_logits_equal_those_of_transformers(model: Llama, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(model, 2, 0)), encoding="utf-8")
    weights = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tokens = torch.randint(64, (2, 40))
    reference = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loaded = load_folder(tmp_path)
    assert loaded.shape == SHAPE
    with torch.no_grad():
        expected, got = reference(tokens).logits, loaded(tokens)
    assert expected.std() > 0.1
    assert torch.allclose(got, expected, atol=1e-4)
