#!/usr/bin/env bash
# kill -9 of the real binary at random points while orders stream in: ci/crash.sh [ROUNDS], 20 by default.
#
# The binary under the knife is the release build; the test that kills it, restarts it and asks the audit is the usual
# debug build (services/skald/tests/crash.rs), which finds the binary in SKALD_BIN and its rounds in SKALD_CRASH_ROUNDS.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

export SKALD_CRASH_ROUNDS=${1:-${SKALD_CRASH_ROUNDS:-20}}
export SKALD_BIN=$CARGO_TARGET_DIR/release/skald
case $SKALD_CRASH_ROUNDS in '' | *[!0-9]* | 0) fail "rounds are a number from 1 on, not '$SKALD_CRASH_ROUNDS'" ;; esac

build_release
build_debug
tests skald crash -- --nocapture
