#!/usr/bin/env bash
# Builds the wheel and runs the tests that need no vLLM. Needs Rust, and Python 3.10 or newer with pip.
#
#   integrations/vllm/test.sh
#
# 77: the packages cannot be installed here.
set -uo pipefail
cd "$(dirname "$0")"
venv=${DSDE_VLLM_VENV:-target/venv}

skip() {
    echo "SKIPPED: dsde-vllm was not tested: $1" >&2
    exit 77
}

command -v python3 >/dev/null || skip "there is no python3"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skip "python3 is older than 3.10"
[ -x "$venv/bin/python" ] || python3 -m venv "$venv" || skip "python3 cannot make a virtual environment"
"$venv/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.7,<2' 'numpy>=1.24' 'pytest>=8' 'mypy>=1.11' \
    || skip "pip cannot install maturin, numpy, pytest and mypy"

set -e
cargo fmt --check
PYO3_PYTHON="$PWD/$venv/bin/python" cargo clippy --locked --all-targets -- --deny warnings
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$venv/bin/maturin" build --locked --quiet --interpreter "$venv/bin/python" --out "$wheels"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl
"$venv/bin/python" -m pytest --quiet
"$venv/bin/python" examples/equations.py >/dev/null
"$venv/bin/mypy" --strict --ignore-missing-imports python/dsde examples
echo "dsde-vllm: tests passed"
