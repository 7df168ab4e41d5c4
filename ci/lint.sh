#!/usr/bin/env bash
# Clippy over everything, tests and benches too; a warning fails. What it refuses beyond its own list stands in clippy.toml.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo clippy --locked --workspace --all-targets -- -D warnings
