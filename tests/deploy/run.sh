#!/usr/bin/env bash
# Checks the files of deploy/ as far as a machine without a cluster can.
#
# usage: tests/deploy/run.sh [DSDE]   (default: target/release/dsde, else target/debug/dsde)
# The unit needs systemd-analyze, the manifests a Python that can install packages. What is missing is not checked; if that is all of
# it, the script says so and ends with code 77.
set -euo pipefail

# shellcheck source=tests/common.sh
. "$(dirname "$0")/../common.sh"

scratch=$(mktemp -d)
trap 'kill $server 2>/dev/null; rm -rf "$scratch"' EXIT
server=
checked=0

if command -v systemd-analyze >/dev/null; then
    sed "s|/usr/local/bin/dsde|$(realpath "$dsde")|" "$root/deploy/dsde.service" >"$scratch/dsde.service"
    # It warns with code 0 about settings that it does not know.
    warnings=$(systemd-analyze verify "$scratch/dsde.service" 2>&1 | grep dsde.service || true)
    [ -z "$warnings" ] || { echo "$warnings" >&2; exit 1; }
    systemd-analyze security --offline=true --threshold=20 "$scratch/dsde.service" >"$scratch/exposure" || {
        cat "$scratch/exposure" >&2
        exit 1
    }
    tail -n 1 "$scratch/exposure"
    checked=$((checked + 1))
else
    echo "dsde.service is not checked: there is no systemd-analyze" >&2
fi

if python3 -m venv "$scratch/venv" 2>/dev/null && "$scratch/venv/bin/pip" install --quiet kubernetes-validate==1.37.0 2>/dev/null; then
    "$scratch/venv/bin/kubernetes-validate" --strict "$root/deploy/kubernetes.yaml" "$root/integrations/dynamo/kubernetes.yaml"
    checked=$((checked + 1))
else
    echo "kubernetes.yaml is not checked: kubernetes-validate cannot be installed" >&2
fi

# The options of the service's file, and the command that waits for it.
"$dsde" serve --config "$root/deploy/dsde.toml" --port 18097 2>"$scratch/log" &
server=$!
"$dsde" ready --url http://127.0.0.1:18097 --wait 60 || { cat "$scratch/log" >&2; exit 1; }

[ $checked -gt 0 ] || skip "Neither systemd-analyze nor kubernetes-validate is here; the configuration was read."
