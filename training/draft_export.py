"""A trained draft as one GGUF file, with a tokenizer of its own that the engine matches with the target's."""

import argparse
import json
import tempfile
from pathlib import Path

import torch

import checkpoint
import gguf_file
from draft_vocabulary import reduced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder of draft_train.py")
    parser.add_argument("--target", type=Path, required=True, help="Hugging Face folder of the target")
    parser.add_argument("--split", default="smollm", help="llama.cpp's name of the split pattern of the target")
    parser.add_argument("--type", choices=sorted(gguf_file.TYPES), default="q8_0")
    parser.add_argument("--name", required=True, help="general.name of the file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.gguf")
    args = parser.parse_args()

    model = checkpoint.load_model(args.run, torch.device("cpu"))
    kept = checkpoint.load(args.run)["draft_to_target"].tolist()
    tokenizer = json.loads((args.target / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((args.target / "tokenizer_config.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        text = json.dumps(reduced(tokenizer, kept), ensure_ascii=False)
        (Path(scratch) / "tokenizer.json").write_text(text, encoding="utf-8")
        kind = gguf_file.TextKind(args.split, config["chat_template"])
        gguf_file.write(model, Path(scratch), args.out, args.type, args.name, kind)
    print(f"{model.n_parameters} parameters, {len(kept)} tokens: {args.out}, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
