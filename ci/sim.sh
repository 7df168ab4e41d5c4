#!/usr/bin/env bash
# The simulation, and the faults planted to test it: ci/sim.sh [clean | planted].
#
#   clean     thousands of orders: fixed seeds in one process, a random one, which is printed, in another beside it
#   planted   every fault of docs/planted-faults.md whose proof is the simulation, until a seed finds it
#
# Without a word both. One binary for all: release, with the feature `planted`; it behaves as usual unless SKALD_PLANTED names a fault.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

what=${1:-all}
case $what in all | clean | planted) ;; *) fail "what is '$what'? clean or planted" ;; esac
orders=40
runs=${SKALD_SIM_RUNS:-96}     # in each of two processes: 7,680 orders; nightly runs many more
seeds=${SKALD_SIM_SEEDS:-60}   # in which a planted fault must be found
table=docs/planted-faults.md

build_release
sim=$CARGO_TARGET_DIR/release/sim

# SQLite runs in a thread of its own that takes turns with the simulation's, so both on one core take half of what they take on two.
cores=()
if [ -r /proc/self/status ] && command -v taskset >/dev/null; then
  mapfile -t cores < <(awk '/^Cpus_allowed_list/ { print $2 }' /proc/self/status | tr , '\n' |
    while IFS=- read -r first last; do seq "$first" "${last:-$first}"; done)
fi

# on N COMMAND: runs it on the Nth of the cores that there are, where that can be said.
on() {
  local nth=$1
  shift
  if [ ${#cores[@]} = 0 ]; then "$@"; else taskset -c "${cores[$((nth % ${#cores[@]}))]}" "$@"; fi
}

# The faults of the table, by the proof in its second column.
faults() { sed -nE 's/^\| `([a-z-]+)` \|.*\| '"$1"' .*/\1/p' "$table"; }

clean() {
  local began=$SECONDS random code=0
  random=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
  echo "fixed seeds from 1, and from the random seed $random"
  on 0 "$sim" --seed 1 --orders "$orders" --runs "$runs" &
  local fixed=$!
  on 1 "$sim" --seed "$random" --orders "$orders" --runs "$runs" || code=$?
  wait "$fixed" || code=$?
  [ "$code" = 0 ] || fail "the clean run failed with exit code $code"
  echo "$((2 * runs * orders)) orders in $((SECONDS - began)) s"
}

# planted FAULT: runs seeds with it until one fails, and says which.
planted() {
  local said code=0 seed by steps
  said=$(SKALD_PLANTED=$1 on 0 timeout 300 "$sim" --seed 1 --orders "$orders" --runs "$seeds" 2>&1) || code=$?
  case $code in
  2) by=crash ;;
  3) by=safety ;;
  4) by=liveness ;;
  *)
    printf '%-28s NOT FOUND in %s seeds (exit code %s)\n' "$1" "$seeds" "$code"
    return 1
    ;;
  esac
  seed=$(sed -nE 's/^replay with: just sim ([0-9]+).*/\1/p' <<<"$said")
  steps=$(sed -nE 's/^seed [0-9]+: .*after ([0-9]+) steps.*/\1/p' <<<"$said")
  printf '%-28s %-9s seed %-4s %6s orders  %6s steps\n' "$1" "$by" "$seed" "$((seed * orders))" "${steps:--}"
}

[ "$what" = planted ] || clean
if [ "$what" != clean ]; then
  missed=0
  for fault in $(faults simulation); do planted "$fault" || missed=$((missed + 1)); done
  [ "$missed" = 0 ] || fail "$missed planted fault(s) not found"
fi
