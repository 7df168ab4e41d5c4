#!/usr/bin/env bash
# The proofs of sagas/core, in release: the laws, the models within the bounds of docs/model-check.md, then each planted fault by name.
# ci/model.sh              all three
# ci/model.sh --planted    only the planted faults: fails if one that should be found is not
# ci/model.sh --larger     larger bounds: some minutes and up to 8 GB
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

core() { cargo test --locked --release --quiet -p skald-saga --features planted --test "$@"; }

case ${1:-} in
'')
  core it laws
  core model -- --full
  core model -- --planted
  ;;
--planted | --larger) core model -- "$1" ;;
*) fail "unknown argument $1: --planted, --larger or nothing" ;;
esac
echo "$SECONDS seconds"
