#!/usr/bin/env bash
# A frontend and workers on this machine, on loopback alone, until Ctrl-C; no containers, no etcd, no NATS.
#
#   integrations/dynamo/start.sh [N_WORKERS] [OPTION_OF_DSDE_DYNAMO ...]
#   integrations/dynamo/start.sh 2 --model ./Qwen3-0.6B --threads 2
#
# Without options the embedded pair is served. PORT=8000 is the frontend's, ROUTER=kv its router's mode; DYNAMO_VENV=FOLDER has the
# frontend (e2e.sh installs one), DSDE_DYNAMO=FILE is the worker. Workers answer /health and /metrics on ports from SYSTEM_PORT=9345 on.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
n_workers=${1:-2}
shift || true
[ $# -gt 0 ] || set -- --model "$here/../../models/target" --draft "$here/../../models/draft"
venv=${DYNAMO_VENV:-$here/target/venv}
worker=${DSDE_DYNAMO:-${CARGO_TARGET_DIR:-$here/target}/release/dsde-dynamo}
set -a
# shellcheck source=loopback.env
. "$here/loopback.env"
set +a
DYN_FILE_KV=$(mktemp -d)
export DYN_FILE_KV
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$DYN_FILE_KV"' EXIT
for i in $(seq 0 $((n_workers - 1))); do
    DYN_SYSTEM_PORT=$((${SYSTEM_PORT:-9345} + i)) "$worker" "$@" &
done
"$venv/bin/python" -m dynamo.frontend --http-port "${PORT:-8000}" --router-mode "${ROUTER:-kv}" --migration-limit 3 &
# Whoever ends first ends all.
wait -n
