"""Holds dashboards, rules, runbooks and the list of metrics against each other; ci/prometheus.sh calls it.

    python3 ci/prometheus.py check             fails where they do not fit together
    python3 ci/prometheus.py rules             the dashboards' queries as recording rules, for promtool to read
    python3 ci/prometheus.py queries           each query of a dashboard or an alert: where it stands, a tab, the query; a panel shows something
                                               if one of its queries does
    python3 ci/prometheus.py metrics WHEN...   the series to ask a real Prometheus for, by when they have data

Never here: whether the files are well formed, which their own tools say.
"""

import json
import re
import sys
from pathlib import Path

LIST, RULES, TESTS = (Path("observability", name) for name in ("metrics.txt", "prometheus/rules.yml", "prometheus/rules_test.yml"))
DASHBOARDS, RUNBOOKS = Path("observability/grafana/dashboards"), Path("docs/runbooks")
RUNBOOK_URL = "docs/runbooks/"
# What Grafana puts in, and what Prometheus itself knows.
VARIABLES = {"$__rate_interval": "1m", "$__range": "10m", "$service": "order", "$saga": "order"}
OWN_METRICS, OWN_LABELS = {"up", "ALERTS"}, {"job", "instance", "le", "alertstate"}
GROUPINGS, AGGREGATIONS, OPERATORS = {"by", "on", "group_left"}, {"sum", "max", "count", "topk"}, {"and", "or"}

problems = []


def check(is_good, problem):
    if not is_good:
        problems.append(problem)


def listed():
    """The list: name, type, when, service, labels, meaning; whether a `!` says that it is for people alone."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    rows = [re.split(r"\s{2,}", line, maxsplit=5) for line in lines if not line.startswith("#")]
    for row in rows:
        check(
            len(row) == 6 and row[1] in ("counter", "gauge", "histogram") and row[2] in ("always", "traffic", "trouble"),
            f"{LIST}: {row}",
        )
    return {
        row[0].rstrip("!"): {"type": row[1], "when": row[2], "labels": set(row[4].split(",")), "for_people": row[0].endswith("!")}
        for row in rows
    }


def panels():
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            if panel["type"] != "row":
                yield f"{file.stem}/{panel['title']}", panel


def alerts():
    """The rules, one line a field, as rules.yml is written; promtool has read it as YAML."""
    for block in re.split(r"^ +- alert: ", RULES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, _, fields = block.partition("\n")
        yield name, dict(re.findall(r"^ +(\w+): (.+)$", fields, re.MULTILINE))


def queries():
    found = [(where, target["expr"]) for where, panel in panels() for target in panel["targets"]]
    found += [(f"alert/{name}", fields.get("expr", "")) for name, fields in alerts()]
    for where, query in found:
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        yield where, query


def read(query):
    """The parts of a query: each metric with its labels, the function around it and whether it asks for a range; and what is grouped by."""
    tokens = re.findall(r'"[^"]*"|[a-zA-Z_]\w*|[{}()\[\]]|[^\s\w{}()\[\]"]+|[\d.]+\w*', query) + [""]
    metrics, groups, around, at = [], [], [], 0

    def until(end):
        nonlocal at
        start, at = at, tokens.index(end, at) + 1
        return [token for token, then in zip(tokens[start:at], tokens[start + 1 :]) if re.match(r"[a-zA-Z_]", token) and then != "("]

    while at < len(tokens) - 1:
        token, then, at = tokens[at], tokens[at + 1], at + 1
        if token in GROUPINGS:
            groups += until(")")
        elif token == "(":
            around.append(tokens[at - 2] if at > 1 else "")
        elif token == ")":
            around.pop()
        elif token == "[":
            until("]")
        elif re.match(r"[a-zA-Z_]", token) and then != "(" and token not in AGGREGATIONS | OPERATORS:
            labels = until("}") if then == "{" else []
            metrics.append((token, labels, around[-1] if around else "", tokens[at] == "["))
    return metrics, groups


def check_query(where, query, known):
    """Names and labels are those of the list, and what only counts up is asked for its rate. Returns the metrics that it reads."""
    metrics, groups = read(query)
    check(metrics or query == "vector(0)", f"{where}: reads nothing")
    names, labels = set(), set(OWN_LABELS)
    for name, matched, function, is_range in metrics:
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        name = stem if known.get(stem, {}).get("type") == "histogram" else name
        if name in OWN_METRICS:
            continue
        names.add(name)
        check(name in known, f"{where}: {name} is not in {LIST}")
        metric = known.get(name, {"labels": set(), "type": ""})
        labels |= metric["labels"]
        for label in matched:
            check(label in metric["labels"] | OWN_LABELS, f"{where}: {name} has no label {label}")
        counts_up = metric["type"] in ("counter", "histogram")
        check(not counts_up or (is_range and function in ("rate", "increase")), f"{where}: {name} only counts up; ask for its rate")
    for label in groups:
        check(label in labels, f"{where}: nothing in it has the label {label}")
    return names


def check_alerts():
    tests, index = TESTS.read_text(encoding="utf-8"), Path(RUNBOOKS, "README.md").read_text(encoding="utf-8")
    pages = set()
    for name, fields in alerts():
        page = re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() + ".md"
        pages.add(page)
        for field in ("expr", "labels", "summary", "description", "runbook_url"):
            check(field in fields, f"{RULES}: {name} has no {field}")
        check(fields.get("runbook_url") == RUNBOOK_URL + page, f"{RULES}: the runbook of {name} should be {RUNBOOK_URL}{page}")
        check(Path(RUNBOOKS, page).is_file(), f"{RULES}: {name} has no page {RUNBOOKS}/{page}")
        check(f"({page})" in index, f"{RUNBOOKS}/README.md does not lead to {page}")
        # One line without samples is silence; what has lines under it expects something.
        silent = f"""- {{expr: 'ALERTS{{alertname="{name}\"""" in tests
        fires = f'- expr: ALERTS{{alertname="{name}"' in tests or f"- alertname: {name}\n" in tests
        check(silent and fires, f"{TESTS}: {name} has to be seen firing, and silent")
    for file in RUNBOOKS.glob("*.md"):
        check(file.name in pages | {"README.md"}, f"{file}: no alert leads there")


def check_all():
    known = listed()
    for where, panel in panels():
        check(panel.get("description") and panel["fieldConfig"]["defaults"].get("unit"), f"{where}: needs a description and a unit")
        check(panel["targets"], f"{where}: asks nothing")
    used = set().union(*(check_query(where, query, known) for where, query in queries()))
    for name, metric in known.items():
        check(
            metric["for_people"] != (name in used),
            f"{LIST}: {name} is {'drawn' if name in used else 'not used; drop it, or mark it with !'}",
        )
    check_alerts()
    for problem in problems:
        print(f"prometheus: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(known)} metrics, {len(list(panels()))} panels, {len(list(alerts()))} alerts and their runbooks fit together")


def main():
    command, whens = sys.argv[1], sys.argv[2:]
    if command == "check":
        check_all()
    elif command == "rules":
        # JSON is YAML too.
        rules = [{"record": f"panel:{at}", "expr": query} for at, (_, query) in enumerate(queries())]
        print(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    elif command == "queries":
        print(*(f"{where}\t{query}" for where, query in queries()), sep="\n")
    elif command == "metrics":
        for name, metric in listed().items():
            if metric["when"] in whens:
                print(name + ("_count" if metric["type"] == "histogram" else ""))


main()
