#!/usr/bin/env bash
# What watches Skald is itself checked, with Debian's Prometheus (promtool) and without a server: configuration and rules, each alert
# firing and silent (observability/prometheus/rules_test.yml), dashboards as observability/dashboards.py writes them, every query of theirs
# readable and of metrics that are in the list, a runbook for each alert (ci/prometheus.py). SKALD_GENERATE=1 writes the dashboards anew.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_prometheus
need python3 python3
dashboards=observability/grafana/dashboards
made=$(mktemp -d "$STATE/prometheus.XXXXXX")
trap 'rm -rf "$made"' EXIT

python3 observability/dashboards.py "$made"
[ -z "${SKALD_GENERATE:-}" ] || cp "$made"/*.json "$dashboards/"
diff -r "$dashboards" "$made" || fail "the dashboards are not as observability/dashboards.py writes them: SKALD_GENERATE=1 ci/prometheus.sh"
python3 ci/prometheus.py check
python3 ci/prometheus.py rules >"$made/panels.yml"
promtool check rules "$made/panels.yml" >"$made/told" || {
  cat "$made/told" >&2
  fail "Prometheus can't read a dashboard's query"
}
promtool check config observability/prometheus/prometheus.yml
promtool test rules observability/prometheus/rules_test.yml
