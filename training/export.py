"""Stage 8: a trained run as a Hugging Face folder (bf16) and as a GGUF file."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import checkpoint
import gguf_file
from model import Llama
from tokenizer import END_OF_TEXT, FILES, TURN_END


def hf_config(model: Llama, end_id: int, pad_id: int) -> dict[str, Any]:
    """config.json of the folder."""
    shape = model.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ff_size,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.context_len,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "torch_dtype": "bfloat16",
        "initializer_range": 0.02,
    }


def write_hf(model: Llama, tokenizer_dir: Path, out: Path) -> None:
    """Weights, configuration and tokenizer; loads with transformers and with DSDE."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    if tokenizer.get_vocab_size() != model.shape.vocab_size:
        raise SystemExit(f"expected a tokenizer of {model.shape.vocab_size} tokens, got {tokenizer.get_vocab_size()}")
    config = hf_config(model, tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT))
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in FILES:
        shutil.copyfile(tokenizer_dir / name, out / name)
    weights = {name: weight.to(torch.bfloat16).contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run or model folder")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the Hugging Face folder")
    parser.add_argument("--gguf", type=Path, metavar="FILE.gguf", help="also write a GGUF file")
    parser.add_argument("--gguf-type", choices=sorted(gguf_file.TYPES), default="bf16")
    parser.add_argument("--name", default="dsde-demo", help="general.name of the GGUF file")
    args = parser.parse_args()

    model = checkpoint.load_model(args.run, torch.device("cpu"))
    write_hf(model, args.tokenizer, args.out)
    print(f"{model.n_parameters} parameters in {args.out}")
    if args.gguf:
        gguf_file.write(model, args.tokenizer, args.gguf, args.gguf_type, args.name)
        print(f"{args.gguf_type} in {args.gguf}")


if __name__ == "__main__":
    main()
