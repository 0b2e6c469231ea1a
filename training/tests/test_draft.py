"""A small draft made of its target: its vocabulary, its first weights, its loss, its files, and resuming."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from some_features import seeded_target, write_features
from tokenizers import Tokenizer
from torch.nn import functional as F

import draft_export
import draft_full
import draft_train as training
import gguf_file
import loop
from data import Documents
from draft_evaluate import Judge, clamped_kld, loaded, tables
from draft_fresh import channels, fresh_draft, neurons, stream_sizes
from draft_settings import DraftSettings, DraftShape, DraftTraining
from draft_vocabulary import Vocabulary, chosen, counts, reads_of, reduced
from eagle3_features import Features, load_features, write_streams
from model import Llama, Shape

# Three specials, four letters, and what is merged from them; one more special behind.
TEXTS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "c", "d", "ab", "cd", "abc", "abcd", "bc", "<x>"]
MERGES = [["a", "b"], ["c", "d"], ["ab", "c"], ["ab", "cd"], ["b", "c"]]
SPECIAL_IDS = [0, 1, 2, 12]

SHAPE = Shape(
    vocab_size=13, hidden_size=16, n_layers=7, n_heads=4, n_kv_heads=2, head_dim=4, ff_size=24, context_len=64
)


def tokenizer_json() -> dict:
    added = [
        {"id": i, "content": TEXTS[i], "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i in SPECIAL_IDS
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {text: i for i, text in enumerate(TEXTS)}, "merges": MERGES},
    }


@pytest.fixture
def target() -> Llama:
    return seeded_target(SHAPE)


@pytest.fixture
def folder(target: Llama, tmp_path: Path) -> Path:
    """Features of answered prompts, and the target's tokenizer."""
    write_features(target, tmp_path / "features")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    (tmp_path / "target" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}', encoding="utf-8")
    return tmp_path


@pytest.fixture
def features(folder: Path) -> Features:
    return load_features(folder / "features" / "part-00.npz", SHAPE.hidden_size)


def weights_of(**weights: float) -> np.ndarray:
    return np.array([weights.get(text, 0.0) for text in TEXTS])


def test_a_vocabulary_has_what_its_tokens_are_merged_from() -> None:
    # `abcd` is `ab` and `cd`: with three specials and four letters that makes ten, and then `abc` is next.
    weights = weights_of(abcd=5.0, abc=1.0)
    assert chosen(tokenizer_json(), weights, 10) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert chosen(tokenizer_json(), weights, 11) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    # One place is too little for `abcd`, and enough for `bc`.
    assert chosen(tokenizer_json(), weights_of(abcd=5.0, bc=1.0), 8) == [0, 1, 2, 3, 4, 5, 6, 11]
    with pytest.raises(SystemExit, match="expected a tokenizer of more than 13 tokens that text is made of, got 12"):
        chosen(tokenizer_json(), weights, 13)


def test_what_the_target_says_counts_more_than_what_it_reads() -> None:
    documents = Documents.collect([np.array([3, 3, 3, 4, 5], dtype=np.uint16)], [4], [0])
    weights = counts([documents], 13)
    prior = counts([], 13)
    assert (weights - prior)[[3, 4, 5]] == pytest.approx([0.3, 0.1, 1.0])
    assert (np.diff(prior) < 0).all()


def test_a_reduced_tokenizer_writes_the_same_text_with_fewer_tokens() -> None:
    kept = [0, 1, 2, 3, 4, 5, 6, 7, 9]
    whole, part = (Tokenizer.from_str(json.dumps(t)) for t in (tokenizer_json(), reduced(tokenizer_json(), kept)))
    assert [whole.id_to_token(i) for i in whole.encode("abcd").ids] == ["abcd"]
    assert [part.id_to_token(i) for i in part.encode("abcd<|im_end|>").ids] == ["abc", "d", "<|im_end|>"]
    assert part.get_vocab_size() == len(kept) and part.token_to_id("abc") == 8


def test_a_token_that_the_draft_lacks_is_read_as_its_longest_end() -> None:
    tokenizer = tokenizer_json()
    tokenizer["model"]["vocab"][">"] = 13
    reads = reads_of(tokenizer, [0, 1, 2, 3, 4, 5, 6, 8, 11, 13], 15)
    # ab -> b, abc -> bc, abcd -> cd; of the special <x> the bracket; the id 14 has no token.
    assert reads.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 7, 8, 7, 8, 9, 9, 0]


def draft_of(target: Llama, features: Features, size: int, layers: list[int], ff_size: int = 24) -> Llama:
    return fresh_draft(target, torch.arange(13), torch.ones(13), layers, size, ff_size, features)


def test_a_draft_with_all_channels_begins_as_layers_of_its_target(target: Llama, features: Features) -> None:
    with torch.no_grad():
        for norm in (target.model.layers[0].input_layernorm, target.model.layers[1].post_attention_layernorm):
            norm.weight.uniform_(0.5, 1.5)
    draft = draft_of(target, features, 16, [0, 1])
    tokens = torch.tensor([[1, 7, 3, 12, 9, 4, 4]])
    backbone = target.model
    x = backbone.embed_tokens(tokens)
    for layer in backbone.layers[:2]:
        x = layer(x, backbone.cos[:7], backbone.sin[:7], None, None)
    # The final norm differs, in size and in that it has one weight for all channels.
    expected = F.rms_norm(x, (16,), eps=1e-5) * draft.model.norm.weight
    torch.testing.assert_close(draft.model(tokens), expected, rtol=1e-4, atol=1e-5)


def test_fewer_channels_are_those_in_which_the_embeddings_differ_most(target: Llama, features: Features) -> None:
    with torch.no_grad():
        # Embeddings of four channels, hidden in sixteen.
        turned = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1))).Q[:, :4]
        target.model.embed_tokens.weight.copy_(
            torch.randn(13, 4, generator=torch.Generator().manual_seed(2)) @ turned.T
        )
    to_draft = channels(target.model.embed_tokens.weight, torch.ones(13), 4)
    torch.testing.assert_close(to_draft.T @ to_draft, torch.eye(4), rtol=0.0, atol=1e-5)
    draft = draft_of(target, features, 4, [0], ff_size=12)
    own, whole = draft.model.embed_tokens.weight, target.model.embed_tokens.weight
    torch.testing.assert_close(own @ own.T, whole @ whole.T, rtol=1e-4, atol=1e-4)
    # What its first layer asks for is what the target's asks for: the norm of all channels is that of the four.
    queries = [
        model.model.layers[0].self_attn.q_proj(model.model.layers[0].input_layernorm(model.model.embed_tokens.weight))
        for model in (draft, target)
    ]
    torch.testing.assert_close(*queries, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="expected 1..16 channels, got 17"):
        channels(whole, torch.ones(13), 17)
    with pytest.raises(ValueError, match=r"layers of the target in 0..6, got \[0, 7\]"):
        draft_of(target, features, 4, [0, 7])
    with pytest.raises(ValueError, match="feed-forward width of 1..24, got 25"):
        draft_of(target, features, 4, [0], ff_size=25)


def test_a_narrow_feed_forward_keeps_what_can_say_most(target: Llama) -> None:
    layer = target.model.layers[0]
    with torch.no_grad():
        layer.mlp.down_proj.weight[:, [3, 20]] *= 100.0
    assert neurons(layer, 2).tolist() == [3, 20]


def test_sizes_of_streams_leave_out_the_first_token(target: Llama, features: Features) -> None:
    embeddings = target.model.embed_tokens.weight
    with torch.no_grad():
        sizes = stream_sizes(target, features)
        squares = [
            embeddings[torch.from_numpy(features.documents[i][1:].astype("int64"))].square().mean() for i in range(7)
        ]
    assert len(sizes) == 7
    assert sizes[0] == pytest.approx(float(torch.stack(squares).mean().sqrt()), rel=1e-5)


def settings(**changes) -> DraftSettings:
    some = DraftTraining(
        documents_per_step=3, n_steps=7, lr_max=1e-2, warmup_steps=2, prompt_weight=0.5, heldout_share=0.2
    )
    shape = DraftShape(vocab_size=11, hidden_size=8, ff_size=12, layers=[0, 6])
    return DraftSettings(seed=1, shape=shape, training=replace(some, **changes))


def prepared(some: DraftSettings, target: Llama, folder: Path, out: str) -> training.DraftRun:
    (folder / out).mkdir(exist_ok=True)
    args = argparse.Namespace(target=folder / "target", features=folder / "features", out=folder / out, bf16=False)
    return training.prepared(args, some, target)


def test_the_loss_is_the_plain_cross_entropy(target: Llama, folder: Path, features: Features) -> None:
    run = prepared(settings(), target, folder, "run")
    items = [(features, i) for i in range(6)]
    loss, _ = run.loss(training.places_of(items, run.vocabulary.reads, 0.5))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in run.draft.named_parameters()}
    run.draft.zero_grad()

    total, weight = torch.zeros(()), 0.0
    for _, i in items:
        tokens = torch.from_numpy(features.documents[i].astype(np.int64))
        logits = run.draft(run.vocabulary.reads[tokens][None])[0]
        for place in range(1, len(tokens) - 1):
            wanted = (features.of(i)[place, -1].float() @ run.output_rows.T).softmax(-1)
            counted = 1.0 if place + 1 >= features.documents.prompt_lens[i] else 0.5
            total, weight = total + counted * F.cross_entropy(logits[place], wanted), weight + counted
    expected = total / weight
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in run.draft.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_without_prompts_only_answers_count(features: Features) -> None:
    places = training.places_of([(features, i) for i in range(7)], torch.arange(13), 0.0)
    n_answers = sum(len(features.documents[i]) - int(features.documents.prompt_lens[i]) for i in range(7))
    assert len(places.weights) == n_answers and bool(places.is_answer.all()) and bool((places.weights == 1.0).all())
    # Two groups, of four and of three documents.
    assert [len(group) for group in places.tokens] == [4, 3]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(target: Llama, folder: Path) -> None:
    whole = prepared(settings(), target, folder, "whole")
    assert loop.train(whole, None, None)
    for _ in range(20):
        part = prepared(settings(), target, folder, "part")
        if loop.train(part, None, pause_minutes=0.0):
            break
    logs = [
        [json.loads(line) for line in (folder / out / loop.LOG).read_text().splitlines()] for out in ("whole", "part")
    ]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert len(logs[0]) == 7 and logs[0][-1]["heldout"] == logs[1][-1]["heldout"]
    for name, tensor in whole.draft.state_dict().items():
        assert torch.equal(tensor, part.draft.state_dict()[name]), name
    with pytest.raises(SystemExit, match="other settings or other text"):
        prepared(settings(lr_end_share=0.5), target, folder, "part")


def test_a_draft_learns_its_documents(target: Llama, folder: Path) -> None:
    run = prepared(settings(n_steps=60), target, folder, "run")
    places = training.places_of(run.stream.items, run.vocabulary.reads, 0.5)
    before = float(run.loss(places)[0].detach())
    loop.train(run, None, None)
    assert float(run.loss(places)[0].detach()) < 0.95 * before


def judge_of(target: Llama, draft: Llama, vocabulary: Vocabulary, temperature: int) -> Judge:
    generator = torch.Generator().manual_seed(4)
    return Judge(draft, vocabulary, target.model.embed_tokens.weight, temperature, generator)


@torch.no_grad()
def test_a_draft_equal_to_its_target_is_always_right(target: Llama, tmp_path: Path) -> None:
    # A greedy answer of the target to three tokens.
    tokens = [4, 9, 3]
    for _ in range(12):
        tokens.append(int(target(torch.tensor([tokens]))[0, -1].argmax()))
    documents = Documents.collect([np.array(tokens, dtype=np.uint16)], [3], [0])
    documents.save(tmp_path / "chat.npz")
    write_streams(target, documents, tmp_path / "chat.hidden", rows=1)
    features = load_features(tmp_path / "chat.npz", SHAPE.hidden_size)
    everything = Vocabulary(torch.arange(13), torch.arange(13))
    for temperature in (0, 1):
        found = judge_of(target, target, everything, temperature).figures(features)
        assert (found.speculation.acceptance_rate, found.covered, found.n_tokens) == (1.0, 1.0, 12)
        # The stored states are bf16.
        assert found.divergence.overlap_mean > 0.98 and found.divergence.kld_mean < 0.01
    # Three whole chains: nothing else was kept, and the run goes to the end.
    assert "| chat | 1 | 3.00 | 1.000 | 0.000 | 0.000 | 0.000 | 1.000 | 12.00 |" in tables({"1": {"chat": found}})


def test_a_token_that_the_draft_lacks_counts_in_the_divergence() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    # 0.5 ln 0.5 + 0.5 ln(0.5 / 1e-8) = -0.3466 + 8.8639; the third is clamped in both.
    assert math.isclose(float(clamped_kld(p, q)), 8.5172, abs_tol=1e-3)


def test_the_file_has_the_reduced_tokenizer(target: Llama, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(settings(n_steps=3), target, folder, "run")
    loop.train(run, None, None)
    draft, vocabulary = loaded(folder / "run", folder / "target", 13)
    assert torch.equal(vocabulary.draft_to_target, run.vocabulary.draft_to_target)
    assert torch.equal(vocabulary.reads, run.vocabulary.reads) and draft.shape == run.draft.shape

    argv = ["x", "--run", folder / "run", "--target", folder / "target", "--type", "f32", "--name", "test"]
    monkeypatch.setattr("sys.argv", [*map(str, argv), "--out", str(folder / "m.gguf")])
    draft_export.main()
    reader = gguf.GGUFReader(folder / "m.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["tokenizer.ggml.tokens"] == [TEXTS[i] for i in vocabulary.draft_to_target]
    assert fields["tokenizer.ggml.pre"] == "smollm" and fields["tokenizer.chat_template"] == "{{ messages }}"
    stored = {tensor.name: tensor for tensor in reader.tensors}["blk.1.attn_q.weight"]
    wanted = gguf_file.interleaved(draft.state_dict()["model.layers.1.self_attn.q_proj.weight"].numpy(), 4)
    assert np.array_equal(stored.data, wanted)


KEPT = [0, 1, 2, 3, 4, 5, 6, 8, 9]


def small_draft() -> Llama:
    """Of the tokens KEPT, with streams that lie far from zero."""
    draft = seeded_target(replace(SHAPE, vocab_size=len(KEPT), n_layers=2))
    for layer in draft.model.layers:
        layer.mlp.down_proj.weight.mul_(50.0)
        layer.input_layernorm.weight.uniform_(0.5, 1.5)
    draft.model.norm.weight.uniform_(0.5, 1.5)
    return draft


def test_with_all_tokens_of_its_target_a_draft_thinks_the_same() -> None:
    draft, reads = small_draft(), reads_of(tokenizer_json(), KEPT, 15)
    changes, weights = draft_full.full(draft, KEPT, reads)
    head = weights.pop("lm_head.weight")
    assert changes["hidden_size"] == 24 and not changes["tie_word_embeddings"]
    shape = replace(SHAPE, vocab_size=15, n_layers=2, hidden_size=24, norm_eps=changes["rms_norm_eps"])
    whole = Llama(shape).eval().requires_grad_(False)
    whole.load_state_dict(weights)
    tokens = torch.randint(13, (8, 40), generator=torch.Generator().manual_seed(6))
    logits, expected = whole.model(tokens) @ head.T, draft(reads[tokens])
    torch.testing.assert_close(logits[..., KEPT], expected, rtol=1e-4, atol=1e-4)
    lacking = [token for token in range(15) if token not in KEPT]
    assert bool((logits[..., lacking].amax(-1) < expected.amin(-1) - 100).all())


def test_the_folder_with_all_tokens_is_one_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    draft, tokenizer = small_draft(), tokenizer_json()
    for name, content in (("tokenizer", tokenizer), ("tokenizer_config", {}), ("config", {"vocab_size": 15})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "tokenizer.json").write_text(json.dumps(reduced(tokenizer, KEPT)), encoding="utf-8")
    gguf_file.write(draft, tmp_path / "own", tmp_path / "m.gguf", "f32", "test")
    argv = ["x", "--draft", tmp_path / "m.gguf", "--target", tmp_path, "--out", tmp_path / "out"]
    monkeypatch.setattr("sys.argv", list(map(str, argv)))
    draft_full.main()

    whole = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    tokens = torch.randint(13, (4, 30), generator=torch.Generator().manual_seed(6))
    got = whole(tokens).logits.detach().softmax(-1)
    expected = torch.zeros_like(got)
    expected[..., KEPT] = draft(reads_of(tokenizer, KEPT, 15)[tokens]).softmax(-1)
    # The stored weights are bf16.
    assert float((got - expected).abs().sum(-1).max()) < 0.1 and float(got[..., [7, 10, 11, 12]].max()) < 1e-8

    (tmp_path / "tokenizer.json").write_text(json.dumps(reduced(tokenizer, KEPT[:-1])), encoding="utf-8")
    with pytest.raises(SystemExit, match="expected tokens of the target alone, got 1 others, the first 'abc'"):
        draft_full.main()


def test_misspelt_and_impossible_settings_are_refused(tmp_path: Path) -> None:
    text = (Path(training.__file__).parent / "configs" / "smollm2-draft.toml").read_text(encoding="utf-8")
    (tmp_path / "right.toml").write_text(text, encoding="utf-8")
    assert DraftSettings.read(tmp_path / "right.toml").shape.vocab_size == 16384
    (tmp_path / "wrong.toml").write_text(text.replace("lr_max", "lr_maximum"), encoding="utf-8")
    with pytest.raises(ValueError, match="lr_maximum"):
        DraftSettings.read(tmp_path / "wrong.toml")
    with pytest.raises(ValueError, match="prompt_weight must lie in 0..1, got 2.0"):
        settings(prompt_weight=2.0)
