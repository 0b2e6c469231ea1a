#!/usr/bin/env bash
# Drives `dsde serve` with the official OpenAI clients for Python and, where npm is installed, for Node; with requests as coding
# agents send them; and with LiteLLM and LangChain.
#
# usage: tests/clients/run.sh [DSDE]   (default: target/release/dsde, else target/debug/dsde)
# Needs python3 with venv, and a package index for the first run. Without them nothing is checked, and without the packages of
# LiteLLM and LangChain these are not; the script says so and ends with code 77.
set -euo pipefail

# shellcheck source=tests/common.sh
. "$(dirname "$0")/../common.sh"
venv=${DSDE_CLIENTS_VENV:-$root/target/clients-venv}

# Installs a list of packages, once per content of the list.
install_packages() {
    local list=$here/$1 installed=$venv/$1
    cmp -s "$list" "$installed" && return
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || return
    "$venv/bin/pip" install --quiet -r "$list" && cp "$list" "$installed"
}

if ! install_packages requirements.txt; then
    skip "The packages of $here/requirements.txt cannot be installed."
fi
has_frameworks=false
if install_packages requirements-frameworks.txt; then has_frameworks=true; fi

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
# Runs the tests of a file of Python.
check() {
    PYTHONDONTWRITEBYTECODE=1 DSDE_URL=$url DSDE_KEY=test-key "$venv/bin/python" "$here/$1" -v
}
check test_openai.py
check test_agents.py
if $has_node; then
    (cd "$node_place" && DSDE_URL=$url DSDE_KEY=test-key node --test openai.test.mjs)
fi
if ! $has_frameworks; then
    echo "SKIPPED: LITELLM AND LANGCHAIN WERE NOT CHECKED." \
        "The packages of $here/requirements-frameworks.txt cannot be installed." >&2
    exit 77
fi
check test_frameworks.py
