#!/usr/bin/env bash
# The build with TLS against a Kafka and a PostgreSQL that ask for it: the right certificate and password get in, wrong ones get a
# sentence. ci/tls.sh, which starts both servers itself.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need curl curl
build_release
skald=$CARGO_TARGET_DIR/release/skald

state=$STATE/tls
rm -rf "$state"
mkdir -p "$state"
export SKALD_KAFKA_STATE=$state SKALD_POSTGRES_STATE=$state
service=
finish() {
  [ -z "$service" ] || kill "$service" 2>/dev/null || true
  ci/kafka.sh down >/dev/null 2>&1 || true
  ci/postgres.sh down >/dev/null 2>&1 || true
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
ci/kafka.sh up --tls >/dev/null
ci/postgres.sh up >/dev/null
# shellcheck source=/dev/null
source "$state/kafka.env"
# shellcheck source=/dev/null
source "$state/postgres.env"
printf '%s\n' "$SKALD_TEST_KAFKA_PASSWORD" >"$state/password"
echo nonsense >"$state/wrong"

kafka=(--kafka "$SKALD_TEST_KAFKA_TLS" --kafka-security sasl_ssl --kafka-user "$SKALD_TEST_KAFKA_USER")
right=("${kafka[@]}" --kafka-ca "$SKALD_TEST_KAFKA_CA" --kafka-password-file "$state/password")
database=${SKALD_TEST_POSTGRES%/*}/notification

# refused WHAT COMMAND...: it must fail, and say why.
refused() {
  local what=$1 said
  shift
  if said=$(timeout 60 "$@" 2>&1); then fail "$what was let in: $said"; fi
  [[ $said == *error:* ]] || fail "$what was refused without a sentence: $said"
  echo "$what is refused: ${said#*error: }"
}

"$skald" topics apply --replication 1 "${right[@]}" >/dev/null
"$skald" topics check --replication 1 "${right[@]}"
refused 'a wrong password for Kafka' "$skald" topics check "${kafka[@]}" --kafka-ca "$SKALD_TEST_KAFKA_CA" --kafka-password-file "$state/wrong"
refused 'a Kafka with another certificate' "$skald" topics check "${kafka[@]}" --kafka-ca "$SKALD_TEST_POSTGRES_CA" --kafka-password-file "$state/password"
refused 'a Kafka without TLS' "$skald" topics check --kafka "$SKALD_TEST_KAFKA_TLS"
"$skald" migrate notification --database "$database?sslmode=verify-full&sslrootcert=$SKALD_TEST_POSTGRES_CA"
refused 'a PostgreSQL with another certificate' \
  "$skald" migrate notification --start-timeout-s 1 --database "$database?sslmode=verify-full&sslrootcert=$SKALD_TEST_KAFKA_CA"

port=8199
"$skald" serve notification --listen 127.0.0.1:$port --jwks http://127.0.0.1:1/jwks.json "${right[@]}" \
  --database "$database?sslmode=verify-full&sslrootcert=$SKALD_TEST_POSTGRES_CA" >"$state/notification.log" 2>&1 &
service=$!
for _ in {1..300}; do
  health=$(curl -sS -m 2 "http://127.0.0.1:$port/health" 2>&1) || true
  # The keys of tokens can't be had here; the database and Kafka can.
  if [[ $health == *'{"name":"kafka","status":"ok"}'* && $health == *'{"name":"notification database","status":"ok"}'* ]]; then
    echo "notification is served over TLS to both"
    exit 0
  fi
  sleep 0.1
done
tail -20 "$state/notification.log" >&2
fail "notification did not get ready over TLS: $health"
