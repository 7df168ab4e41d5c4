#!/usr/bin/env bash
# One order is one trace: on a real Kafka and a real PostgreSQL, with the five services as processes and a receiver of OTLP of the
# tests' own. ci/observability.sh [PROOF...], all of them by default:
#
#   embedded  in one process: confirmed, compensated, refused, late; a caller's trace; a receiver that is away or silent
#   kafka     the same orders over Kafka, two replicas of order and payment
#   broken    a trace across kill -9 of two services, and one of a redrive with its link
#   watched   a real Prometheus: everything that dashboards and alerts ask for has data, and exemplars lead to traces; logs lead to
#             traces, and hold no secret
#
# A proof is a function of its name below. Not among them, because a machine that does something else spoils it:
#
#   cost      how fast the shop is without traces, with one in a hundred and with all of them; builds for release
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

proof_embedded() {
  (
    unset SKALD_TEST_KAFKA SKALD_TEST_POSTGRES
    tests skald it -- traces::
  )
}

proof_kafka() {
  servers
  tests skald it -- traces::an_order --test-threads=1 --nocapture
}

proof_broken() {
  servers
  tests skald observability -- trace_ --ignored --test-threads=1 --nocapture
}

proof_watched() {
  servers
  need_prometheus
  export SKALD_TEST_METRICS=$STATE/observability/metrics SKALD_TEST_QUERIES=$STATE/observability/queries
  python3 ci/prometheus.py metrics always traffic >"$SKALD_TEST_METRICS"
  python3 ci/prometheus.py queries >"$SKALD_TEST_QUERIES"
  tests skald observability -- traces --ignored --test-threads=1 --nocapture
}

proof_cost() {
  build_release
  export SKALD_BIN=$CARGO_TARGET_DIR/release/skald
  tests skald observability -- what_tracing_costs --ignored --nocapture
}

# Servers of its own, beside any that are up already; once, for all proofs that want them.
servers() {
  [ -z "${SKALD_TEST_KAFKA:-}" ] || return 0
  export SKALD_KAFKA_STATE=$STATE/observability SKALD_POSTGRES_STATE=$STATE/observability
  mkdir -p "$STATE/observability"
  trap 'ci/kafka.sh down >/dev/null 2>&1; ci/postgres.sh down >/dev/null 2>&1' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  ci/kafka.sh up
  ci/postgres.sh up
  # shellcheck source=/dev/null
  source "$STATE/observability/kafka.env"
  # shellcheck source=/dev/null
  source "$STATE/observability/postgres.env"
}

[ $# -gt 0 ] || set -- embedded kafka broken watched
for proof in "$@"; do
  declare -F "proof_$proof" >/dev/null || fail "there is no proof '$proof'; there are: $(declare -F | sed -n 's/^declare -f proof_//p' | xargs)"
done
unset SKALD_TEST_KAFKA SKALD_TEST_POSTGRES
build_debug
for proof in "$@"; do
  echo "== $proof"
  "proof_$proof"
done
