"""The cluster suite: what goes wrong, in which order, and when. ci/cluster.sh starts this in namespaces of its own.

Never here: how a server is killed (`servers.py`), what clients do (`clients.py`), what must hold in the end (`checker.py`).
"""

import argparse
import json
import os
import random
import secrets
import sys
import threading
import time
from pathlib import Path

import checker
import clients
import servers
from servers import eventually, tell

# So many have to come to their end while something is away, and between two faults.
ORDERS_BETWEEN = 12


class Suite:
    def __init__(self, home, jars, programs, binary, seed):
        self.home, self.random, self.stop = home, random.Random(seed), threading.Event()
        servers.network()
        self.kafka = servers.Kafka(home, jars)
        self.postgres = servers.Postgres(home, programs)
        eventually("three brokers are one cluster", self.kafka.is_whole)
        tell("three brokers and a PostgreSQL with its standby are up")
        self.shop = servers.Shop(binary, home, self.kafka, self.postgres)
        admin = clients.login(self.shop.doors, *servers.ADMIN)
        self.products = [clients.stock(self.shop.doors, admin, sku, 1_000_000_000) for sku in ("TEA-1", "TEA-2")]
        self.journal = clients.Journal(home / "journal")
        self.customers = [
            clients.Customer(number, self.shop.doors, self.products, self.journal, seed, self.stop)
            for number in range(clients.CUSTOMERS)
        ]
        tell(f"the services are up, with {len(self.customers)} customers")
        for customer in self.customers:
            customer.start()

    # What goes wrong: told, waited for until it has its effect, and mended.

    def broker_killed(self):
        broker = self.random.choice(self.kafka.others(self.kafka.controller()))
        tell(f"kill -9 of broker {broker.node}")
        self.killed(broker)

    def controller_killed(self):
        broker = self.kafka.controller()
        tell(f"kill -9 of broker {broker.node}, which leads the controllers")
        self.killed(broker)

    def killed(self, broker):
        broker.kill()
        self.gone(broker)
        broker.start()

    def two_brokers_killed(self):
        two = self.random.sample(self.kafka.brokers, 2)
        tell(f"kill -9 of brokers {two[0].node} and {two[1].node}: Kafka takes nothing")
        refused = self.journal.refused
        for broker in two:
            broker.kill()
        # Until so much waits for Kafka that no more is taken.
        eventually("orders are refused", lambda: self.journal.refused > refused + 10)
        for broker in two:
            broker.start()

    def broker_cut_off(self):
        broker = self.random.choice(self.kafka.brokers)
        tell(f"broker {broker.node} is cut off from the others, and not from its clients")
        broker.cut_from(self.kafka.others(broker))
        self.gone(broker)
        broker.join(self.kafka.others(broker))

    def cable_pulled(self):
        broker = self.random.choice(self.kafka.brokers)
        tell(f"broker {broker.node} is cut off from everybody")
        broker.pull()
        self.gone(broker)
        broker.plug()

    def broker_frozen(self):
        broker = self.random.choice(self.kafka.brokers)
        tell(f"broker {broker.node} stands still")
        broker.freeze()
        self.gone(broker)
        broker.thaw()

    def gone(self, broker):
        """Waits until the two others do without it, and orders end."""
        two = self.kafka.others(broker)
        eventually(f"broker {broker.node} counts as dead", lambda: all(broker.node not in other.living() for other in two))
        self.orders_end()

    def primary_killed(self):
        tell(f"kill -9 of {self.postgres.primary.name}, and its standby is promoted")
        self.postgres.primary.kill()
        self.postgres.promote()
        self.orders_end()
        self.postgres.pair()

    def primary_unreachable(self):
        old = self.postgres.primary
        tell(f"{old.name} is cut off from everybody, and its standby is promoted")
        old.pull()
        self.postgres.promote()
        self.orders_end()
        # It must not come back as it was.
        old.kill()
        old.plug()
        self.postgres.pair()

    def standby_killed(self):
        tell(f"kill -9 of {self.postgres.standby.name}, the standby: no commit returns")
        self.postgres.standby.kill()
        unanswered = self.journal.unanswered + self.journal.refused
        eventually("commits wait", lambda: self.journal.unanswered + self.journal.refused > unanswered)
        self.postgres.standby.start()

    SHORT = (broker_killed, controller_killed, two_brokers_killed, broker_cut_off, broker_frozen, primary_killed)
    ALL = (*SHORT, cable_pulled, standby_killed, primary_unreachable)

    def happen(self, fault):
        accepted, refused = self.journal.accepted, self.journal.refused
        self.journal.pause()
        fault(self)
        eventually("all replicas are in sync", self.kafka.is_whole)
        self.orders_end()
        accepted, refused = self.journal.accepted - accepted, self.journal.refused - refused
        tell(f"… over: {accepted} orders taken, {refused} refused, none ended for {self.journal.pause():.1f} s at most")

    def orders_end(self):
        """Waits until some more have ended, and sees that everybody is still there."""
        wanted = self.journal.ended + ORDERS_BETWEEN
        eventually("orders end", lambda: self.journal.ended >= wanted)
        ended = self.shop.have_ended()
        assert not ended, f"ended by themselves: {ended}"
        failed = [customer.failed for customer in self.customers if customer.failed]
        assert not failed, failed

    # The end.

    def settle(self):
        """Every order ends; the audit holds, and so does what the clients know."""
        self.stop.set()
        for customer in self.customers:
            customer.join(150)
            assert not customer.is_alive() and not customer.failed, f"a customer has not come to an end: {customer.failed}"
        left = sum(len(customer.open) for customer in self.customers)
        assert left == 0, f"{left} orders have not ended"
        tell("every order has ended")
        said = []

        def holds():
            code, text = self.shop.audit()
            said.append(text)
            return code == 0

        try:
            eventually("the settled audit holds", holds, pause=0.5)
        finally:
            (self.home / "audit").write_text(said[-1])
        world = checker.world_of(self.postgres.rows)
        (self.home / "world").write_text(json.dumps({"world": world, "products": self.products}))
        with open(self.home / "journal") as lines:
            journal = [json.loads(line) for line in lines]
        found = checker.broken(journal, world, self.products)
        for law, sentence in found:
            print(f"{law.replace('_', ' ')}: {sentence}")
        assert not found, f"{len(found)} times the end is not what clients were answered"
        counts = f"{self.journal.accepted} orders, {self.journal.refused} refusals, {self.journal.unanswered} requests without an answer"
        tell(f"{counts}: all ended, nothing lost, nothing twice, in {len(journal)} answers")


def schedule(suite, minutes):
    """The faults to come: each of the short ones once, or all of them again and again until the time is over."""
    if minutes is None:
        yield from suite.random.sample(suite.SHORT, len(suite.SHORT))
        return
    until = time.monotonic() + minutes * 60
    while True:
        for fault in suite.random.sample(suite.ALL, len(suite.ALL)):
            if time.monotonic() > until:
                return
            yield fault


def leave_with_the_script():
    """Ends when the script that started this has ended, whatever ended it; as the first process of its namespace it takes all with it."""
    sys.stdin.read()
    os._exit(1)


def main():
    parser = argparse.ArgumentParser()
    for name in ("home", "jars", "programs"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--faults", help="these only, in this order")
    chosen = parser.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    print(f"to see the same faults again: SKALD_CLUSTER_SEED={seed}", flush=True)
    threading.Thread(target=leave_with_the_script, daemon=True).start()
    suite = Suite(chosen.home, chosen.jars, chosen.programs, chosen.binary, seed)
    faults = schedule(suite, chosen.minutes)
    if chosen.faults:
        faults = [getattr(Suite, name) for name in chosen.faults.split(",")]
    suite.orders_end()
    for fault in faults:
        suite.happen(fault)
    suite.settle()


main()
