#!/usr/bin/env bash
# All stages on generated text with two-layer models, then the checks of smoke_check.py.
# Usage: smoke.sh [folder]
# Environment: PYTHON (default python3), THREADS (default 1), CONFIG (default configs/smoke.toml), DEVICE (default cpu),
# TOLERANCE of the resumed losses (default 0). On a GPU: CONFIG=configs/smoke-gpu.toml DEVICE=cuda TOLERANCE=0.05
set -euo pipefail
cd "$(dirname "$0")"
root="${1:-$(mktemp -d)}"
python="${PYTHON:-python3}"
run="--threads ${THREADS:-1} --device ${DEVICE:-cpu}"
config="--config ${CONFIG:-configs/smoke.toml}"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
rm -rf "$root/corpus" "$root/tokenizer" "$root/data" "$root/runs" "$root/export"

"$python" corpus.py --synthetic 400 --heldout-share 0.1 --xz --out "$root/corpus"
"$python" tokenizer.py --corpus "$root/corpus" --vocab-size 448 --context-len 256 --out "$root/tokenizer"
"$python" encode.py --corpus "$root/corpus" --tokenizer "$root/tokenizer" --out "$root/data"

target() { "$python" train.py $config --role target --data "$root/data" $run "$@"; }
target --out "$root/runs/target"
# The same run, stopped after its first step and continued.
status=0
target --out "$root/runs/target-resumed" --pause-minutes 0 || status=$?
[ "$status" -eq 3 ] || { echo "expected exit status 3 of a paused run, got $status"; exit 1; }
target --out "$root/runs/target-resumed" >"$root/runs/resumed.log"

"$python" sample.py $config --model "$root/runs/target" --data "$root/data" --tokenizer "$root/tokenizer" \
    --out "$root/data/samples.npz" $run
"$python" train.py $config --role draft --data "$root/data" --teacher "$root/runs/target" \
    --samples "$root/data/samples.npz" --out "$root/runs/draft" $run
for name in target draft; do
    "$python" export.py --run "$root/runs/$name" --tokenizer "$root/tokenizer" --out "$root/export/$name" \
        --gguf "$root/export/$name.gguf" --gguf-type q8_0
done
"$python" evaluate.py $config --target "$root/export/target" --draft "$root/export/draft" --data "$root/data" \
    --tokenizer "$root/tokenizer" --manifest "$root/corpus/manifest.json" --out "$root/export" $run >"$root/runs/card.log"
"$python" smoke_check.py "$root" --resume-tolerance "${TOLERANCE:-0}"
echo "smoke run passed: $root"
