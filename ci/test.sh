#!/usr/bin/env bash
# Every test that needs no server.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo test --locked --workspace
