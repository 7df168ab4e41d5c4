#!/usr/bin/env bash
# The demo as a user starts it; its exit code is the audit's verdict: 0, or 1 when a law does not hold.
# ci/demo.sh [ARGUMENTS OF skald demo], by default 1,000 orders on seed 1.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -gt 0 ] || set -- --orders 1000 --seed 1
code=0
# Word for word what README says, but for what .ci/run has built.
if [ -n "${SKALD_BUILT:-}" ]; then
  "$CARGO_TARGET_DIR/release/skald" demo "$@" || code=$?
else
  cargo run --locked --release -- demo "$@" || code=$?
fi
[ "$code" = 0 ] || fail "'skald demo $*' ended with exit code $code"
