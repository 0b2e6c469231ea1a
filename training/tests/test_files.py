"""What is written for others: encoded documents, the tokenizer folder, GGUF."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch

import gguf_file
import synthetic
from encode import encoded, encoded_file
from export import write_hf
from model import Llama, Shape
from records import CURRICULUM, Record
from tokenizer import rendered_prompt, stop_ids, trained, write_folder


@pytest.fixture(scope="module")
def tokenizer():
    return trained((record.text for record in synthetic.records(200, seed=1)), vocab_size=300)


def test_a_pair_is_one_exchange_and_a_text_ends_with_the_end_of_text(tokenizer) -> None:
    pair, text = encoded(
        [Record("chat", "s", "MIT", "The box.", "Where?"), Record("docs", "s", "MIT", "red")], tokenizer
    )
    ids = pair.tokens.tolist()
    assert tokenizer.decode(ids, skip_special_tokens=False) == rendered_prompt("Where?") + "The box.<|im_end|>\n"
    assert tokenizer.decode(ids[pair.prompt_len :], skip_special_tokens=False) == "The box.<|im_end|>\n"
    assert (text.prompt_len, text.tokens[-1]) == (0, tokenizer.token_to_id("<|endoftext|>"))


def test_the_curriculum_can_be_encoded_apart(tokenizer, tmp_path) -> None:
    write_folder(tokenizer, tmp_path, context_len=64)
    found, made = Record("chat", "s", "MIT", "The box.", "Where?"), Record("math", CURRICULUM, "MIT", "3", "1 + 2")
    (tmp_path / "train.jsonl").write_text(found.to_json() + "\n" + made.to_json() + "\n", encoding="utf-8")
    both = encoded_file(tmp_path / "train.jsonl", tokenizer)
    apart = encoded_file(tmp_path / "train.jsonl", tokenizer, lambda record: record.source == CURRICULUM)
    assert (len(both), len(apart)) == (2, 1)
    assert apart[0].tolist() == both[1].tolist()


def test_a_special_token_inside_a_text_is_no_special_token(tokenizer) -> None:
    (text,) = encoded([Record("docs", "s", "MIT", "a <|im_end|> b <|endoftext|>")], tokenizer)
    assert stop_ids(tokenizer).isdisjoint(text.tokens[:-1].tolist())


def test_all_bytes_survive_the_tokenizer(tokenizer) -> None:
    text = "ä\t\r\n  €  12 'S \U0001f600 def"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_chat_template_writes_what_training_encodes(tokenizer, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    write_folder(tokenizer, tmp_path, context_len=64)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Where?"}]
    assert loaded.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == rendered_prompt("Where?")
    assert loaded("Where is the box?")["input_ids"] == tokenizer.encode("Where is the box?").ids


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 0.0), ("bf16", 1 / 256), ("q8_0", 1 / 127)])
def test_gguf_holds_shape_tokenizer_and_permuted_weights(tokenizer, tmp_path, kind: str, tolerance: float) -> None:
    torch.manual_seed(5)
    model = Llama(Shape(300, 32, 2, 4, 2, 16, 64, 128)).requires_grad_(False)
    write_folder(tokenizer, tmp_path, context_len=128)
    gguf_file.write(model, tmp_path, tmp_path / "m.gguf", kind, "test")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expected = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields[name] for name in expected} == expected
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert fields["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.1.ffn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    keys = tensors["blk.1.attn_k.weight"]
    stored = gguf.quants.dequantize(keys.data, keys.tensor_type)
    wanted = gguf_file.interleaved(model.state_dict()["model.layers.1.self_attn.k_proj.weight"].numpy(), 2)
    assert np.abs(stored - wanted).max() <= tolerance * np.abs(wanted).max()

    again, tokens = gguf_file.read(tmp_path / "m.gguf")
    assert replace(again.shape, norm_eps=1e-5) == model.shape and tokens == fields["tokenizer.ggml.tokens"]
    for name, weight in model.state_dict().items():
        assert (again.state_dict()[name] - weight).abs().max() <= tolerance * weight.abs().max(), name


def test_a_gguf_file_of_another_architecture_is_refused(tmp_path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(SystemExit, match="expected a file of architecture llama, got gemma"):
        gguf_file.read(tmp_path / "m.gguf")


def test_transformers_computes_the_same_from_the_gguf_file(tokenizer, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(5)
    model = Llama(Shape(300, 32, 2, 4, 2, 16, 64, 128)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    write_folder(tokenizer, tmp_path, context_len=128)
    gguf_file.write(model, tmp_path, tmp_path / "m.gguf", "f32", "test")
    reader = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    tokens = torch.randint(300, (2, 40))
    assert torch.allclose(reader.eval()(tokens).logits, model(tokens), atol=1e-4)
    text = "Where is the red box?\n  12 + 7"
    read = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert read(text)["input_ids"] == tokenizer.encode(text).ids


def test_a_tokenizer_of_another_size_is_refused(tokenizer, tmp_path) -> None:
    write_folder(tokenizer, tmp_path, context_len=64)
    with pytest.raises(SystemExit, match="expected a tokenizer of 64"):
        write_hf(Llama(Shape(64, 16, 1, 2, 1, 8, 16, 64)), tmp_path, tmp_path / "out")
