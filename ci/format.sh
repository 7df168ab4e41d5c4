#!/usr/bin/env bash
# Every Rust file is as rustfmt writes it.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A workspace of its own.
cargo fmt --manifest-path fuzz/Cargo.toml --check || fail "not formatted; 'cargo fmt --manifest-path fuzz/Cargo.toml' does it"
cargo fmt --all --check || fail "not formatted; 'cargo fmt --all' does it"
