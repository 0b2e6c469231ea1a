#!/usr/bin/env bash
# Runs workers behind the real frontend of Dynamo on this machine's loopback: answers, routing, and one of two workers gone.
#
#   integrations/dynamo/e2e.sh [OUT]
#
# OUT: a folder for logs, which must not exist. DYNAMO_VENV=FOLDER keeps the environment (330 MB, Python 3.11 or newer). DSDE_DYNAMO=FILE
# is a built `dsde-dynamo`; without it one is built, for which README.md says what is needed. MODEL and DRAFT are folders, by
# default those of the embedded pair.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$here/target/e2e/$(date +%s)}
venv=${DYNAMO_VENV:-$here/target/venv}
version=1.6.1

if ! "$venv/bin/python" -c 'import dynamo.frontend, aiohttp' 2>/dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "ai-dynamo-runtime==$version"
    # It names a package that PyPI does not have; the frontend needs of its dependencies only what follows.
    "$venv/bin/pip" install --quiet --no-deps "ai-dynamo==$version"
    "$venv/bin/pip" install --quiet 'aiohttp>=3.14' 'msgspec>=0.19' packaging pyyaml 'zstandard<1.0'
fi
if [ -z "${DSDE_DYNAMO:-}" ]; then
    cargo build --manifest-path "$here/Cargo.toml" --release --locked
    DSDE_DYNAMO=${CARGO_TARGET_DIR:-$here/target}/release/dsde-dynamo
fi
set -a
# shellcheck source=loopback.env
. "$here/loopback.env"
set +a
# A worker has as long as it needs for requests in flight, in debug builds, too.
export DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT=${DYN_WORKER_GRACEFUL_SHUTDOWN_TIMEOUT:-120}
PYTHONPATH=$here/e2e "$venv/bin/python" "$here/e2e/checks.py" "$DSDE_DYNAMO" "${MODEL:-$root/models/target}" "${DRAFT:-$root/models/draft}" "$out"
