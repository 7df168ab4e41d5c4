#!/usr/bin/env bash
# The proofs of sagas/core, in release: the models within the bounds of docs/model-check.md, with the laws, then each planted fault by name.
# ci/model.sh              both
# ci/model.sh --planted    only the planted faults: fails if one that should be found is not
# ci/model.sh --larger     larger bounds: some minutes and up to 8 GB
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

model() { cargo test --quiet "${release[@]}" --test=model -- "$1"; }

case ${1:-} in
'')
  model --full
  model --planted
  ;;
--planted | --larger) model "$1" ;;
*) fail "unknown argument $1: --planted, --larger or nothing" ;;
esac
echo "$SECONDS seconds"
