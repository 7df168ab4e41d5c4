"""The customers of the cluster suite, and the journal of what they were answered, and when.

Each line of the journal is a request with its answer, or with none. Every order of a customer differs from all their others by its
quantities, so that an order found later tells which request it came from, whatever was answered. Never here: what must hold.
"""

import http.client
import json
import random
import threading
import time

TIMEOUT = 8.0
CUSTOMERS = 8
# Refused, and nothing was done, as the pages of these codes say that the services have at /docs/errors.
NOTHING_DONE = {"backlogged", "overloaded", "unavailable", "stock_check_unavailable", "keys_unavailable", "shutting_down"}


class Away(Exception):
    """No answer: what became of the request is not known."""


def call(port, method, path, body=None, token=None, key=None, timeout=TIMEOUT):
    """One request on a connection of its own: status, Location, and the body as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["Idempotency-Key"] = key
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, answer.getheader("Location"), json.loads(text) if text else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Away(str(error)) from error
    finally:
        connection.close()


class Journal:
    """Lines in the order of their answers; times are those of one monotonic clock."""

    def __init__(self, path):
        self.file, self.lock = open(path, "w"), threading.Lock()
        self.accepted, self.refused, self.unanswered, self.ended = 0, 0, 0, 0
        self.newest, self.longest = time.monotonic(), 0.0

    def write(self, line):
        with self.lock:
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()

    def count(self, accepted=0, refused=0, unanswered=0, ended=0):
        with self.lock:
            self.accepted, self.refused = self.accepted + accepted, self.refused + refused
            self.unanswered, self.ended = self.unanswered + unanswered, self.ended + ended
            if ended:
                now = time.monotonic()
                self.longest, self.newest = max(self.longest, now - self.newest), now

    def pause(self):
        """The longest time in which no order came to its end, since the last call."""
        with self.lock:
            longest, self.longest = max(self.longest, time.monotonic() - self.newest), 0.0
            self.newest = time.monotonic()
            return longest


def persistently(ask, wanted, patience=120.0):
    """For what only sets the stage: asks until it is answered as it should be."""
    until = time.monotonic() + patience
    while True:
        try:
            answer = ask()
            if answer[0] in wanted:
                return answer
        except Away as error:
            answer = error
        if time.monotonic() > until:
            raise SystemExit(f"the stage can't be set: {answer}")
        time.sleep(0.2)


def login(doors, email, password):
    credentials = {"email": email, "password": password}
    _, _, tokens = persistently(lambda: call(doors["user"][0], "POST", "/v1/login", credentials), {200})
    return tokens["access_token"]


def stock(doors, token, sku, pieces):
    """A new product."""
    price = {"amount_minor": 5, "currency": "EUR"}
    product = {"sku": sku, "title": sku, "category": "test", "price": price, "stock": pieces}
    _, _, made = persistently(lambda: call(doors["product"][0], "POST", "/v1/products", product, token, sku), {201})
    return made["id"]


class Customer(threading.Thread):
    """Places one order after the other until told to stop, and follows each to its end."""

    def __init__(self, number, doors, products, journal, seed, stop):
        super().__init__(daemon=True)
        self.number, self.doors, self.products, self.journal, self.stop = number, doors, products, journal, stop
        self.random = random.Random(f"{seed}-{number}")
        self.email, self.password = f"customer-{number}@shop.example", f"the password of {number}"
        self.failed, self.open = None, []
        account = {"email": self.email, "password": self.password, "name": f"Customer {number}"}
        persistently(lambda: call(doors["user"][0], "POST", "/v1/register", account), {201, 409})
        self.token = login(doors, self.email, self.password)

    def run(self):
        try:
            for number in range(10**6):
                if self.stop.is_set():
                    break
                self.place(number)
                self.follow()
                time.sleep(self.random.uniform(0, 0.25))
            until = time.monotonic() + 120
            while self.open and time.monotonic() < until:
                self.follow()
                time.sleep(0.1)
        except BaseException as error:
            self.failed = error
            raise

    def ask(self, line, method, path, body=None, key=None):
        """One request and its line; status and code."""
        port = self.random.choice(self.doors["order"])
        line |= {"customer": self.number, "door": port, "sent": time.monotonic()}
        try:
            status, location, answer = call(port, method, path, body, self.token, key)
            if status == 401:
                self.token = login(self.doors, self.email, self.password)
            answer = answer or {}
            line |= {"status": status, "code": answer.get("code"), "location": location, "id": answer.get("id")}
            line |= {"state": answer.get("status"), "saga": (answer.get("saga") or {}).get("state"), "reason": answer.get("reason")}
        except Away as error:
            line |= {"status": None, "error": str(error)}
        line["heard"] = time.monotonic()
        self.journal.write(line)
        return line["status"], line.get("code")

    def place(self, number):
        """Asks until it is taken, or refused for good: some give up when they are refused, others go on."""
        token = self.random.choices(["tok_ok", "tok_declined", "tok_lost", "tok_capture_refused", "tok_slow"], [80, 8, 6, 4, 2])[0]
        quantities = (1 + number % 1000, 1 + number // 1000)
        items = [{"product_id": product, "quantity": pieces} for product, pieces in zip(self.products, quantities, strict=True)]
        body, key = {"items": items, "payment": {"token": token}}, f"{self.number}-{number}"
        gives_up, cancels = self.random.random() < 0.3, token != "tok_slow" and self.random.random() < 0.1
        while True:
            line = {"what": "place", "order": number, "key": key, "token": token, "quantities": quantities}
            status, code = self.ask(line, "POST", "/v1/orders", body, key)
            if status == 202:
                break
            if status == 503 and code in NOTHING_DONE:
                self.journal.count(refused=1)
                if gives_up:
                    return
            elif status is None or status == 503:
                self.journal.count(unanswered=1)
            if self.stop.is_set() and gives_up:
                return
            time.sleep(0.2)
        self.journal.count(accepted=1)
        if self.random.random() < 0.2:
            # The same again: it must be the same.
            self.ask(dict(line, what="place", heard=None), "POST", "/v1/orders", body, key)
        if cancels:
            self.ask({"what": "cancel", "order": number}, "POST", f"/v1/orders/{line['id']}/cancel", None, f"cancel-{key}")
        self.open.append((number, line["id"]))

    def follow(self):
        """Looks at those that have not ended, oldest first, and at one that has."""
        for number, id in self.open[:3]:
            line = {"what": "read", "order": number}
            self.ask(line, "GET", f"/v1/orders/{id}")
            if line.get("state") in ("confirmed", "cancelled"):
                self.open.remove((number, id))
                self.journal.count(ended=1)
                # Once more: what has ended has ended.
                self.ask({"what": "read", "order": number}, "GET", f"/v1/orders/{id}")
