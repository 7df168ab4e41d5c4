#!/usr/bin/env bash
# A real Kafka without Docker: one node in KRaft mode, on loopback and free ports. ci/kafka.sh COMMAND:
#
#   up [--tls]      starts one and prints the variables to reach it (also in target/ci/kafka.env); one that is up is kept.
#                   --tls adds a listener with TLS and SCRAM-SHA-512, under a certificate authority of its own
#   stop            SIGTERM, and waits for the end; the data and the ports are kept
#   kill            SIGKILL, likewise
#   start           starts it again, on the same data and the same ports
#   down            stops it and removes its data
#   run CLASS ...   runs a program of Kafka's own, such as org.apache.kafka.tools.TopicCommand, .DumpLogSegments or
#                   .consumer.ConsoleConsumer
#   jars            fetches Kafka and says where it is
#   test            starts another one, runs the tests that need it, and stops it whatever happens
#
# up, stop, kill and start return when it is so. SKALD_KAFKA_STATE names another directory for the variables and the data,
# so that several can be up at once; its process id is in kafka/pid there, what the broker says in kafka/log.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=4.3.1
log4j=2.25.1
jars=$STATE/kafka-jars-$version
# A collector without threads of its own, because two cores are shared by everything. Not -XX:TieredStopAtLevel=1: half a
# second quicker to start, but 14,000 small requests a second instead of 40,000.
java_options=(-Xms512m -Xmx512m -XX:+UseSerialGC)

# locate DIRECTORY: where the broker that is meant keeps what it has.
locate() {
  mkdir -p "$1"
  state=$(cd "$1" && pwd)
  home=$state/kafka
  env_file=$state/kafka.env
  properties=$home/server.properties
}
locate "${SKALD_KAFKA_STATE:-$STATE}"

# Fetches the jars from Maven Central, once: into a directory beside, which gets its name when all are there.
install() {
  [ ! -d "$jars" ] || return 0
  need java openjdk-17-jre-headless
  need mvn maven openjdk-17-jre-headless
  (
    flock 9
    [ ! -d "$jars" ] || exit 0
    echo "fetching Kafka $version from Maven Central" >&2
    fetched=$jars.new
    rm -rf "$fetched" && mkdir -p "$fetched"
    dependency() { printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n' "$@"; }
    cat >"$fetched.pom" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>skald</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
$(dependency org.apache.kafka kafka_2.13 "$version")
$(dependency org.apache.kafka kafka-tools "$version")
$(dependency org.apache.logging.log4j log4j-slf4j-impl "$log4j")
$(dependency org.apache.logging.log4j log4j-core "$log4j")
</dependencies>
</project>
POM
    mvn --batch-mode --quiet --file "$fetched.pom" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
      -DoutputDirectory="$fetched" >"$STATE/kafka-jars.log" 2>&1 || {
      tail -20 "$STATE/kafka-jars.log" >&2
      fail "Maven could not fetch Kafka's jars; the whole log is $STATE/kafka-jars.log"
    }
    mv "$fetched" "$jars"
  ) 9>"$jars.lock"
}

# java_class CLASS ARGUMENT...: a short-lived program of Kafka's, so compiled in a hurry.
java_class() {
  java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$home/log4j2-tools.xml" -cp "$jars/*" "$@"
}

log4j_file() {
  cat <<XML
<Configuration status="warn">
  <Appenders><Console name="out" target="$2"><PatternLayout pattern="%d{ISO8601} %p %c{1}: %m%n"/></Console></Appenders>
  <Loggers>
    <Root level="$1"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="$3"/>
  </Loggers>
</Configuration>
XML
}

# Nothing listens on it now, and no outgoing connection takes it: those have ports above 32768.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

# A throwaway authority and the broker's certificate.
certificates() {
  need openssl openssl
  (
    umask 077
    cd "$home"
    openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=Skald test authority" -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout broker.key -out broker.csr
    openssl x509 -req -in broker.csr -days 30 -CA ca.pem -CAkey ca.key -CAcreateserial -out broker.pem \
      -extfile <(echo "subjectAltName=DNS:localhost,IP:127.0.0.1")
    cat broker.key broker.pem >broker.both.pem
  ) >"$home/openssl.log" 2>&1 || {
    cat "$home/openssl.log" >&2
    fail "openssl could not make a certificate"
  }
}

# configure [--tls]: a new directory with all that a broker needs, and the variables to reach it.
configure() {
  local port controller tls='' password='' format=()
  rm -rf "$home"
  mkdir -p "$home"
  log4j_file warn SYSTEM_OUT info >"$home/log4j2.xml"
  log4j_file error SYSTEM_ERR error >"$home/log4j2-tools.xml"
  port=$(free_port)
  controller=$(free_port)
  [ "${1:-}" != --tls ] || tls=$(free_port)
  cat >"$properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller${tls:+,SASL_SSL://127.0.0.1:$tls}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
log.dirs=$home/data
auto.create.topics.enable=false
# One node holds the one copy of everything.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Small, for a machine of two cores and a heap of 512 MB.
offsets.topic.num.partitions=6
transaction.state.log.num.partitions=2
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
# A group of one need not wait for others.
group.initial.rebalance.delay.ms=0
# How long a killed broker's successor must wait (9 s if not said).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
PROPERTIES
  if [ -n "$tls" ]; then
    password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
    certificates
    cat >>"$properties" <<PROPERTIES
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location=$home/broker.both.pem
listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
PROPERTIES
    format=(--add-scram "SCRAM-SHA-512=[name=skald,password=$password]")
  fi
  java_class kafka.tools.StorageTool format --cluster-id "skald-$port" --config "$properties" \
    "${format[@]}" >"$home/format.log" 2>&1 || {
    cat "$home/format.log" >&2
    fail "Kafka's StorageTool could not format $home/data"
  }
  (
    umask 077
    echo "export SKALD_TEST_KAFKA=127.0.0.1:$port SKALD_KAFKA_STATE=$state" >"$env_file"
    [ -z "$tls" ] || cat >>"$env_file" <<VARIABLES
export SKALD_TEST_KAFKA_TLS=127.0.0.1:$tls SKALD_TEST_KAFKA_CA=$home/ca.pem
export SKALD_TEST_KAFKA_USER=skald SKALD_TEST_KAFKA_PASSWORD=$password
VARIABLES
  )
}

# The process id alone could be another process's by now.
running() { [ -f "$home/pid" ] && grep -qF "$properties" "/proc/$(cat "$home/pid")/cmdline" 2>/dev/null; }

# Starts the broker on what `configure` has made, and waits until it serves: KafkaRaftServer says so when it is registered,
# unfenced and listening.
launch() {
  local pid
  [ ! -f "$home/log" ] || mv "$home/log" "$home/log.before"
  : >"$home/log"
  setsid java "${java_options[@]}" -Dlog4j2.configurationFile="$home/log4j2.xml" -cp "$jars/*" kafka.Kafka "$properties" \
    </dev/null >>"$home/log" 2>&1 &
  pid=$!
  echo $pid >"$home/pid"
  for _ in {1..600}; do
    ! grep -q 'Kafka Server started' "$home/log" || return 0
    kill -0 $pid 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

not_started() {
  tail -30 "$home/log" >&2
  end KILL
  fail "Kafka did not start, or not within 60 s; above is the end of what it said"
}

# end SIGNAL: returns when the process is gone.
end() {
  local pid
  if running; then
    pid=$(cat "$home/pid")
    kill "-$1" "$pid"
    for _ in {1..300}; do
      running || break
      sleep 0.1
    done
    # A broker that can't find its controller any more may hang on its way out.
    ! running || kill -KILL "$pid" 2>/dev/null || true
    while running; do sleep 0.1; done
    echo "Kafka (process $pid) has ended"
  fi
  rm -f "$home/pid"
}

up() {
  local attempt
  install
  for attempt in 1 2 3 4 5; do
    configure "$@"
    ! launch || break
    # A port that somebody has taken is no reason to give up, anything else is.
    if [ "$attempt" = 5 ] || ! grep -q 'Address already in use' "$home/log"; then not_started; fi
    end KILL
  done
  echo "Kafka $version, process $(cat "$home/pid"), in $home"
}

down() {
  end TERM
  rm -rf "$home" "$env_file"
}

case ${1:-} in
up)
  [ $# = 1 ] || [ "$2" = --tls ] || fail "'$2' is nothing that 'up' knows; there is --tls"
  if running; then
    [ "${2:-}" != --tls ] || grep -q TLS "$env_file" || fail "the one that is up has no TLS; take it down first"
    echo "already up, in $home"
  else
    trap 'down' EXIT
    up "${@:2}"
    trap - EXIT
  fi
  cat "$env_file"
  ;;
start)
  [ -f "$properties" ] || fail "there is nothing to start in $state; say 'up' first"
  running || launch || not_started
  ;;
stop | kill)
  running || fail "none is up in $state"
  if [ "$1" = stop ]; then end TERM; else end KILL; fi
  ;;
down)
  [ -d "$home" ] || fail "none is up in $state"
  down
  ;;
jars)
  install
  echo "$jars"
  ;;
run)
  [ -f "$properties" ] || fail "none is up in $state"
  java_class "${@:2}"
  ;;
test)
  locate "$STATE/kafka-test"
  trap 'down; rm -rf "$state"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  up
  # shellcheck source=/dev/null
  source "$env_file"
  # They are marked as ignored, because they fail without a Kafka.
  build_debug
  tests skald-bus it -- --ignored
  ;;
*)
  sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
esac
