"""Holds what the clients were answered against what is there in the end: two readings that know nothing of each other.

It uses nothing of Skald's: not the audit, not its client. The journal says what was promised; SQL of its own says what was kept. Each
law is a function that tells what breaks it. `checker.py JOURNAL WORLD` does it again with what a run has left; that each law bites
is seen by `checker_test.py`.
"""

import json
import sys
from collections import Counter, defaultdict

ENDED = ("confirmed", "cancelled")
# No saga comes from a later one of these to an earlier one.
FORTH = ["ReservingStock", "AuthorizingPayment", "CapturingPayment", "CommittingStock"]
WAY = [*FORTH, "VoidingPayment", "ReleasingStock", "Confirmed", "Cancelled"]
# Tokens for which the provider never gives money.
NEVER_PAID = {"tok_declined", "tok_capture_refused"}
# Refusals after which nothing may be there.
NOTHING_DONE = {"backlogged", "overloaded", "unavailable", "stock_check_unavailable", "keys_unavailable", "shutting_down"}
# What a customer may be told here at all; 401: a token that has expired.
EXPECTED = {
    "place": {202, 401, 409, 503, None},
    "read": {200, 401, 503, None},
    "cancel": {200, 202, 401, 409, 503, None},
}


def world_of(rows):
    """What is there: `rows(database, query)` gives the rows of a query, as JSON."""
    read = lambda database, query: json.loads(rows(database, query))
    events = "SELECT position, stream, version, kind, data::json AS data FROM log WHERE kind LIKE 'order.%' ORDER BY position"
    return {
        "customers": read("user", "SELECT id, email FROM users WHERE role = 'customer'"),
        "events": read("order", events),
        "lines": read("order", "SELECT order_id, customer_id, lines::json AS lines, total_minor FROM orders"),
        "charges": read("payment", "SELECT order_id, held_minor, captured_minor, refunded_minor, captures FROM provider_charges"),
        "stock": read("product", "SELECT product_id, on_hand, reserved, sold, added FROM stock"),
        "notifications": read("notification", "SELECT order_id, template, status FROM notifications"),
        "sagas": read("order", "SELECT id, state, ended_us FROM sagas"),
        "dead_letters": [letter for service in ("order", "product", "payment", "notification")
                         for letter in read(service, "SELECT topic, error, solved_us FROM dead_letters")],
    }


class Case:
    """Journal and world, joined by customer and quantities: by order they are one of a kind."""

    def __init__(self, journal, world, products):
        self.journal, self.world, self.products = journal, world, products
        self.asked = defaultdict(list)
        self.seen = defaultdict(list)
        self.cancels = defaultdict(list)
        for line in journal:
            name = (line["customer"], line["order"])
            {"place": self.asked, "read": self.seen, "cancel": self.cancels}[line["what"]][name].append(line)
        numbers = {row["id"]: int(row["email"].split("@")[0].removeprefix("customer-")) for row in world["customers"]}
        self.found = defaultdict(list)
        for row in world["lines"]:
            pieces = {line["product_id"]: line["quantity"] for line in row["lines"]}
            first, second = (pieces.get(product, 0) for product in products)
            self.found[numbers[row["customer_id"]], (second - 1) * 1000 + first - 1].append(row)
        self.ends = defaultdict(list)
        self.placed = Counter()
        for event in world["events"]:
            id = event["stream"].removeprefix("order-")
            if event["kind"] == "order.OrderPlaced":
                self.placed[id] += 1
            elif event["kind"] == "order.OrderConfirmed":
                self.ends[id].append("confirmed")
            elif event["kind"] == "order.OrderCancelled":
                self.ends[id].append("cancelled")
        self.charges = {row["order_id"]: row for row in world["charges"]}

    def accepted(self):
        """Name and id of each order that was answered 202."""
        for name, lines in self.asked.items():
            for line in lines:
                if line["status"] == 202:
                    yield name, line

    def end(self, id):
        return self.ends[id][0] if len(self.ends[id]) == 1 else None


def answers_are_among_those_that_may_be(case):
    for line in case.journal:
        if line["status"] not in EXPECTED[line["what"]]:
            yield f"{line['what']} of {line['customer']}-{line['order']} was answered {line['status']} {line.get('code')}"


def what_was_accepted_is_there_and_has_ended(case):
    for name, line in case.accepted():
        if line["id"] not in {row["order_id"] for row in case.found[name]}:
            yield f"{name} was answered 202 as {line['id']}, which is not there"
        elif case.end(line["id"]) is None:
            yield f"{name}, {line['id']}, was accepted and has the ends {case.ends[line['id']]}"


def one_key_is_one_order(case):
    for name, lines in case.asked.items():
        ids = {line["id"] for line in lines if line["status"] == 202}
        if len(ids) > 1 or len(case.found[name]) > 1:
            yield f"{name} was answered {ids}, and {[row['order_id'] for row in case.found[name]]} are there"
        for line in lines:
            if line["status"] == 202 and line["location"] != f"/v1/orders/{line['id']}":
                yield f"{name} is {line['id']} at {line['location']}"


def what_was_refused_is_not_there(case):
    for name, lines in case.asked.items():
        is_refused = all(line["status"] in (401, 409) or (line["status"] == 503 and line["code"] in NOTHING_DONE) for line in lines)
        # Of 409 only a request that is under way may leave something behind.
        if is_refused and all(line["code"] != "request_in_flight" for line in lines) and case.found[name]:
            yield f"{name} was refused with {[line['code'] for line in lines]} and is there"


def nothing_is_there_that_nobody_asked_for(case):
    for name, rows in case.found.items():
        if rows and name not in case.asked:
            yield f"nobody asked for {name}, {rows}"
        for row in rows:
            wanted = case.asked[name][0]["quantities"] if case.asked[name] else None
            pieces = {line["product_id"]: line["quantity"] for line in row["lines"]}
            if wanted is not None and [pieces.get(product) for product in case.products] != list(wanted):
                yield f"{name} asked for {wanted} and got {row['lines']}"
    for id, count in case.placed.items():
        if count != 1 or id not in {row["order_id"] for rows in case.found.values() for row in rows}:
            yield f"{id} was placed {count} times"


def what_was_seen_never_goes_back(case):
    for name in case.asked:
        # Whoever asks after an answer has come gets nothing older; two that overlap may come in either order.
        lines = [line for line in case.asked[name] + case.seen[name] + case.cancels[name] if line.get("saga")]
        lines.sort(key=lambda line: line["sent"])
        furthest = []
        for line in lines:
            rank = WAY.index(line["saga"])
            for earlier in furthest:
                if earlier["heard"] <= line["sent"] and WAY.index(earlier["saga"]) > rank:
                    yield f"{name} was seen {earlier['saga']} at {earlier['heard']:.3f} and {line['saga']} at {line['sent']:.3f}"
            furthest.append(line)
        ids = [line["id"] for line in case.asked[name] if line["status"] == 202]
        for line in case.seen[name]:
            if line["status"] == 200 and line["state"] in ENDED and ids and case.end(ids[0]) != line["state"]:
                yield f"{name} was seen {line['state']} and is {case.end(ids[0])}"


def a_cancel_that_was_taken_cancels(case):
    for name, lines in case.cancels.items():
        if any(line["status"] in (200, 202) for line in lines):
            for row in case.found[name]:
                if case.end(row["order_id"]) != "cancelled":
                    yield f"{name} was cancelled by its customer and is {case.end(row['order_id'])}"


def money_is_taken_once_for_what_is_confirmed(case):
    for name, rows in case.found.items():
        for row in rows:
            charge = case.charges.get(row["order_id"], {"held_minor": 0, "captured_minor": 0, "refunded_minor": 0, "captures": 0})
            kept, end = charge["captured_minor"] - charge["refunded_minor"], case.end(row["order_id"])
            wanted = row["total_minor"] if end == "confirmed" else 0
            if kept != wanted or charge["held_minor"] != 0 or charge["captures"] > 1:
                yield f"{name} over {row['total_minor']} is {end}, and the provider has {charge}"
            if end == "confirmed" and case.asked[name] and case.asked[name][0]["token"] in NEVER_PAID:
                yield f"{name} is confirmed with {case.asked[name][0]['token']}"
    for id in case.charges.keys() - {row["order_id"] for rows in case.found.values() for row in rows}:
        yield f"the provider was asked for {id}, which nobody ordered"


def stock_is_sold_for_what_is_confirmed(case):
    sold = Counter()
    for rows in case.found.values():
        for row in rows:
            if case.end(row["order_id"]) == "confirmed":
                for line in row["lines"]:
                    sold[line["product_id"]] += line["quantity"]
    for row in case.world["stock"]:
        if (row["reserved"], row["sold"]) != (0, sold[row["product_id"]]) or row["on_hand"] + row["sold"] != row["added"]:
            yield f"{sold[row['product_id']]} pieces were sold, and the stock is {row}"


def each_end_is_told_once(case):
    told = defaultdict(list)
    for row in case.world["notifications"]:
        told[row["order_id"]].append((row["template"], row["status"]))
    for id in case.placed.keys() | told.keys():
        if told[id] != [(f"order_{case.end(id)}", "delivered")]:
            yield f"{id} is {case.end(id)}, and its customer was told {told[id]}"


def sagas_and_orders_agree(case):
    states = {row["id"]: (row["state"].lower(), row["ended_us"] is not None) for row in case.world["sagas"]}
    for id in case.placed.keys() | states.keys():
        if states.get(id) != (case.end(id), True):
            yield f"{id} is {case.end(id)}, and its saga {states.get(id)}"


def nothing_was_set_aside(case):
    for letter in case.world["dead_letters"]:
        yield f"a dead letter of {letter['topic']}: {letter['error']}"


LAWS = [
    answers_are_among_those_that_may_be,
    what_was_accepted_is_there_and_has_ended,
    one_key_is_one_order,
    what_was_refused_is_not_there,
    nothing_is_there_that_nobody_asked_for,
    what_was_seen_never_goes_back,
    a_cancel_that_was_taken_cancels,
    money_is_taken_once_for_what_is_confirmed,
    stock_is_sold_for_what_is_confirmed,
    each_end_is_told_once,
    sagas_and_orders_agree,
    nothing_was_set_aside,
]


def broken(journal, world, products):
    """Law and sentence for whatever does not hold."""
    case = Case(journal, world, products)
    return [(law.__name__, sentence) for law in LAWS for sentence in law(case)]


def main(arguments):
    with open(arguments[0]) as lines:
        journal = [json.loads(line) for line in lines]
    with open(arguments[1]) as file:
        kept = json.load(file)
    found = broken(journal, kept["world"], kept["products"])
    for law, sentence in found:
        print(f"{law.replace('_', ' ')}: {sentence}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
