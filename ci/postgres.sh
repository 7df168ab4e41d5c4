#!/usr/bin/env bash
# A real PostgreSQL without Docker: ci/postgres.sh up | restart | down | programs | test.
#
#   up    starts one on loopback and a free port, in a directory of its own, with the five services' databases, and prints
#         the variables to reach it (also in target/ci/postgres.env); one that is up already is kept
#   restart  stops that one without letting anybody finish, and starts it again
#   down  stops that one and removes its data
#   programs  installs PostgreSQL's programs and says where they are
#   test  starts another one, runs the suites below on it, and stops it whatever happens
#
# SKALD_TEST_POSTGRES is a URL whose role may create databases: a suite makes a fresh one a test beside those five.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

databases=(order product payment user notification)
suites=(skald-log skald-bus skald-engine skald-order skald-product skald-payment skald-user skald-notification)
# SKALD_POSTGRES_STATE names another place for what is known of the one that is up, so that several can be.
state=${SKALD_POSTGRES_STATE:-$STATE}
mkdir -p "$state"
directory_file=$state/postgres.directory
env_file=$state/postgres.env

# The newest PostgreSQL that Debian's package has put here.
bin() {
  local found
  found=$(find /usr/lib/postgresql/*/bin -name pg_ctl 2>/dev/null | sort -V | tail -1)
  [ -z "$found" ] || dirname "$found"
}

install() {
  [ -z "$(bin)" ] || return 0
  # Only the programs are wanted, not the cluster that Debian would make and start beside them.
  apt_install postgresql-common
  as_root sed -i -E 's/^#?(create_main_cluster) .*/\1 = false/' /etc/postgresql-common/createcluster.conf
  apt_install postgresql
  [ -n "$(bin)" ] || fail "the package postgresql has no pg_ctl in /usr/lib/postgresql/*/bin"
}

# Runs a program of PostgreSQL's; it refuses root, so root becomes the user that Debian's package has made.
as_postgres() {
  local program=$1
  shift
  # From the root directory, because that user may not enter the checkout.
  if [ "$(id -u)" = 0 ]; then
    (cd / && runuser -u postgres -- "$(bin)/$program" "$@")
  else
    "$(bin)/$program" "$@"
  fi
}

# start DIRECTORY ENV_FILE: a server of its own; its data, socket and log stay in DIRECTORY.
start() {
  local directory=$1 env=$2 password port attempt
  password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && printf '%s\n' "$password" >"$directory/password")
  # For those who ask for TLS: a certificate that signs itself.
  need openssl openssl
  # It is no authority, which OpenSSL's own settings would make it and rustls then refuses as a server's.
  printf '%s\n' '[req]' 'distinguished_name=name' '[name]' >"$directory/openssl.cnf"
  (umask 077 && openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=localhost" -config "$directory/openssl.cnf" \
    -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" \
    -keyout "$directory/server.key" -out "$directory/server.crt" 2>"$STATE/openssl.log") || {
    cat "$STATE/openssl.log" >&2
    fail "openssl could not make a certificate"
  }
  if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || as_root useradd --system --no-create-home postgres
    chown -R postgres "$directory"
  fi
  as_postgres initdb --pgdata="$directory/data" --username=skald --auth=scram-sha-256 --pwfile="$directory/password" \
    --encoding=UTF8 --locale=C.UTF-8 >"$STATE/initdb.log" 2>&1 || {
    cat "$STATE/initdb.log" >&2
    fail "initdb failed"
  }
  # Durable as in production (skald refuses fsync or synchronous_commit off); room for many services of many tests at once.
  for attempt in 1 2 3 4 5 6 7 8; do
    port=$((20000 + RANDOM % 10000))
    if as_postgres pg_ctl start --silent --wait --timeout=60 --pgdata="$directory/data" --log="$directory/log" --options="\
      -c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories=$directory \
      -c ssl=on -c ssl_cert_file=$directory/server.crt -c ssl_key_file=$directory/server.key \
      -c max_connections=300 -c fsync=on -c synchronous_commit=on -c recovery_init_sync_method=syncfs" >/dev/null 2>&1; then
      break
    fi
    # A port that somebody has taken is no reason to give up, anything else is.
    if [ "$attempt" = 8 ] || ! grep -q 'could not bind' "$directory/log"; then
      tail -20 "$directory/log" >&2
      fail "PostgreSQL did not start"
    fi
    rm -f "$directory/log"
  done
  (
    umask 077
    cat >"$env" <<VARIABLES
export PGHOST=127.0.0.1 PGPORT=$port PGUSER=skald PGPASSWORD=$password PGDATABASE=postgres
export SKALD_TEST_POSTGRES=postgres://skald:$password@127.0.0.1:$port/postgres
export SKALD_TEST_POSTGRES_CA=$directory/server.crt
VARIABLES
  )
  # shellcheck source=/dev/null
  source "$env"
  for database in "${databases[@]}"; do
    "$(bin)/createdb" "$database"
  done
  local version
  version=$("$(bin)/psql" -XAtc 'SHOW server_version')
  echo "PostgreSQL $version on 127.0.0.1:$port with the databases ${databases[*]}, in $directory"
}

running() { [ -f "$1/data/postmaster.pid" ] && kill -0 "$(head -1 "$1/data/postmaster.pid")" 2>/dev/null; }

# stop DIRECTORY: by the process id in the server's own file; then the data goes.
stop() {
  local directory=$1 pid
  if running "$directory"; then
    pid=$(head -1 "$directory/data/postmaster.pid")
    as_postgres pg_ctl stop --silent --mode=fast --timeout=20 --pgdata="$directory/data" >/dev/null 2>&1 || kill -QUIT "$pid" || true
    echo "PostgreSQL (process $pid) stopped"
  fi
  rm -rf "$directory"
}

# In /tmp itself, which every user may enter.
new_directory() { mktemp -d /tmp/skald-postgres.XXXXXX; }

case ${1:-} in
up)
  if [ -f "$directory_file" ] && running "$(cat "$directory_file")"; then
    echo "already up, in $(cat "$directory_file")"
  else
    install
    directory=$(new_directory)
    trap 'stop "$directory"' EXIT
    start "$directory" "$env_file"
    printf '%s\n' "$directory" >"$directory_file"
    trap - EXIT
  fi
  cat "$env_file"
  ;;
restart)
  [ -f "$directory_file" ] || fail "none is up"
  directory=$(cat "$directory_file")
  # A disk that others write to takes its time to recover from.
  as_postgres pg_ctl restart --silent --wait --timeout=300 --mode=immediate --pgdata="$directory/data" --log="$directory/log" >/dev/null
  running "$directory" || fail "PostgreSQL did not come back; see $directory/log"
  ;;
down)
  [ -f "$directory_file" ] || fail "none is up"
  stop "$(cat "$directory_file")"
  rm -f "$directory_file" "$env_file"
  ;;
programs)
  install
  bin
  ;;
test)
  install
  directory=$(new_directory)
  trap 'stop "$directory"; rm -f "$STATE/postgres-test.env"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  start "$directory" "$STATE/postgres-test.env"
  written_before=$("$(bin)/psql" -XAtc 'SELECT pg_current_wal_lsn()')
  build_debug
  for suite in "${suites[@]}"; do tests "$suite"; done
  # A suite that has forgotten the variable passes on SQLite: so ask the server whether anybody was here.
  written=$("$(bin)/psql" -XAtc "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '$written_before')::bigint")
  [ "$written" -gt 1000000 ] || fail "the suites passed, but wrote only $written bytes on PostgreSQL: they ran on SQLite"
  echo "the suites wrote $((written / 1000000)) MB on PostgreSQL"
  ;;
*)
  sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
esac
