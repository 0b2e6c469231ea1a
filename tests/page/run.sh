#!/usr/bin/env bash
# Drives the page of `dsde serve` in a headless Chromium.
#
# usage: tests/page/run.sh [DSDE]   (default: target/release/dsde, else target/debug/dsde)
# Needs node, npm with a package index for the first run, and Chromium (DSDE_CHROMIUM names one; else it is looked for, and
# installed with apt-get where that is possible). Without them nothing is checked, and the script says so and ends with code 77.
set -euo pipefail

# shellcheck source=tests/common.sh
. "$(dirname "$0")/../common.sh"
modules=${DSDE_PAGE_MODULES:-$root/target/page-tests}

browser() { command -v "${DSDE_CHROMIUM:-chromium}" || command -v chromium-browser || command -v google-chrome; }
if ! browser >/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || true
fi
browser >/dev/null || skip "There is no Chromium."
command -v npm >/dev/null || skip "There is no npm."

mkdir -p "$modules"
if ! cmp -s "$here/package-lock.json" "$modules/package-lock.json" || [ ! -d "$modules/node_modules" ]; then
    cp "$here/package.json" "$here/package-lock.json" "$modules/"
    if ! npm ci --prefix "$modules" --ignore-scripts --no-audit --no-fund --silent; then
        rm -f "$modules/package-lock.json"
        skip "The packages of $here/package-lock.json cannot be installed."
    fi
fi
DSDE=$dsde DSDE_CHROMIUM=$(browser) DSDE_PAGE_MODULES=$modules \
    node --test --test-concurrency=1 --test-timeout=300000 "$here/page.test.mjs"
