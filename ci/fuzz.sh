#!/usr/bin/env bash
# Coverage-guided fuzzing of whatever reads bytes from outside (docs/fuzzing.md): ci/fuzz.sh [SECONDS], by default 80 for all targets
# together, after building them; `ci/fuzz.sh build` does that alone. A crash prints its input, and the command that runs that input
# alone: ci/fuzz.sh replay TARGET FILE.
#
# libFuzzer on the stable toolchain, no cargo-fuzz. Only the crates of this workspace are instrumented (ci/coverage.sh); everything that
# they depend on is the release build's.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

targets=(record payload token jwks cursor trace idempotency_key http)
state=$STATE/fuzz

build() {
  build_release
  need c++ g++
  RUSTC_WORKSPACE_WRAPPER=$PWD/ci/coverage.sh cargo build "${release[@]}" "${targets[@]/#/--bin=}"
}

binary() { echo "$CARGO_TARGET_DIR/release/$1"; }

# The golden pairs of the contract, in the form that the targets `record` and `payload` read.
seeds() {
  local golden name
  need jq jq
  rm -rf "$state/seeds"
  mkdir -p "$state/seeds/record" "$state/seeds/payload"
  for golden in events/contract/golden/*.json; do
    name=$(basename "$golden" .json)
    jq -rj '.message | "\(.kind) \(.schema)\n", (.data | tojson)' "$golden" >"$state/seeds/payload/$name"
    jq -rj 'select(.record) | .record | (.headers[] | "\(.[0]): \(.[1])\n"), .key, "\n\n", .value' "$golden" >"$state/seeds/record/$name"
  done
}

# run TARGET SECONDS
run() {
  local target=$1 code=0 corpus=$state/corpus/$1 crashes=$state/crashes/$1/ log=$state/$1.log from directory found
  mkdir -p "$corpus" "$crashes"
  from=("$corpus")
  for directory in "fuzz/seeds/$target" "$state/seeds/$target"; do [ ! -d "$directory" ] || from+=("$directory"); done
  # The time of one input is generous: a machine that does something else for a minute is no find.
  "$(binary "$target")" -max_total_time="$2" -timeout=120 -rss_limit_mb=2048 -max_len=4096 -dict=fuzz/words.dict \
    -artifact_prefix="$crashes" -print_final_stats=1 "${from[@]}" >"$log" 2>&1 || code=$?
  if [ "$code" != 0 ]; then
    grep -av '^#[0-9]' "$log" | tail -60 >&2
    found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
    echo "input:  ${found:-none was written; see $log}" >&2
    fail "$target failed; to run this input alone: ci/fuzz.sh replay $target ${found:-FILE}"
  fi
  printf '%-16s %9s inputs in %3s s, ' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$2"
  grep -ao 'cov: [0-9]* ft: [0-9]* corp: [0-9]*' "$log" | tail -1
}

if [ "${1:-}" = replay ]; then
  [ $# = 3 ] || fail "ci/fuzz.sh replay TARGET FILE"
  [ -f "$3" ] || fail "there is no $3"
  [[ " ${targets[*]} " = *" $2 "* ]] || fail "the targets are ${targets[*]}, not '$2'"
  build
  exec "$(binary "$2")" "$3"
fi

if [ "${1:-}" = build ]; then
  build
  exit 0
fi

seconds=${1:-80}
case $seconds in '' | *[!0-9]*) fail "seconds are a number, not '$seconds'" ;; esac
each=$((seconds / ${#targets[@]}))
[ "$each" -gt 0 ] || fail "at least ${#targets[@]} seconds, one a target"
build
seeds
for target in "${targets[@]}"; do run "$target" "$each"; done
