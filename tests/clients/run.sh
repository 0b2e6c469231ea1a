#!/usr/bin/env bash
# Drives `dsde serve` with the official OpenAI clients for Python and, where npm is installed, for Node.
#
# usage: tests/clients/run.sh [DSDE]   (default: target/release/dsde, else target/debug/dsde)
# Needs python3 with venv, and a package index for the first run. Without them nothing is checked, and the script says so and
# ends with code 77.
set -euo pipefail

# shellcheck source=tests/common.sh
. "$(dirname "$0")/../common.sh"
venv=${DSDE_CLIENTS_VENV:-$root/target/clients-venv}

if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import openai' 2>/dev/null; then
    if ! { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet -r "$here/requirements.txt"; }; then
        skip "The packages of $here/requirements.txt cannot be installed."
    fi
fi

node_place=${DSDE_CLIENTS_NODE:-$root/target/clients-node}
has_node=false
if command -v npm >/dev/null; then
    mkdir -p "$node_place"
    cp "$here/package.json" "$here/openai.test.mjs" "$node_place"
    if npm install --prefix "$node_place" --no-audit --no-fund --silent; then
        has_node=true
    else
        echo "the packages of $here/package.json cannot be installed; the Node client is left out" >&2
    fi
fi

log=$(mktemp)
"$dsde" serve --port 0 --api-key test-key 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
url=
for _ in $(seq 300); do
    url=$(sed -n 's/^ready: //p' "$log")
    if [ -n "$url" ] || ! kill -0 "$server" 2>/dev/null; then break; fi
    sleep 0.1
done
if [ -z "$url" ]; then
    cat "$log" >&2
    exit 1
fi
PYTHONDONTWRITEBYTECODE=1 DSDE_URL=$url DSDE_KEY=test-key "$venv/bin/python" "$here/test_openai.py" -v
if $has_node; then
    (cd "$node_place" && DSDE_URL=$url DSDE_KEY=test-key node --test openai.test.mjs)
fi
