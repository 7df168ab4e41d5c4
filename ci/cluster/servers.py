"""The servers of the cluster suite: three brokers, a PostgreSQL with a synchronous standby, the five services.

Each broker and each PostgreSQL is a host of its own: a network namespace with an address, on a bridge that nobody else sees. So
that a cable can be pulled, and an address can move. All of it lives in the namespaces of the process that runs this, and dies with
it. Never here: what a fault is (`run.py`), what a client does (`clients.py`), what must hold (`checker.py`).
"""

import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

# A condition that does not come about by then never will, also on a machine that is slow.
PATIENCE = 180.0
SERVICES = ("order", "product", "payment", "user", "notification")
ADMIN = ("admin@shop.example", "correct horse battery staple")
# Timeouts come soon, so that faults meet sagas in every state; few messages may wait for Kafka, so that there are refusals.
KNOBS = {
    "SKALD_STEP_DEADLINE_MS": "3000",
    "SKALD_PAYMENT_TIMEOUT_MS": "500",
    "SKALD_PAYMENT_SLOW_MS": "3000",
    "SKALD_BACKLOG_MAX": "400",
    "SKALD_STOP_DELAY_MS": "0",
    "SKALD_PASSWORD_MEMORY_KIB": "8",
    "SKALD_PASSWORD_PASSES": "1",
}


def tell(text):
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


STARTED = time.monotonic()


def eventually(what, is_so, patience=PATIENCE, pause=0.05):
    """Asks until the answer is true; gives it."""
    until = time.monotonic() + patience
    while not (answer := is_so()):
        if time.monotonic() > until:
            raise SystemExit(f"not so after {patience:.0f} s: {what}")
        time.sleep(pause)
    return answer


def quietly(*command, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


# Hosts.

BRIDGE = "10.99.0.254"


def network():
    """The bridge that the hosts are on; this process is on it as well."""
    quietly("mount", "-t", "tmpfs", "none", "/run")
    for command in ("link set lo up", "link add name bridge type bridge", f"addr add {BRIDGE}/24 dev bridge", "link set bridge up"):
        quietly("ip", *command.split())


class Host:
    """A machine: an address, and what runs there."""

    def __init__(self, name, number):
        self.name, self.address, self.cable = name, f"10.99.0.{number}", f"to-{name}"
        quietly("ip", "netns", "add", name)
        quietly("ip", "link", "add", "name", self.cable, "type", "veth", "peer", "name", "eth0", "netns", name)
        quietly("ip", "link", "set", self.cable, "master", "bridge", "up")
        for command in (f"addr add {self.address}/24 dev eth0", "link set eth0 up", "link set lo up"):
            self.ip(command)

    def ip(self, command):
        quietly("ip", "-n", self.name, *command.split())

    def command(self, *command):
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def cut_from(self, others):
        """Nothing reaches the others any more: what they send comes, and is never answered."""
        for other in others:
            self.ip(f"route add blackhole {other.address}/32")

    def join(self, others):
        for other in others:
            self.ip(f"route del blackhole {other.address}/32")

    def pull(self):
        """Pulls the cable: not even a reset comes from here."""
        quietly("ip", "link", "set", self.cable, "down")

    def plug(self):
        quietly("ip", "link", "set", self.cable, "up")


# Kafka.


class Broker(Host):
    def __init__(self, node, home, jars):
        super().__init__(f"kafka{node}", node)
        self.node, self.jars, self.home, self.process = node, jars, home / f"kafka{node}", None
        self.log = self.home / "log"
        self.home.mkdir()
        voters = ",".join(f"{number}@10.99.0.{number}:9093" for number in (1, 2, 3))
        (self.home / "properties").write_text(f"""\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{self.address}:9092,CONTROLLER://{self.address}:9093
log.dirs={self.home}/data
auto.create.topics.enable=false
default.replication.factor=3
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
# Small, for a machine of two cores.
offsets.topic.num.partitions=6
transaction.state.log.num.partitions=2
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
group.initial.rebalance.delay.ms=0
# How long it takes until a broker counts as dead (9 s if not said).
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
""")
        level = '<Logger name="{}" level="info"/>'.format
        (self.home / "log4j2.xml").write_text(f"""\
<Configuration status="warn">
  <Appenders><Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d{{ISO8601}} %p %c{{1}}: %m%n"/></Console></Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="out"/></Root>
    {level("org.apache.kafka.raft")} {level("kafka.server.KafkaRaftServer")}
  </Loggers>
</Configuration>
""")

    def java(self, heap, *arguments):
        # Compiled in a hurry: what there is to do is little, and three start at once on two cores.
        options = [f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return ["java", *options, f"-Dlog4j2.configurationFile={self.home}/log4j2.xml", "-cp", f"{self.jars}/*", *arguments]

    def format(self, cluster):
        tool = ("kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", f"{self.home}/properties")
        return subprocess.Popen(self.java(256, *tool), stdout=open(self.home / "format.log", "w"))

    def start(self):
        said = open(self.log, "a")
        command = self.command(*self.java(384, "-Xms384m", "kafka.Kafka", f"{self.home}/properties"))
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def elected(self):
        """The newest epoch in which this node leads the controllers, as far as it says."""
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        epochs = re.findall(r"Completed transition to Leader\(.*?epoch=(\d+)", said)
        return max(map(int, epochs), default=-1)

    def metadata(self):
        """What this broker says of the cluster: nodes that live, and (topic, partition) with leader and replicas in sync."""
        try:
            with socket.create_connection((self.address, 9092), timeout=2) as connection:
                connection.settimeout(2)
                client = b"cluster-suite"
                # Metadata, version 4, of all topics, none to be made.
                request = struct.pack(">hhih", 3, 4, 1, len(client)) + client + struct.pack(">ib", -1, 0)
                connection.sendall(struct.pack(">i", len(request)) + request)
                stream = connection.makefile("rb")
                (length,) = struct.unpack(">i", stream.read(4))
                return Metadata(stream.read(length)).read()
        except (OSError, struct.error):
            return None

    def living(self):
        """The nodes that live, as this one says; all of them, if it says nothing."""
        found = self.metadata()
        return {1, 2, 3} if found is None else set(found[0])


class Metadata:
    """Reads the answer, by https://kafka.apache.org/protocol."""

    def __init__(self, data):
        self.data, self.at = data, 8  # the correlation id, the throttle time

    def take(self, kind):
        (value,) = struct.unpack_from(">" + kind, self.data, self.at)
        self.at += struct.calcsize(">" + kind)
        return value

    def text(self):
        length = max(self.take("h"), 0)
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def array(self, item):
        return [item() for _ in range(self.take("i"))]

    def read(self):
        nodes = self.array(lambda: (self.take("i"), self.text(), self.take("i"), self.text())[0])
        self.text(), self.take("i")
        partitions = {}
        for topic, found in self.array(self.topic):
            partitions.update({(topic, number): (leader, replicas, isr) for number, leader, replicas, isr in found})
        return nodes, partitions

    def topic(self):
        _, name, _ = self.take("h"), self.text(), self.take("b")
        return name, self.array(self.partition)

    def partition(self):
        _, number, leader = self.take("h"), self.take("i"), self.take("i")
        return number, leader, self.array(lambda: self.take("i")), self.array(lambda: self.take("i"))


class Kafka:
    def __init__(self, home, jars):
        self.brokers = [Broker(node, home, jars) for node in (1, 2, 3)]
        cluster = "skald-" + secrets.token_hex(8)
        for formatting in [broker.format(cluster) for broker in self.brokers]:
            if formatting.wait() != 0:
                raise SystemExit("a broker's directory could not be formatted; see format.log")
        for broker in self.brokers:
            broker.start()

    def addresses(self):
        return ",".join(f"{broker.address}:9092" for broker in self.brokers)

    def is_whole(self):
        """All three live, and every replica of every partition is in sync, as each of them says."""
        for broker in self.brokers:
            found = broker.metadata()
            if found is None or len(found[0]) != 3:
                return False
            if any(leader < 0 or len(isr) != len(replicas) for leader, replicas, isr in found[1].values()):
                return False
        return True

    def controller(self):
        return max(self.brokers, key=Broker.elected)

    def others(self, broker):
        return [other for other in self.brokers if other is not broker]


# PostgreSQL.


class Server(Host):
    """One PostgreSQL."""

    def __init__(self, number, home, programs, password):
        super().__init__(f"postgres{number}", 10 + number)
        self.home, self.programs, self.password = home / self.name, programs, password
        self.home.mkdir()
        self.as_owner("chown", "postgres", self.home, user="root")

    def as_owner(self, *command, user="postgres"):
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": self.password, "LC_ALL": "C.UTF-8"}
        wrapped = self.command(*(() if user == "root" else ("runuser", "-u", user, "--")), *command)
        return quietly(*wrapped, env=environment, cwd="/")

    def program(self, name, *arguments):
        return self.as_owner(self.programs / name, *arguments)

    def initialize(self):
        secret = self.home / "password"
        secret.write_text(self.password)
        self.as_owner("chown", "postgres", secret, user="root")
        made = ("--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8")
        self.program("initdb", "-D", self.home / "data", "-U", "skald", *made)
        with open(self.home / "data/pg_hba.conf", "a") as rules:
            rules.write("host all all 10.99.0.0/24 scram-sha-256\nhost replication all 10.99.0.0/24 scram-sha-256\n")

    def start(self):
        settings = {
            "listen_addresses": "*",
            "unix_socket_directories": self.home,
            "max_connections": 300,
            "shared_buffers": "64MB",
            "wal_keep_size": "512MB",
            "synchronous_commit": "on",
            "wal_receiver_status_interval": "1s",
        }
        flags = " ".join(f"-c {name}={value}" for name, value in settings.items())
        self.program("pg_ctl", "start", "--silent", "--wait", "-D", self.home / "data", "-l", self.home / "log", "-o", flags)

    def sql(self, text, database="postgres"):
        return self.program("psql", "-XAtq", "-h", self.home, "-U", "skald", "-d", database, "-c", text).strip()

    def follow(self, primary):
        """Copies the primary, and follows it."""
        shutil.rmtree(self.home / "data", ignore_errors=True)
        copied = ("-D", self.home / "data", "-R", "-X", "stream", "--checkpoint=fast")
        self.program("pg_basebackup", "-h", primary.address, "-U", "skald", *copied)
        self.start()

    def kill(self):
        """kill -9 of all of its processes."""
        for pid in map(int, quietly("ip", "netns", "pids", self.name).split()):
            os.kill(pid, signal.SIGKILL)
            # Orphans belong to the first process of the namespace, which this is. As long as one is not buried it counts as alive.
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass
        eventually(f"{self.name} is gone", lambda: not quietly("ip", "netns", "pids", self.name).split())
        (self.home / ".s.PGSQL.5432.lock").unlink(missing_ok=True)


class Postgres:
    """A primary with a synchronous standby, behind an address that moves from one to the other."""

    ADDRESS = "10.99.0.10"

    def __init__(self, home, programs):
        self.password = secrets.token_hex(12)
        self.primary, self.standby = (Server(number, home, programs, self.password) for number in (1, 2))
        self.primary.initialize()
        self.primary.start()
        for service in SERVICES:
            self.primary.sql(f'CREATE DATABASE "{service}"')
        self.primary.ip(f"addr add {self.ADDRESS}/24 dev eth0")
        self.pair()

    def pair(self):
        """Makes the standby anew; from now on a commit waits for it."""
        self.standby.follow(self.primary)
        self.primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.sql("SELECT pg_reload_conf()")
        asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
        eventually("the standby is in step", lambda: self.primary.sql(asked) == "1", pause=0.2)

    def promote(self):
        """The standby becomes the primary, without one of its own for now, and gets the address. The old one must be gone."""
        old, new = self.primary, self.standby
        new.program("pg_ctl", "promote", "--silent", "--wait", "-D", new.home / "data")
        new.sql("ALTER SYSTEM SET synchronous_standby_names = ''")
        new.sql("SELECT pg_reload_conf()")
        eventually("it waits for nobody", lambda: new.sql("SHOW synchronous_standby_names") == "", pause=0.1)
        old.ip(f"addr del {self.ADDRESS}/24 dev eth0")
        new.ip(f"addr add {self.ADDRESS}/24 dev eth0")
        # Who knew the address asks anew where it is.
        for neighbours in (["ip"], *(["ip", "-n", host.name] for host in (old, new))):
            quietly(*neighbours, "neigh", "flush", "all")
        self.primary, self.standby = new, old

    def url(self, database):
        return f"postgres://skald:{self.password}@{self.ADDRESS}:5432/{database}"

    def rows(self, database, query):
        """What a query gives, as JSON text of a list of objects."""
        return self.primary.sql(f"SELECT coalesce(json_agg(t), '[]') FROM ({query}) t", database)


# The services.


class Shop:
    """Processes of `skald serve`; order and payment twice."""

    def __init__(self, binary, home, kafka, postgres):
        self.binary, self.home, self.kafka, self.postgres = binary, home, kafka, postgres
        self.doors = {"order": [8082, 8182], "product": [8081], "payment": [8083, 8183], "user": [8080], "notification": [8084]}
        self.processes = {}
        self.skald("topics", "apply", "--kafka", kafka.addresses())
        # An election may be under way.
        eventually("the topics are as they should be", lambda: self.asked("topics", "check", "--kafka", kafka.addresses())[0] == 0)
        for service, ports in self.doors.items():
            for port in ports:
                self.start(service, port)

    def environment(self, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SKALD_")}
        return kept | KNOBS | more

    def start(self, service, port):
        command = [self.binary, "serve", service, "--listen", f"127.0.0.1:{port}", "--kafka", self.kafka.addresses()]
        more = {"SKALD_DATABASE": self.postgres.url(service)}
        if service != "user":
            command += ["--jwks", "http://127.0.0.1:8080/.well-known/jwks.json"]
        if service == "order":
            command += ["--stock-check", "http://127.0.0.1:50052"]
        if service == "product":
            more["SKALD_PRODUCT_GRPC_LISTEN"] = "127.0.0.1:50052"
        if service == "user":
            more |= {"SKALD_ADMIN_EMAIL": ADMIN[0], "SKALD_ADMIN_PASSWORD": ADMIN[1]}
        log = open(self.home / f"{service}-{port}.log", "a")
        process = subprocess.Popen(command, env=self.environment(**more), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes[service, port] = process

    def have_ended(self):
        """Processes that have ended by themselves: none should."""
        ended = {door: process.returncode for door, process in self.processes.items() if process.poll() is not None}
        return [f"{service} on {port} with {code}" for (service, port), code in ended.items()]

    def asked(self, *arguments):
        command, quiet = [self.binary, *arguments], {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        done = subprocess.run(command, env=self.environment(), **quiet)
        return done.returncode, done.stdout + done.stderr

    def skald(self, *arguments):
        code, said = self.asked(*arguments)
        if code != 0:
            raise SystemExit(f"skald {' '.join(arguments[:2])} ended with {code}: {said}")

    def audit(self):
        databases = [flag for service in SERVICES for flag in ("--database", f"{service}={self.postgres.url(service)}")]
        return self.asked("audit", "--settled", *databases)
