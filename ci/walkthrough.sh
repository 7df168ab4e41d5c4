#!/usr/bin/env bash
# The curl walk-through of README.md, word for word, against the real binary.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
need curl curl

build_release
work=$(mktemp -d)
SKALD_ADMIN_EMAIL=admin@shop.example SKALD_ADMIN_PASSWORD='correct horse battery staple' SKALD_PRODUCT_GRPC_LISTEN=127.0.0.1:0 \
  "$CARGO_TARGET_DIR/release/skald" up --data "$work/data" --listen 127.0.0.1:0 >"$work/out" 2>"$work/log" &
server=$!
cleanup() {
  kill "$server" 2>/dev/null && wait "$server" || true
  rm -rf "$work"
}
trap cleanup EXIT
for _ in $(seq 100); do
  address=$(sed -n 's,^API *\(http://.*\),\1,p' "$work/out")
  [ -n "$address" ] && break
  kill -0 "$server" 2>/dev/null || fail "it did not start: $(cat "$work/log")"
  sleep 0.1
done
[ -n "${address:-}" ] || fail "it did not say where it is"

sed -n '/<!-- walkthrough -->/,/<!-- \/walkthrough -->/p' README.md | sed '/^<!--/d; /^```/d' | sed "s,^api=.*,api=$address," >"$work/walk.sh"
[ -s "$work/walk.sh" ] || fail "README.md has no walk-through"
bash -eu "$work/walk.sh" | tee "$work/said"
for words in '"status":"confirmed"' '"status":"cancelled","reason":"payment_declined"' 'saga.SagaEnded' '"status":"captured"'; do
  grep -qF -- "$words" "$work/said" || fail "the walk-through did not show $words"
done
[ "$(grep -o '"status":"confirmed"' "$work/said" | wc -l)" = 2 ] || fail "the repeated order was not shown as the first one"
kill "$server" && wait "$server" || fail "it did not stop cleanly"
"$CARGO_TARGET_DIR/release/skald" audit --settled --data "$work/data" >"$work/audit" || fail "the audit failed: $(cat "$work/audit")"
tail -1 "$work/audit"
