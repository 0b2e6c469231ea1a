"""A draft model out of a target: its first layers, its embeddings and its head; nothing is trained.

    python truncate.py TARGET DRAFT LAYERS

What comes out guesses badly, since the layers that are left were never meant to be the last. It is a draft model in every other way.
"""

import json
import re
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

target, draft, n_layers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
draft.mkdir(parents=True, exist_ok=True)
for file in target.glob("*.json"):
    shutil.copy(file, draft / file.name)
config = json.loads((target / "config.json").read_text())
(draft / "config.json").write_text(json.dumps(config | {"num_hidden_layers": n_layers}))
tensors = load_file(target / "model.safetensors")
layer = re.compile(r"model\.layers\.(\d+)\.")
kept = {name: t for name, t in tensors.items() if not (found := layer.match(name)) or int(found[1]) < n_layers}
save_file(kept, draft / "model.safetensors", {"format": "pt"})
