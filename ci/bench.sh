#!/usr/bin/env bash
# How fast the five services are as processes on a real Kafka and a real PostgreSQL, all on this machine together with the load:
# ci/bench.sh [ORDERS], 20,000 by default. Prints what it measured: 256 clients, then one alone, then two replicas of each.
#
# The figures of one machine say little about another's; compare two runs side by side.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

orders=${1:-20000}
case $orders in '' | *[!0-9]* | 0) fail "orders are a number from 1 on, not '$orders'" ;; esac

[ -n "${SKALD_BENCH_BUILT:-}" ] || cargo build --locked --release
skald=$CARGO_TARGET_DIR/release/skald
state=$STATE/bench
rm -rf "$state"
mkdir -p "$state"
export SKALD_KAFKA_STATE=$state SKALD_POSTGRES_STATE=$state
pids=()

stop_services() {
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  pids=()
}
finish() {
  stop_services
  ci/kafka.sh down >/dev/null 2>&1 || true
  ci/postgres.sh down >/dev/null 2>&1 || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
ci/kafka.sh up >/dev/null
ci/postgres.sh up >/dev/null
# shellcheck source=/dev/null
source "$state/kafka.env"
# shellcheck source=/dev/null
source "$state/postgres.env"
export SKALD_KAFKA=$SKALD_TEST_KAFKA SKALD_ADMIN_EMAIL=admin@shop.example SKALD_ADMIN_PASSWORD='correct horse battery staple'
export SKALD_LOG=warn SKALD_STOP_DELAY_MS=0
"$skald" topics apply --replication 1 >/dev/null

# The user service first: it is on port 8100, where the others get the keys of tokens.
services=(user order product payment notification)
base=${SKALD_TEST_POSTGRES%/*}
databases=()
for service in "${services[@]}"; do databases+=(--database "$service=$base/$service"); done

# start REPLICAS: every service so many times, on ports from 8100 on.
start() {
  local service replica port=8100 stock=() flags health deadline
  at=()
  for ((replica = 0; replica < $1; replica++)); do stock+=("http://127.0.0.1:$((8190 + replica))"); done
  for service in "${services[@]}"; do
    for ((replica = 0; replica < $1; replica++)); do
      flags=(--listen "127.0.0.1:$port")
      [ "$service" = user ] || flags+=(--jwks http://127.0.0.1:8100/.well-known/jwks.json)
      [ "$service" != order ] || flags+=(--stock-check "$(IFS=, && echo "${stock[*]}")")
      [ "$service" != product ] || flags+=(--product-grpc-listen "127.0.0.1:$((8190 + replica))")
      SKALD_DATABASE=$base/$service "$skald" serve "$service" "${flags[@]}" >"$state/$service-$replica.log" 2>&1 &
      pids+=($!)
      at+=(--at "$service=127.0.0.1:$port")
      port=$((port + 1))
    done
  done
  deadline=$((SECONDS + 60))
  while [ "$port" -gt 8100 ]; do
    port=$((port - 1))
    until health=$(curl -fsS -m 2 "http://127.0.0.1:$port/health" 2>&1) && [[ $health == '{"status":"ok"'* ]]; do
      [ $SECONDS -lt $deadline ] || fail "the process on port $port is not ready: $health"
      sleep 0.1
    done
  done
}

# load NAME ORDERS CLIENTS
load() {
  "$skald" demo --mix happy --orders "$2" --concurrency "$3" --json "${at[@]}" "${databases[@]}" >"$state/$1.json" ||
    fail "$1: the audit or an order failed; see $state/$1.json"
  printf '%-40s ' "$1"
  jq -r '"\(.orders_per_second|floor) orders/s to their end, p50 \(.latency_ms.p50) ms, p99 \(.latency_ms.p99) ms"' "$state/$1.json"
}

# What the machine itself does, so that figures of two machines can be held against each other.
yardsticks() {
  local began rows=200000 sync
  # Whoever orders alone waits for thirteen of these, one after the other.
  sync=$(find /usr/lib/postgresql/*/bin -name pg_test_fsync | sort -V | tail -1)
  "$sync" -s 1 -f "$state/yardstick" | awk '$1 == "fdatasync" && !told++ { printf "%-40s %d us until a write is on disk\n", "yardstick", $4 }'
  rm -f "$state/yardstick"
  # shellcheck disable=SC2153
  psql -qc 'CREATE TABLE yardstick (position bigint PRIMARY KEY, data text)'
  # 500 rows of 400 bytes an insert, one connection, a commit each.
  awk -v rows="$rows" 'BEGIN {
    text = sprintf("%400s", ""); gsub(/ /, "x", text)
    for (i = 1; i <= rows; i++) printf "%s(%d,\047%s\047)%s", i % 500 == 1 ? "INSERT INTO yardstick VALUES " : "", i, text, i % 500 == 0 ? ";\n" : ","
  }' >"$state/yardstick.sql"
  began=$(date +%s%N)
  psql -qf "$state/yardstick.sql"
  printf '%-40s %d rows/s of 400 bytes into PostgreSQL, 500 an insert\n' yardstick $((rows * 1000000000 / ($(date +%s%N) - began)))
  psql -qc 'DROP TABLE yardstick'
  rm "$state/yardstick.sql"
  ci/kafka.sh run org.apache.kafka.tools.TopicCommand --bootstrap-server "$SKALD_KAFKA" --create --topic yardstick --partitions 6 >/dev/null
  printf '%-40s %s\n' yardstick "$(ci/kafka.sh run org.apache.kafka.tools.ProducerPerformance --topic yardstick --num-records 500000 \
    --record-size 500 --throughput -1 --producer-props "bootstrap.servers=$SKALD_KAFKA" acks=all | tail -1 | cut -d, -f2) into Kafka, of 500 bytes"
  ci/kafka.sh run org.apache.kafka.tools.TopicCommand --bootstrap-server "$SKALD_KAFKA" --delete --topic yardstick >/dev/null
}

need jq jq
need curl curl
yardsticks
start 1
# Kafka's virtual machine compiles its hot paths meanwhile.
load 'warm up' 15000 256
load 'one of each, 256 clients' "$orders" 256
load 'one of each, one client' 1000 1
stop_services
start 2
# As above: processes that have just begun make their plans and join their groups meanwhile.
load 'warm up, two of each' 5000 256
load 'two of each, 256 clients' "$orders" 256
