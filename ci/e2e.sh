#!/usr/bin/env bash
# The five services as processes on a real Kafka and a real PostgreSQL: ci/e2e.sh [KILLS], 20 by default.
#
# First the scenarios that `skald up` passes in `cargo test`, then everything that can go wrong (services/skald/tests/chaos.rs).
# The processes are the release build; KILLS is how often one of them is killed while orders stream in.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

minutes=
if [ "${1:-}" = --minutes ]; then
  minutes=${2:-}
  case $minutes in '' | *[!0-9]* | 0) fail "minutes are a number from 1 on, not '$minutes'" ;; esac
  shift 2
fi
export SKALD_CHAOS_ROUNDS=${1:-${SKALD_CHAOS_ROUNDS:-20}}
case $SKALD_CHAOS_ROUNDS in '' | *[!0-9]* | 0) fail "kills are a number from 1 on, not '$SKALD_CHAOS_ROUNDS'" ;; esac

build_release
build_debug
export SKALD_BIN=$CARGO_TARGET_DIR/release/skald

# Servers of its own, beside any that are up already; the tests stop and start them by the same scripts.
export SKALD_KAFKA_STATE=$STATE/e2e SKALD_POSTGRES_STATE=$STATE/e2e
mkdir -p "$STATE/e2e"
trap 'ci/kafka.sh down >/dev/null 2>&1; ci/postgres.sh down >/dev/null 2>&1' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
ci/kafka.sh up
ci/postgres.sh up
# shellcheck source=/dev/null
source "$STATE/e2e/kafka.env"
# shellcheck source=/dev/null
source "$STATE/e2e/postgres.env"

if [ -n "$minutes" ]; then
  SKALD_FLOOD_RECORDS=3000 cargo test --locked -p skald --test chaos a_flood -- --ignored --nocapture --test-threads=1
  until=$((SECONDS + minutes * 60))
  while [ $SECONDS -lt $until ]; do
    tests skald chaos -- every_order_that_was_taken --ignored --nocapture --test-threads=1
  done
  exit 0
fi
tests skald it -- orders:: --test-threads=1
tests skald chaos -- --ignored --nocapture --test-threads=1
