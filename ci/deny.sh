#!/usr/bin/env bash
# What may be linked in (deny.toml): bans, licences, sources, and the advisories of the day. They come from the net, and so does cargo-deny,
# which is compiled: hence not in .ci/run.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=0.20.2
root=$STATE/cargo-deny
[ "$("$root/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $version" ] ||
  CARGO_TARGET_DIR=$root/target cargo install --quiet --locked --force --root "$root" "cargo-deny@$version"
"$root/bin/cargo-deny" --locked check
