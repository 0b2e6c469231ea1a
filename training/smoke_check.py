"""The claims of smoke.sh: loss falls, resuming is exact, the exported folder and the GGUF file hold the model."""

import argparse
import json
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import torch

import checkpoint
from model import load_folder

# The last loss must be below this share of the first one.
FALL_SHARE = 0.5


def losses(run: Path) -> list[float]:
    """Loss of each step of a run."""
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def check_fall(run: Path) -> None:
    values = losses(run)
    assert values[-1] < FALL_SHARE * values[0], f"{run.name}: loss went from {values[0]} to {values[-1]}"
    print(f"{run.name}: loss {values[0]:.3f} -> {values[-1]:.3f}")


def check_resume(whole: Path, resumed: Path, tolerance: float) -> None:
    """Equal losses and weights; with a tolerance (CUDA adds in no fixed order), losses only."""
    differences = [abs(a - b) for a, b in zip(losses(whole), losses(resumed), strict=True)]
    assert max(differences) <= tolerance, f"the resumed run has other losses: they differ by {max(differences)}"
    print(f"resume: {len(differences)} losses, largest difference {max(differences):.1e}")
    if tolerance > 0:
        return
    first, second = checkpoint.load(whole)["model"], checkpoint.load(resumed)["model"]
    assert all(torch.equal(first[name], second[name]) for name in first), "the resumed run has other weights"
    print("resume: equal weights")


def check_folder(folder: Path) -> None:
    """Our logits from the folder's bf16 weights against transformers', both computed in f32."""
    if find_spec("transformers") is None:
        print("folder: transformers is not installed, logits not compared")
        return
    from transformers import AutoTokenizer, LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where?"}], tokenize=False, add_generation_prompt=True
    )
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        difference = (reference(tokens).logits - load_folder(folder)(tokens)).abs().max().item()
    assert difference < 1e-4, f"logits differ by {difference}"
    print(f"folder: largest difference to transformers {difference:.1e} over {tokens.shape[1]} tokens")


def check_gguf(path: Path, folder: Path) -> None:
    reader = gguf.GGUFReader(path)
    shape = load_folder(folder).shape
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == 2 + 9 * shape.n_layers, f"got {len(tensors)} tensors"
    assert reader.fields["llama.block_count"].contents() == shape.n_layers
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == shape.vocab_size
    embedding = tensors["token_embd.weight"]
    stored = gguf.quants.dequantize(embedding.data, embedding.tensor_type)
    expected = load_folder(folder).model.embed_tokens.weight.detach().numpy()
    # Q8_0 has 127 steps to the largest value of a block; bf16 rounds the expected values by 1 / 256 of themselves.
    tolerance = np.abs(expected).max() * (0.5 / 127 + 1 / 256)
    assert np.abs(stored - expected).max() <= tolerance, "the embedding differs"
    print(f"gguf: {len(tensors)} tensors, embedding within {tolerance:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder smoke.sh wrote")
    parser.add_argument("--resume-tolerance", type=float, default=0.0, help="nats")
    args = parser.parse_args()
    root = args.root
    for name in ("target", "draft"):
        check_fall(root / "runs" / name)
        check_folder(root / "export" / name)
        check_gguf(root / "export" / f"{name}.gguf", root / "export" / name)
    check_resume(root / "runs" / "target", root / "runs" / "target-resumed", args.resume_tolerance)


if __name__ == "__main__":
    main()
