#!/usr/bin/env bash
# Builds the worker and runs its tests. No other check does: it is some 900 crates. To be run before a release, and whenever
# crates/cli/tests/suite/worker.rs had to change.
#
#   integrations/dynamo/test.sh
#
# 77: what the build needs is not here.
set -euo pipefail
cd "$(dirname "$0")"

for program in cargo protoc cmake c++; do
    if ! command -v "$program" >/dev/null; then
        echo "SKIPPED: dsde-dynamo was not built: there is no $program" >&2
        exit 77
    fi
done
cargo fmt --check
cargo test --locked
echo "dsde-dynamo: tests passed"
