#!/usr/bin/env bash
# Three brokers, a PostgreSQL with a synchronous standby and the five services, while orders stream in and servers die:
# ci/cluster.sh [short | long MINUTES]
#
#   short         each kind of fault once (the default)
#   long MINUTES  all kinds again and again, the harsher ones too
#
# A broker is killed, the controller, two at once; one is cut off from the others, one stands still; PostgreSQL's primary is killed and
# its standby promoted. In the end every order that was taken has ended, the audit holds, and so does a checker that knows nothing but what
# clients were answered (ci/cluster/checker.py). Brokers and databases are hosts of their own: network namespaces, which want root or
# a sudo that asks for no password, and end with this script.
#
# SKALD_CLUSTER_SEED chooses the same faults in the same order, though not the same timing; SKALD_CLUSTER_FAULTS names some, such as
# broker_killed,primary_killed. What a run that failed has left is in target/ci/cluster.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arguments=()
case ${1:-short} in
short) ;;
long)
  case ${2:-} in '' | *[!0-9]* | 0) fail "minutes are a number from 1 on, not '${2:-}'" ;; esac
  arguments+=(--minutes "$2")
  ;;
*)
  sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
esac
[ -z "${SKALD_CLUSTER_SEED:-}" ] || arguments+=(--seed "$SKALD_CLUSTER_SEED")
[ -z "${SKALD_CLUSTER_FAULTS:-}" ] || arguments+=(--faults "$SKALD_CLUSTER_FAULTS")

need python3 python3
need ip iproute2
python3 -B ci/cluster/checker_test.py
jars=$(ci/kafka.sh jars)
programs=$(ci/postgres.sh programs)
binary=${SKALD_BIN:-}
if [ -z "$binary" ]; then
  build_release
  binary=$CARGO_TARGET_DIR/release/skald
fi

# In /tmp itself, which PostgreSQL's user may enter.
home=$(mktemp -d /tmp/skald-cluster.XXXXXX)
chmod 711 "$home"
child=
finish() {
  local code=$?
  # The namespaces, and whoever lives there, go with the first process of theirs, which goes when nobody holds this any more.
  exec 8>&-
  [ -z "$child" ] || wait "$child" || true
  as_root rm -rf "$STATE/cluster"
  if [ "$code" != 0 ] && [ -d "$home" ]; then
    # Without the servers' data.
    as_root rm -rf "$home"/kafka*/data "$home"/postgres*/data
    as_root cp -r "$home" "$STATE/cluster"
    echo "what the servers said, the clients' journal and what was there in the end: $STATE/cluster" >&2
  fi
  as_root rm -rf "$home"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# The binary where root can read it, whoever owns the checkout.
cp "$binary" "$home/skald"
mkfifo "$home/alive"
as_root unshare --net --mount --pid --fork --mount-proc --kill-child \
  python3 -B ci/cluster/run.py --home "$home" --jars "$jars" --programs "$programs" --binary "$home/skald" "${arguments[@]}" \
  <"$home/alive" &
child=$!
exec 8>"$home/alive"
wait "$child"
child=
