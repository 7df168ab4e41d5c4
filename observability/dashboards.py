"""The Grafana dashboards, as code: `python3 observability/dashboards.py DIRECTORY` writes them as JSON.

Never here: what a metric means (metrics.txt), or when somebody is called (prometheus/rules.yml). ci/prometheus.sh fails where the
files in grafana/dashboards are not what this writes; SKALD_GENERATE=1 ci/prometheus.sh writes them anew.

Gauges that every replica of a service has of the same database are taken once, by max. What only trouble brings is drawn as 0
until then, so that a panel without data always means that something is not connected.
"""

import json
import sys
from pathlib import Path

PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
COLUMNS, HEIGHT = 24, 8


def rate(metric, by="", where=""):
    """Events a second of a counter, summed over what is not named in `by`."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def once(metric, by, where=""):
    return f"max by ({by}) ({metric}{where})"


def counted(metric, by, where=""):
    """A counter's rate, a line for each value of the label."""
    return [(rate(metric, by, where), f"{{{{{by}}}}}")]


def held(metric, by, where=""):
    """A gauge, a line for each value of the label."""
    return [(once(metric, by, where), f"{{{{{by}}}}}")]


def or_zero(expression):
    return f"({expression}) or vector(0)"


def quantiles(histogram, where=""):
    buckets = rate(f"{histogram}_bucket", "le", where)
    return [(f"histogram_quantile({quantile / 100}, {buckets})", f"p{quantile}") for quantile in (50, 95, 99)]


def p95(histogram, by, where=""):
    return [(f"histogram_quantile(0.95, {rate(f'{histogram}_bucket', f'{by}, le', where)})", f"{{{{{by}}}}}")]


def panel(title, unit, queries, description, kind="timeseries", width=8, **custom):
    """One panel. `queries` are pairs of expression and legend; those of buckets bring their exemplars, which link to the trace."""
    targets = [
        {
            "datasource": PROMETHEUS,
            "refId": chr(ord("A") + at),
            "expr": expression,
            "legendFormat": legend,
            "exemplar": "_bucket" in expression,
        }
        for at, (expression, legend) in enumerate(queries)
    ]
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    style = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"} | custom.pop("style", {})
    defaults = {"unit": unit, "min": 0, "custom": style if kind == "timeseries" else {}} | custom
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": PROMETHEUS,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "gridPos": {"w": width, "h": HEIGHT // 2 if kind == "stat" else HEIGHT},
    }


def stat(title, unit, expression, description, red_from=None):
    """One number; red from a bound on, where there is one."""
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": red_from}] if red_from is not None else [])
    return panel(title, unit, [(expression, "")], description, "stat", 4, thresholds={"mode": "absolute", "steps": steps})


def section(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": COLUMNS, "h": 1}}


CLOCKS = [("max by (instance) (clock_ahead_seconds)", "{{instance}}")]
STACKED = {"stacking": {"mode": "normal"}, "fillOpacity": 40}


def orders():
    return [
        stat("Placed", "reqps", rate("saga_started_total"), "Orders taken a second; each starts a saga."),
        stat(
            "Confirmed",
            "percentunit",
            'sum (increase(saga_finished_total{outcome="Confirmed"}[$__range])) / sum (increase(saga_finished_total[$__range]))',
            "Share of the orders that ended confirmed, over the whole time shown.",
        ),
        stat("Open", "short", f"sum ({once('saga_in_state', 'saga, state')})", "Orders that have not ended."),
        stat(
            "Stuck",
            "short",
            or_zero(f"sum ({once('saga_stuck', 'saga, step')})"),
            "Sagas that ask without an answer; they go on asking.",
            1,
        ),
        stat(
            "Dead letters",
            "short",
            f"sum ({once('dlq_messages', 'service')})",
            "Messages that nobody has redriven or discarded yet.",
            1,
        ),
        stat("Alerts", "short", or_zero('count (ALERTS{alertstate="firing"})'), "Alerts that fire now; Prometheus lists them.", 1),
        panel(
            "Orders that begin and end",
            "reqps",
            [(rate("saga_started_total"), "placed"), (rate("saga_finished_total", "outcome"), "{{outcome}}")],
            "What is placed ends after a moment; a gap that stays between the two fills the panel beside.",
        ),
        panel("Waiting", "short", held("saga_in_state", "state"), "Open orders by the state in which they wait.", style=STACKED),
        panel("Placed to end", "s", quantiles("saga_duration_seconds"), "How long orders take until they are confirmed or cancelled."),
        *door(),
    ]


def door():
    placing = '{job="order", handler="/v1/orders", method="POST"}'
    return [
        section("At the door"),
        panel(
            "Placing an order: answers",
            "reqps",
            counted("http_requests_total", "status_class", placing),
            "4xx is a customer's mistake or an empty shelf; 5xx is ours.",
            style=STACKED,
        ),
        panel(
            "Placing an order: time",
            "s",
            quantiles("http_request_duration_seconds", placing),
            "Until the answer's head. A caller that asks to wait (Prefer: wait) waits for the end of the saga.",
        ),
        panel("Logins", "reqps", counted("user_logins_total", "outcome"), "By outcome. Many that fail are somebody who guesses."),
        section("Stock checks, over gRPC"),
        panel(
            "Checks",
            "reqps",
            counted("rpc_requests_total", "code"),
            "Calls answered by product, by status. Checks that arrive together share a call.",
            style=STACKED,
        ),
        panel("Time of a check", "s", quantiles("rpc_request_duration_seconds"), "As product sees it."),
        panel(
            "Breaker",
            "none",
            held("circuit_breaker_state", "breaker"),
            "Open: product did not answer some checks in a row, and orders get 503 until it does.",
            max=2,
            mappings=[{"type": "value", "options": {"0": {"text": "closed"}, "1": {"text": "half open"}, "2": {"text": "open"}}}],
        ),
    ]


def service():
    http, own = '{job="$service"}', '{service="$service"}'
    failed = or_zero(rate("http_requests_total", "", '{job="$service", status_class="5xx"}'))
    return [
        stat("Up", "none", f"sum (up{http})", "Replicas that answer Prometheus."),
        stat("Requests", "reqps", rate("http_requests_total", "", http), "Answered a second."),
        stat(
            "Errors",
            "percentunit",
            f"({failed}) / {rate('http_requests_total', '', http)}",
            "Share of the requests answered 5xx.",
            0.1,
        ),
        stat("p95", "s", quantiles("http_request_duration_seconds", http)[1][0], "19 of 20 requests are answered faster.", 1),
        stat(
            "Relay",
            "s",
            once("relay_oldest_age_seconds", "service", own),
            "Age of the oldest row that is not known to be on Kafka.",
            30,
        ),
        stat("Up since", "s", f"time() - max (process_start_time_seconds{http})", "Age of the youngest process."),
        panel(
            "Requests",
            "reqps",
            [(rate("http_requests_total", "handler, method", http), "{{method}} {{handler}}")],
            "Rate, by handler.",
            style=STACKED,
        ),
        panel(
            "Answers",
            "reqps",
            counted("http_requests_total", "status_class", http),
            "Errors, by class of status: 4xx is the caller's mistake, 5xx ours.",
            style=STACKED,
        ),
        panel(
            "Time",
            "s",
            quantiles("http_request_duration_seconds", http),
            "Duration until an answer's head. A dot is a request: it links to its trace.",
        ),
        panel("Time by handler, p95", "s", p95("http_request_duration_seconds", "handler", http), "Which handler is the slow one."),
        panel(
            "Log",
            "wps",
            [(rate("log_position", "", own), "rows"), (rate("log_commits_total", "", own), "transactions")],
            "Rows appended and transactions committed. The further apart, the more shares a commit.",
        ),
        panel(
            "Not published",
            "short",
            [(once("relay_lag_messages", "service", own), "rows")],
            "Rows of the log that are not known to be on Kafka.",
        ),
        *process(http),
    ]


def process(http):
    return [
        section("The process"),
        panel("Memory", "bytes", [(f"process_resident_memory_bytes{http}", "{{instance}}")], "What the process occupies."),
        panel(
            "Processor",
            "percentunit",
            [(f"rate(process_cpu_seconds_total{http}[$__rate_interval])", "{{instance}}")],
            "1 is one core, busy all the time.",
        ),
        panel("Open files and sockets", "short", [(f"process_open_fds{http}", "{{instance}}")], "A line that only climbs is a leak."),
        panel(
            "Threads busy",
            "percentunit",
            [(f"rate(runtime_busy_seconds_total{http}[$__rate_interval]) / runtime_workers{http}", "{{instance}}")],
            "Share of the time in which the async runtime's threads had something to do.",
        ),
        panel("Tasks", "short", [(f"runtime_alive_tasks{http}", "{{instance}}")], "Tasks of the runtime that have not ended."),
        panel(
            "Ready and waiting",
            "short",
            [(f"runtime_queue_depth{http}", "{{instance}}")],
            "Tasks that wait for a thread: more than a moment of it is too little processor.",
        ),
    ]


def kafka():
    return [
        stat(
            "Not published",
            "short",
            f"sum ({once('relay_lag_messages', 'service')})",
            "Rows of all logs that are not known to be on Kafka.",
        ),
        stat("Oldest", "s", "max (relay_oldest_age_seconds)", "Age of the oldest of them.", 30),
        stat("Not handled", "short", "sum (consumer_lag_messages)", "Messages on the topics that their consumers have not handled."),
        stat(
            "Parked",
            "short",
            f"sum ({once('consumer_parked_messages', 'service')})",
            "Messages that wait for one that Kafka has lost.",
            1,
        ),
        stat(
            "Dead letters",
            "short",
            f"sum ({once('dlq_messages', 'service')})",
            "Messages that nobody has redriven or discarded yet.",
            1,
        ),
        stat("Repeats", "ops", rate("consumer_repeats_total"), "Messages that came again and were skipped: after a crash, some are."),
        section("Out: from the logs to Kafka"),
        panel("Appended", "wps", counted("log_position", "service"), "Rows added to each service's log a second."),
        panel(
            "Not published",
            "short",
            held("relay_lag_messages", "service"),
            "Rows that are not known to be on Kafka. At --backlog-max the door closes.",
        ),
        panel(
            "Oldest row not published",
            "s",
            held("relay_oldest_age_seconds", "service"),
            "How far behind publishing is, in time. An alert fires at 30 s.",
        ),
        *consumers(),
    ]


def consumers():
    return [
        section("In: from Kafka to the services"),
        panel(
            "Not handled, by service",
            "short",
            [("sum by (consumer) (consumer_lag_messages)", "{{consumer}}")],
            "Messages on the topics that a service has not handled yet.",
        ),
        panel(
            "Not handled, by partition",
            "short",
            [("topk (10, sum by (topic, partition) (consumer_lag_messages))", "{{topic}} {{partition}}")],
            "The ten partitions that are furthest behind. One alone: a slow or parked message holds it up.",
        ),
        panel("Repeats", "ops", counted("consumer_repeats_total", "service"), "Messages that came again and were skipped."),
        section("Set aside"),
        panel("Parked", "short", held("consumer_parked_messages", "service"), "Messages that wait for a missing one."),
        panel("Dead letters, not redriven", "short", held("dlq_messages", "service"), "What somebody has to look at."),
        panel("Rows that can't be read", "short", held("rows_unreadable", "service"), "Of a newer build: they wait for it."),
        panel("Clocks", "s", CLOCKS, "How far each machine's is ahead of the time by which its process goes.", min=None),
        panel("Dead letters, made", "ops", counted("dlq_made_total", "service"), "Messages set aside a second."),
        section("Group commit"),
        panel(
            "Rows a transaction",
            "short",
            [(f"{rate('log_position', 'service')} / {rate('log_commits_total', 'service')}", "{{service}}")],
            "How much shares a commit: grows with the load.",
        ),
        panel(
            "Transactions",
            "wps",
            counted("log_commits_total", "service"),
            "Commits of each service's log a second, each one sync of the disk.",
        ),
    ]


def steps():
    saga, outcome = '{saga="$saga"}', 'sum by (operation) (rate(payment_provider_seconds_count{outcome=~"%s"}[$__rate_interval]))'
    return [
        panel(
            "Commands",
            "ops",
            counted("saga_step_attempts_total", "step", saga),
            "What the saga asks of its participants, by step; compensations are steps too.",
        ),
        panel(
            "Commands a saga",
            "none",
            [
                (
                    f"{rate('saga_step_attempts_total', 'step', saga)} / on () group_left () {rate('saga_started_total', '', saga)}",
                    "{{step}}",
                )
            ],
            "1 for a step that every saga asks once. Above: it is asked again because answers are late. Compensations are below 1.",
        ),
        panel("Waiting", "short", held("saga_in_state", "state", saga), "Open sagas by the state in which they wait.", style=STACKED),
        panel("Ends", "ops", counted("saga_finished_total", "outcome", saga), "By outcome.", style=STACKED),
        panel("Start to end", "s", quantiles("saga_duration_seconds", saga), "A dot is a saga: it links to its trace."),
        panel(
            "Inputs without effect",
            "ops",
            [(rate("saga_ignored_total", "reason", saga), "{{reason}}"), ("vector(0)", "none")],
            "Late, early or repeated answers, by reason. Some are normal after a crash or a slow step.",
        ),
        section("Trouble"),
        panel(
            "Stuck",
            "short",
            [(or_zero(f"sum ({once('saga_stuck', 'saga, step', saga)})"), "all"), (once("saga_stuck", "step", saga), "{{step}}")],
            "Sagas that asked a step in vain so often that a person has to look; they go on asking.",
        ),
        panel(
            "Flagged as stuck",
            "ops",
            [
                (or_zero(rate("saga_flagged_stuck_total", "", saga)), "all"),
                (rate("saga_flagged_stuck_total", "step", saga), "{{step}}"),
            ],
            "How many come to that, a second.",
        ),
        section("The payment provider"),
        panel("Calls", "ops", [(outcome % ".+", "{{operation}}")], "By operation, whatever came of them."),
        panel(
            "Time of a call, p95",
            "s",
            p95("payment_provider_seconds", "operation"),
            "Until the provider answered, or the patience was over.",
        ),
        panel(
            "Without a clear answer",
            "percentunit",
            [(f"({outcome % 'unknown'} or 0 * {outcome % '.+'}) / {outcome % '.+'}", "{{operation}}")],
            "Share of the calls whose outcome stays unknown; each is asked again with the same key. An alert fires at a fourth.",
            max=1,
        ),
    ]


def variable(name, metric, label):
    query = f"label_values({metric}, {label})"
    return {
        "type": "query",
        "name": name,
        "label": name,
        "datasource": PROMETHEUS,
        "refresh": 2,
        "sort": 1,
        "query": {"query": query, "refId": "A"},
        "definition": query,
        "current": {"text": "order", "value": "order"},
    }


def laid_out(panels):
    """Places panels from left to right and top to bottom, and numbers them."""
    x = y = height = 0
    for at, each in enumerate(panels, 1):
        place = each["gridPos"]
        if x + place["w"] > COLUMNS or each["type"] == "row":
            x, y, height = 0, y + height, 0
        each |= {"id": at, "gridPos": {"x": x, "y": y, **place}}
        x, height = x + place["w"], max(height, place["h"])
    return panels


def dashboard(uid, title, description, panels, variables=()):
    return {
        "uid": f"skald-{uid}",
        "title": title,
        "description": description,
        "tags": ["skald"],
        "links": [{"type": "dashboards", "title": "Skald", "tags": ["skald"], "keepTime": True, "asDropdown": False}],
        "time": {"from": "now-30m", "to": "now"},
        "refresh": "10s",
        "timezone": "browser",
        "editable": False,
        "schemaVersion": 41,
        "templating": {"list": list(variables)},
        "panels": laid_out(panels),
    }


DASHBOARDS = [
    ("orders", "Orders and sagas", "Is the shop open, and do orders end?", orders, []),
    ("service", "A service", "Requests, errors and durations of one service, and its process.", service, [("service", "up", "job")]),
    ("kafka", "Kafka and relay", "What is on its way between the services, and what is not.", kafka, []),
    ("steps", "A saga's steps", "What each step asks, waits for and comes to.", steps, [("saga", "saga_started_total", "saga")]),
]


def main():
    for name, title, description, panels, variables in DASHBOARDS:
        made = dashboard(name, title, description, panels(), [variable(*each) for each in variables])
        # One panel a line, so that a difference can be read.
        text = json.dumps(made | {"panels": []})
        text = text.replace('"panels": []', '"panels": [\n' + ",\n".join(map(json.dumps, made["panels"])) + "\n]")
        Path(sys.argv[1], f"{name}.json").write_text(text + "\n", encoding="utf-8")


main()
