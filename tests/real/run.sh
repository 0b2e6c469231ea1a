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
echo "$plain"
