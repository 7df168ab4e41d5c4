#!/usr/bin/env bash
# Every Rust file is as rustfmt writes it.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo fmt --all --check || fail "not formatted; 'cargo fmt --all' does it"
