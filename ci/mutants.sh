#!/usr/bin/env bash
# Changes the code of sagas/core and of the services' deciders in every way that cargo-mutants knows, and asks the unit tests of each
# change. What no test notices stands in docs/mutants.md with the reason.
#
# ci/mutants.sh             all: about an hour
# ci/mutants.sh --changed   only lines that differ from the branch main, or from the commit in SKALD_BASE
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cargo mutants --version >/dev/null 2>&1 || fail "cargo-mutants is missing; install it with: cargo install --locked cargo-mutants"
only=()
case ${1:-} in
'') ;;
--changed)
  mkdir -p "$STATE"
  git diff "${SKALD_BASE:-main}..." >"$STATE/changed.diff"
  only=(--in-diff "$STATE/changed.diff")
  ;;
*) fail "unknown argument $1: --changed or nothing" ;;
esac

# mutants NAME ARGUMENT...: survivors are told at the end, not at the first.
missed=0
mutants() {
  local name=$1
  shift
  cargo mutants --jobs 1 --timeout 120 --output "$STATE/mutants-$name" "${only[@]}" "$@" || missed=1
}
mutants deciders --workspace --file 'services/*/src/domain.rs' --file 'services/*/src/domain/*.rs' -- --lib
mutants core --package skald-saga -- --lib --test it
[ "$missed" = 0 ] || fail "compare what was missed with docs/mutants.md"
