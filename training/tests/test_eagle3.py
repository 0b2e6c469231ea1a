"""A draft head: its files, its chains, its loss, its vocabulary, and resuming."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from some_features import seeded_target, write_features
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F

import eagle3_train as training
import loop
from data import Documents
from eagle3_chains import batch_of, chain_hidden
from eagle3_evaluate import by_place, judged, walked
from eagle3_features import Chat, Features, answered, hidden_streams, in_bf16, load_features
from eagle3_head import Head, HeadShape, fresh_head, load_head, save_head, tap_layers, with_vocabulary
from eagle3_loss import SoftCrossEntropy, chain_loss, wanted_distributions
from eagle3_prompts import questions, without_repeats
from eagle3_settings import HeadSettings, HeadTraining
from model import Llama, Shape
from records import Exclusion, Record

SHAPE = Shape(
    vocab_size=40, hidden_size=16, n_layers=7, n_heads=4, n_kv_heads=2, head_dim=4, ff_size=24, context_len=64
)
DRAFT_TO_TARGET = torch.tensor([1, 2, 3, 5, 8, 9, 10, 12, 20, 21, 30, 39])


@pytest.fixture
def target() -> Llama:
    return seeded_target(SHAPE)


@pytest.fixture
def features(target: Llama, tmp_path: Path) -> Features:
    """Answered prompts, as stage 2 writes them."""
    write_features(target, tmp_path / "features")
    return load_features(tmp_path / "features" / "part-00.npz", SHAPE.hidden_size)


def head_of(target: Llama, features: Features) -> Head:
    torch.manual_seed(7)
    sizes = training.stream_sizes([features], target.model.norm.weight)
    head = fresh_head(target, DRAFT_TO_TARGET, sizes)
    # Larger weights, so that attention tells places apart.
    for projection in (head.midlayer.self_attn.q_proj, head.midlayer.self_attn.k_proj, head.midlayer.self_attn.o_proj):
        torch.nn.init.normal_(projection.weight, std=0.4)
    return head


def step_by_step(head: Head, embeddings: torch.Tensor, tokens: torch.Tensor, taps: torch.Tensor, start: int, n: int):
    """The chain at `start` as a server drafts it, row by row with stored keys: outputs of steps 0..n - 1."""
    layer, shape = head.midlayer, head.shape.layer
    group = shape.n_heads // shape.n_kv_heads
    keys, values, outputs, hidden = [], [], [], None
    for row in range(start + n):
        own = row > start
        if own:
            hidden = outputs[-1]
        else:
            hidden = head.fc(taps[row].flatten())
        normed = layer.normed(embeddings[tokens[row + 1]][None], hidden[None])
        position = torch.tensor([row])
        key, value = layer.keys_values(normed, position)
        keys.append(key[0])
        values.append(value[0])
        if row < start:
            continue
        query = layer.queries(normed, position)[0]
        seen_keys = torch.stack(keys).repeat_interleave(group, dim=1)
        seen_values = torch.stack(values).repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,rhd->hr", query, seen_keys) / math.sqrt(shape.head_dim)
        attended = torch.einsum("hr,rhd->hd", scores.softmax(-1), seen_values)
        outputs.append(layer.output(hidden[None], attended[None])[0])
    return outputs


def test_taps_are_the_low_middle_and_high_stream() -> None:
    assert tap_layers(30) == (2, 15, 27)
    with pytest.raises(ValueError, match="at least 7 layers"):
        tap_layers(6)


def test_streams_are_the_hidden_states_of_transformers(target: Llama, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=7, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        intermediate_size=24, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    reference = transformers.LlamaForCausalLM(config).eval()
    reference.load_state_dict(target.state_dict(), strict=False)
    tokens = torch.tensor([[1, 7, 3, 22, 39, 4, 4]])
    with torch.no_grad():
        states = reference(tokens, output_hidden_states=True).hidden_states
    streams = hidden_streams(target, tokens)
    for stream, layer in enumerate((*tap_layers(7), 7)):
        torch.testing.assert_close(streams[:, :, stream], states[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("from_prompts", [False, True])
def test_all_chains_at_once_are_the_chains_step_by_step(target: Llama, features: Features, from_prompts: bool) -> None:
    head, embeddings = head_of(target, features), target.model.embed_tokens.weight
    documents = [0, 3, 4, 6, 2]
    batch = batch_of([(features, i) for i in documents], torch.device("cpu"), from_prompts)
    outputs = chain_hidden(head, embeddings[batch.tokens], batch, 4)
    n_compared = start_at = 0
    for i in documents:
        tokens = torch.from_numpy(features.documents[i].astype(np.int64))
        taps = features.of(i)[:, :3].float()
        first = 0 if from_prompts else int(features.documents.prompt_lens[i]) - 1
        for start in range(first, len(tokens) - 2):
            # Row r reads token r + 1 and foresees token r + 2, which must exist.
            n_steps = min(4, len(tokens) - 2 - start)
            assert int(batch.room[start_at]) == len(tokens) - 2 - start
            for step, expected in enumerate(step_by_step(head, embeddings, tokens, taps, start, n_steps)):
                torch.testing.assert_close(outputs[step][start_at], expected, rtol=1e-4, atol=1e-5)
                foreseen = batch.foreseen(step)[(batch.step_starts(step) == start_at).nonzero().item()]
                assert foreseen == tokens[start + step + 2]
                n_compared += 1
            start_at += 1
    assert start_at == len(batch.start_rows) and n_compared > 60


def test_the_loss_is_the_plain_cross_entropy(target: Llama, features: Features) -> None:
    head, embeddings = head_of(target, features), target.model.embed_tokens.weight
    batch = batch_of([(features, i) for i in range(4)], torch.device("cpu"))
    step_weights = [1.0, 0.5]
    loss = chain_loss(head, embeddings[batch.tokens], embeddings[head.draft_to_target], batch, step_weights)
    loss.total.backward()
    gradients = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()

    wanted = wanted_distributions(embeddings[head.draft_to_target], batch)
    expected = torch.zeros(())
    for step, output in enumerate(chain_hidden(head, embeddings[batch.tokens], batch, 2)):
        starts = [c for c in range(len(batch.start_rows)) if int(batch.room[c]) > step]
        logits = F.linear(head.norm(output[starts]), head.lm_head.weight)
        # What the target says at the place that step `step` of start c foresees is what start c + step begins with.
        expected = expected + step_weights[step] / 1.5 * F.cross_entropy(logits, wanted[[c + step for c in starts]])
    expected.backward()
    torch.testing.assert_close(loss.total, expected)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_bf16_gives_about_the_same_loss_and_gradients(target: Llama, features: Features) -> None:
    head, embeddings = head_of(target, features), target.model.embed_tokens.weight
    batch = batch_of([(features, i) for i in range(7)], torch.device("cpu"))
    losses, gradients = [], []
    for is_bf16 in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            loss = chain_loss(head, embeddings[batch.tokens], embeddings[head.draft_to_target], batch, [1.0, 0.8])
        loss.total.backward()
        losses.append(loss.total.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
        assert loss.total.dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0.0)
    assert F.cosine_similarity(*gradients, dim=0) > 0.99


def test_streams_in_bf16_are_about_those_in_f32(target: Llama) -> None:
    tokens = torch.tensor([[1, 7, 3, 22, 39, 4, 4]])
    expected = hidden_streams(target, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        streams = hidden_streams(in_bf16(target), tokens)
    assert streams.dtype == torch.float32
    assert (streams - expected).norm() < 0.02 * expected.norm()


def test_fixed_output_rows_get_no_gradient() -> None:
    hidden = torch.randn(5, 4, requires_grad=True)
    weight, wanted = torch.randn(6, 4), torch.randn(5, 6).softmax(-1)
    total, agrees = SoftCrossEntropy.apply(hidden, weight, lambda chunk: wanted[chunk], torch.ones(5))
    total.backward()
    assert weight.grad is None and hidden.grad is not None and agrees.dtype == torch.bool


def test_the_target_distribution_is_that_of_its_logits(target: Llama, features: Features) -> None:
    """The stored last hidden states give the target's own distribution, up to bf16."""
    embeddings = target.model.embed_tokens.weight
    batch = batch_of([(features, 3)], torch.device("cpu"))
    wanted = wanted_distributions(embeddings[DRAFT_TO_TARGET], batch)
    logits = target(torch.from_numpy(features.documents[3].astype(np.int64))[None])[0]
    prompt_len = int(features.documents.prompt_lens[3])
    expected = logits[prompt_len:-1, DRAFT_TO_TARGET].softmax(-1)
    torch.testing.assert_close(wanted, expected, rtol=0.05, atol=1e-3)


def test_a_head_survives_its_files(target: Llama, features: Features, tmp_path: Path) -> None:
    head = head_of(target, features)
    for _ in range(2):  # The second time replaces a folder that is there.
        save_head(head, tmp_path / "head")
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "head" / "model.safetensors", "pt") as file:
        kinds = {name: (file.get_tensor(name).dtype, tuple(file.get_tensor(name).shape)) for name in file.keys()}
    bf16 = torch.bfloat16
    assert kinds == {
        "d2t": (torch.int64, (12,)),
        "t2d": (torch.bool, (40,)),
        "fc.weight": (bf16, (16, 48)),
        "lm_head.weight": (bf16, (12, 16)),
        "norm.weight": (bf16, (16,)),
        "midlayer.hidden_norm.weight": (bf16, (16,)),
        "midlayer.input_layernorm.weight": (bf16, (16,)),
        "midlayer.post_attention_layernorm.weight": (bf16, (16,)),
        "midlayer.self_attn.q_proj.weight": (bf16, (16, 32)),
        "midlayer.self_attn.k_proj.weight": (bf16, (8, 32)),
        "midlayer.self_attn.v_proj.weight": (bf16, (8, 32)),
        "midlayer.self_attn.o_proj.weight": (bf16, (16, 16)),
        "midlayer.mlp.gate_proj.weight": (bf16, (24, 16)),
        "midlayer.mlp.up_proj.weight": (bf16, (24, 16)),
        "midlayer.mlp.down_proj.weight": (bf16, (16, 24)),
    }
    again = load_head(tmp_path / "head")
    assert again.shape == head.shape and torch.equal(again.draft_to_target, DRAFT_TO_TARGET)
    assert torch.equal(again.t2d.nonzero().squeeze(1), DRAFT_TO_TARGET)
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=2**-8, atol=0.0)


def test_a_head_takes_another_vocabulary(target: Llama, features: Features) -> None:
    head = head_of(target, features)
    torch.nn.init.normal_(head.lm_head.weight)
    other = torch.tensor([0, 2, 3, 30])
    changed = with_vocabulary(head, target, other)
    assert torch.equal(changed.draft_to_target, other)
    assert torch.equal(changed.lm_head.weight[1:], head.lm_head.weight[[1, 2, 10]])
    assert torch.equal(changed.lm_head.weight[0], target.model.embed_tokens.weight[0])
    assert torch.equal(changed.midlayer.mlp.up_proj.weight, head.midlayer.mlp.up_proj.weight)


def test_another_architecture_is_refused(target: Llama, features: Features, tmp_path: Path) -> None:
    save_head(head_of(target, features), tmp_path / "head")
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    (tmp_path / "head" / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match="expected one layer of LlamaForCausalLMEagle3"):
        load_head(tmp_path / "head")
    with pytest.raises(ValueError, match="draft vocabulary of 1..40, got 41"):
        HeadShape(replace(SHAPE, n_layers=1), 41)
    with pytest.raises(ValueError, match="ascending"):
        Head(HeadShape(replace(SHAPE, n_layers=1), 3), torch.tensor([4, 2, 9]))


def test_the_vocabulary_is_what_the_target_says_most() -> None:
    encoded = [np.array([7, 7, 7, 7, 5, 3, 3], dtype=np.uint16), np.array([9, 9, 5, 5, 2], dtype=np.uint16)]
    documents = Documents.collect(encoded, [4, 2], [0, 0])
    # Said: 5 three times, 3 twice, 2 once; of tokens only read, 7 comes before 9; the rest by id.
    assert training.reduced_vocabulary([documents], 12, 3).tolist() == [2, 3, 5]
    assert training.reduced_vocabulary([documents], 12, 4).tolist() == [2, 3, 5, 7]
    assert training.reduced_vocabulary([documents], 12, 6).tolist() == [0, 2, 3, 5, 7, 9]
    assert training.coverage([documents], torch.tensor([3, 5])) == pytest.approx(5 / 6)


def settings(**changes) -> HeadSettings:
    some = HeadTraining(
        documents_per_step=2, n_steps=7, lr_max=1e-2, warmup_steps=2, step_weights=[1.0, 0.8, 0.6], heldout_share=0.2
    )
    return HeadSettings(seed=1, draft_vocab_size=12, training=replace(some, output_lr_share=0.5, **changes))


def prepared(some: HeadSettings, target: Llama, features: Path, out: Path) -> training.HeadRun:
    out.mkdir(exist_ok=True)
    args = argparse.Namespace(features=features, out=out, init=None, export=out / "head", bf16=False)
    return training.prepared(args, some, target)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(target: Llama, features: Features, tmp_path: Path) -> None:
    whole = prepared(settings(), target, tmp_path / "features", tmp_path / "whole")
    assert loop.train(whole, None, None)
    for _ in range(20):
        part = prepared(settings(), target, tmp_path / "features", tmp_path / "part")
        if loop.train(part, None, pause_minutes=0.0):
            break
    files = [tmp_path / out / loop.LOG for out in ("whole", "part")]
    logs = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert len(logs[0]) == 7 and logs[0][-1]["heldout"] == logs[1][-1]["heldout"]
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, part.head.state_dict()[name]), name
    assert load_head(tmp_path / "part" / "head").shape == whole.head.shape
    with pytest.raises(SystemExit, match="other settings or other text"):
        prepared(settings(lr_end_share=0.5), target, tmp_path / "features", tmp_path / "part")


def test_a_head_learns_its_documents(target: Llama, features: Features, tmp_path: Path) -> None:
    run = prepared(settings(n_steps=60), target, tmp_path / "features", tmp_path / "run")
    before = training.loss_of(run, batch_of(run.stream.items, run.device))
    loop.train(run, None, None)
    after = training.loss_of(run, batch_of(run.stream.items, run.device))
    assert after.total < 0.98 * before.total


def test_an_epoch_has_each_document_once_in_an_order_of_its_own(features: Features) -> None:
    items = [(features, i) for i in range(7)]
    stream = training.DocumentStream(items, per_batch=2, seed=3)
    epochs = [[i for _ in range(3) for _, i in stream.next_items()] for _ in range(3)]
    assert all(len(set(epoch)) == 6 for epoch in epochs) and stream.epoch == 2
    assert epochs[0] != epochs[1]


def test_a_verification_keeps_the_drafts_before_the_first_mismatch() -> None:
    right = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0]]).bool()
    room = torch.tensor([7, 6, 5, 4, 3, 2, 1])
    # Two kept at start 0, so that start 3 comes next, keeps nothing, and hands over to start 4, the last whole chain.
    assert walked(right, room) == [2, 0, 3]
    alpha, _ = by_place(right, right.float(), room)
    assert alpha == pytest.approx([5 / 7, 4 / 4, 2 / 3])


def test_overlap_counts_the_whole_vocabulary(target: Llama, features: Features) -> None:
    head, embeddings = head_of(target, features), target.model.embed_tokens.weight
    batch = batch_of([(features, 3)], torch.device("cpu"))
    with torch.no_grad():
        result = judged(head, embeddings, batch)
        hidden = chain_hidden(head, embeddings[batch.tokens], batch, 1)[0]
    p = (batch.last @ embeddings.T).softmax(-1)
    q = torch.zeros_like(p)
    q[:, DRAFT_TO_TARGET] = F.linear(head.norm(hidden), head.lm_head.weight).softmax(-1)
    torch.testing.assert_close(result.overlap[:, 0], 1.0 - 0.5 * (p - q).abs().sum(-1))
    expected = q.argmax(-1) == torch.from_numpy(features.documents[3].astype(np.int64))[3:]
    assert torch.equal(result.is_right[:, 0], expected)


def record(prompt: str, domain: str, text: str = "Yes.") -> Record:
    return Record(domain, "test", "MIT", text, prompt)


def test_evaluation_prompts_are_not_asked() -> None:
    exclusion = Exclusion()
    exclusion.add("Name a river.")
    passage = "The mill by the river turned all night, and nobody knew who had filled its wheel with water. " * 30
    records = [record("Name a river.", "chat"), record("  name a RIVER", "chat"), record("Name a lake.", "chat")]
    records += [record("Name a lake!", "chat"), record("Name a hill.", "chat", passage), record("2 + 2?", "math")]
    asked = questions(records, {"chat": 9, "math": 9, "summarization": 9}, chars_max=400, seed=1)
    kept = without_repeats(asked, exclusion)
    assert sorted(item["domain"] for item in kept) == ["chat", "chat", "math", "summarization"]
    assert not any("river" in item["prompt"].casefold() for item in kept if item["domain"] == "chat")
    # A benchmark that asks for the very same summary is spotted too.
    exclusion.add(next(item["prompt"] for item in kept if item["domain"] == "summarization"))
    assert len(without_repeats(asked, exclusion)) == 3


@pytest.fixture
def chat(tmp_path: Path) -> Chat:
    """A tokenizer of bytes with a control token, and a template with a line of its own."""
    tokenizer = Tokenizer(models.BPE(vocab={chr(c): c - 32 for c in range(32, 127)} | {"\u010a": 95}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    template = "{% for m in messages %}Q:{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return Chat(tmp_path)


def test_answers_stand_behind_their_prompts(chat: Chat, tmp_path: Path) -> None:
    prompts = {"math": "1+1?", "code": "f<|end|>", "chat": "hi\u2028you"}
    asked = [{"domain": domain, "prompt": prompt} for domain, prompt in prompts.items()]
    lengths = [len(chat.tokens(prompt)) for prompt in prompts.values()]
    said = [{"index": i, "tokens": [17, 3 + i], "prompt_tokens": length} for i, length in enumerate(lengths)]
    # The engine reads a spelled control token as seven characters.
    said[1]["prompt_tokens"] += 6
    for name, lines in (("asked", asked), ("said", said)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (tmp_path / name).write_text(text, encoding="utf-8")
    documents = answered(tmp_path / "asked", tmp_path / "said", chat, prompt_len_max=100)
    assert [documents[i].tolist() for i in range(len(documents))] == [
        [*chat.tokens("1+1?"), 17, 3],
        [*chat.tokens("hi\u2028you"), 17, 5],
    ]
    assert documents.prompt_lens.tolist() == [len(documents[0]) - 2, len(documents[1]) - 2]
    assert documents.domains.tolist() == [2, 0]
    with pytest.raises(SystemExit, match="fits 0 of 3 answers"):
        answered(tmp_path / "asked", tmp_path / "said", chat, prompt_len_max=1)


def test_settings_are_checked() -> None:
    assert HeadSettings.read(Path(training.__file__).parent / "configs" / "eagle3.toml").draft_vocab_size == 8192
    with pytest.raises(ValueError, match="expected weights of at least one step"):
        replace(settings().training, step_weights=[])
    with pytest.raises(ValueError, match="heldout_share"):
        replace(settings().training, heldout_share=0.0)
