#!/usr/bin/env bash
# Asks a small real model, with and without speculation.
#
# usage: tests/real/run.sh [DSDE]   (default: target/release/dsde, else target/debug/dsde)
# Needs what scripts/real-model needs, once. Without it nothing is checked, and the script says so and ends with code 77.
set -euo pipefail

# shellcheck source=tests/common.sh
. "$(dirname "$0")/../common.sh"

model=$("$root/scripts/real-model") || {
    code=$?
    [ $code -eq 77 ] && skip "The real model cannot be fetched."
    exit $code
}

# Without its second sentence the quantised model answers in French; so it does elsewhere.
question='What is the capital of France? Answer in one English sentence.'
answer() {
    "$dsde" generate --model "$model" --prompt "$question" --temperature 0 --max-tokens 48 --policy "$@"
}
plain=$(answer off)
speculated=$(answer auto)
with_head=$(answer fixed:k=3 --draft "$root/models/smollm2-135m-instruct-eagle3")
draft=$root/models/smollm2-135m-instruct-draft/draft-Q8_0.gguf
with_draft=$(answer dsde --draft "$draft")
case $plain in
*Paris*) ;;
*)
    echo "the capital of France is Paris, got: $plain" >&2
    exit 1
    ;;
esac
if [ "$speculated" != "$plain" ]; then
    printf 'speculation must not change the answer\n  off:  %s\n  auto: %s\n' "$plain" "$speculated" >&2
    exit 1
fi
if [ "$with_head" != "$plain" ]; then
    printf 'a draft head must not change the answer\n  off:  %s\n  head: %s\n' "$plain" "$with_head" >&2
    exit 1
fi
if [ "$with_draft" != "$plain" ]; then
    printf 'a draft model must not change the answer\n  off:   %s\n  draft: %s\n' "$plain" "$with_draft" >&2
    exit 1
fi
fit=$("$dsde" inspect --model "$model" --draft "$draft")
case $fit in
*"another vocabulary, with 16384 of the model's tokens"*"fits the model"*) ;;
*)
    echo "the draft model must share its 16384 tokens with its target, got: $fit" >&2
    exit 1
    ;;
esac
accepted=$("$dsde" generate --model "$model" --prompt "$question" --temperature 0 --max-tokens 48 --policy fixed:k=3 --draft "$draft" \
    --json | python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["accepted"])')
if [ "$accepted" -eq 0 ]; then
    echo "none of the tokens that the draft model guessed were accepted" >&2
    exit 1
fi
echo "$plain"
