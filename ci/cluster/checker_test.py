"""Whether the checker's laws bite: a day on which all went well, and what happens to it when somebody breaks each of them."""

import copy

from checker import (
    LAWS,
    a_cancel_that_was_taken_cancels,
    answers_are_among_those_that_may_be,
    broken,
    each_end_is_told_once,
    money_is_taken_once_for_what_is_confirmed,
    nothing_is_there_that_nobody_asked_for,
    nothing_was_set_aside,
    one_key_is_one_order,
    sagas_and_orders_agree,
    stock_is_sold_for_what_is_confirmed,
    what_was_accepted_is_there_and_has_ended,
    what_was_refused_is_not_there,
    what_was_seen_never_goes_back,
)


def example():
    """A day on which all went well: one order was confirmed, one cancelled by its customer, one refused."""

    def line(what, order, sent, status, **more):
        least = {"customer": 0, "order": order, "what": what, "sent": sent, "heard": sent + 0.5, "status": status, "code": None}
        return least | {"location": None, "id": None, "state": None, "saga": None} | more

    def place(order, sent, id, **more):
        more = {"token": "tok_ok", "quantities": [order + 1, 1], "location": f"/v1/orders/{id}", "id": id} | more
        return line("place", order, sent, 202, **({"state": "pending", "saga": "ReservingStock"} | more))

    def read(order, sent, id, state, saga):
        return line("read", order, sent, 200, id=id, state=state, saga=saga)

    journal = [
        place(0, 1, "a"),
        place(0, 2, "a", saga="AuthorizingPayment"),
        read(0, 3, "a", "confirmed", "Confirmed"),
        place(1, 4, "b"),
        line("cancel", 1, 5, 202, id="b", state="pending", saga="ReleasingStock"),
        read(1, 6, "b", "cancelled", "Cancelled"),
        place(2, 7, None) | {"status": 503, "code": "backlogged", "state": None, "saga": None, "location": None},
    ]
    event = lambda id, kind: {"stream": f"order-{id}", "kind": f"order.Order{kind}"}

    def row(id, pieces):
        lines = [{"product_id": "p", "quantity": pieces}, {"product_id": "q", "quantity": 1}]
        return {"order_id": id, "customer_id": "c", "total_minor": 5 * (pieces + 1), "lines": lines}

    def charge(id, captured):
        nothing = {"order_id": id, "held_minor": 0, "captured_minor": 0, "refunded_minor": 0, "captures": 0}
        return nothing | ({"captured_minor": captured, "captures": 1} if captured else {})

    told = lambda id, end: {"order_id": id, "template": f"order_{end}", "status": "delivered"}
    world = {
        "customers": [{"id": "c", "email": "customer-0@shop.example"}],
        "events": [event("a", "Placed"), event("a", "Confirmed"), event("b", "Placed"), event("b", "Cancelled")],
        "lines": [row("a", 1), row("b", 2)],
        "charges": [charge("a", 10), charge("b", 0)],
        "stock": [{"product_id": product, "on_hand": 9, "reserved": 0, "sold": 1, "added": 10} for product in "pq"],
        "notifications": [told("a", "confirmed"), told("b", "cancelled")],
        "sagas": [{"id": "a", "state": "Confirmed", "ended_us": 1}, {"id": "b", "state": "Cancelled", "ended_us": 1}],
        "dead_letters": [],
    }
    return journal, world


# What is done to that day, and the law that must notice.
def lose_an_order(journal, world):
    world["lines"].pop(0)


def leave_an_order_open(journal, world):
    world["events"].pop(1)


def end_it_twice(journal, world):
    world["events"].append({"stream": "order-a", "kind": "order.OrderCancelled"})


def keep_what_was_refused(journal, world):
    world["lines"].append(copy.deepcopy(world["lines"][0]) | {"order_id": "z"})
    world["lines"][-1]["lines"][0]["quantity"] = 3


def do_it_twice(journal, world):
    world["lines"].append(copy.deepcopy(world["lines"][0]) | {"order_id": "z"})


def answer_with_another(journal, world):
    journal[1] |= {"id": "b", "location": "/v1/orders/b"}


def make_one_up(journal, world):
    world["lines"].append(copy.deepcopy(world["lines"][0]) | {"order_id": "z"})
    world["lines"][-1]["lines"][0]["quantity"] = 77


def go_back(journal, world):
    journal.append(journal[2] | {"sent": 20, "heard": 21, "state": "pending", "saga": "CapturingPayment"})


def change_ones_mind(journal, world):
    journal[2] |= {"state": "cancelled", "saga": "Cancelled"}


def ignore_a_cancel(journal, world):
    world["events"][3] |= {"kind": "order.OrderConfirmed"}


def charge_twice(journal, world):
    world["charges"][0] |= {"captures": 2}


def keep_the_money(journal, world):
    world["charges"][1] |= {"captured_minor": 15}


def confirm_what_was_declined(journal, world):
    for line in journal[:2]:
        line["token"] = "tok_declined"


def keep_a_reservation(journal, world):
    world["stock"][0] |= {"reserved": 1, "on_hand": 8}


def tell_nobody(journal, world):
    world["notifications"].pop()


def leave_a_saga_running(journal, world):
    world["sagas"][0] |= {"state": "CommittingStock", "ended_us": None}


def fail(journal, world):
    journal[2] |= {"status": 500}


def forget(journal, world):
    journal[2] |= {"status": 404}


def set_aside(journal, world):
    world["dead_letters"].append({"topic": "order.events.v1", "error": "undecodable", "solved_us": None})


BREAKS = [
    (lose_an_order, what_was_accepted_is_there_and_has_ended),
    (leave_an_order_open, what_was_accepted_is_there_and_has_ended),
    (end_it_twice, what_was_accepted_is_there_and_has_ended),
    (keep_what_was_refused, what_was_refused_is_not_there),
    (do_it_twice, one_key_is_one_order),
    (answer_with_another, one_key_is_one_order),
    (make_one_up, nothing_is_there_that_nobody_asked_for),
    (go_back, what_was_seen_never_goes_back),
    (change_ones_mind, what_was_seen_never_goes_back),
    (ignore_a_cancel, a_cancel_that_was_taken_cancels),
    (charge_twice, money_is_taken_once_for_what_is_confirmed),
    (keep_the_money, money_is_taken_once_for_what_is_confirmed),
    (confirm_what_was_declined, money_is_taken_once_for_what_is_confirmed),
    (keep_a_reservation, stock_is_sold_for_what_is_confirmed),
    (tell_nobody, each_end_is_told_once),
    (leave_a_saga_running, sagas_and_orders_agree),
    (fail, answers_are_among_those_that_may_be),
    (forget, answers_are_among_those_that_may_be),
    (set_aside, nothing_was_set_aside),
]


def main():
    found = broken(*example(), ["p", "q"])
    assert not found, found
    for damage, law in BREAKS:
        journal, world = example()
        damage(journal, world)
        laws = {name for name, _ in broken(journal, world, ["p", "q"])}
        assert law.__name__ in laws, f"{damage.__name__} was not noticed by {law.__name__}, but by {laws}"
    assert {law for _, law in BREAKS} == set(LAWS), "each law is broken once"
    print(f"the checker: {len(LAWS)} laws hold on a good day, and {len(BREAKS)} ways to break them are noticed")


main()
