# shellcheck shell=bash
# Sourced by the scripts beside it: goes to the root of the checkout, says what went wrong, installs what is missing.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
# Where the scripts keep their own state; `cargo clean` sweeps it away.
STATE=$CARGO_TARGET_DIR/ci
mkdir -p "$STATE"

fail() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

# Runs a command as root: as it is, or by sudo without asking for a password.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    fail "'$*' needs root or a sudo that asks for no password; run it by hand and start again"
  fi
}

# Installs Debian packages; the package lists are brought up to date once, not once a script.
apt_install() {
  command -v apt-get >/dev/null || fail "please install $* (there is no apt-get here)"
  if [ -z "$(find "$STATE/apt-updated" -mmin -720 2>/dev/null)" ]; then
    as_root apt-get -qq -o Acquire::Retries=3 update >&2
    touch "$STATE/apt-updated"
  fi
  echo "installing $*" >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "$@" >"$STATE/apt.log" 2>&1 || {
    tail -20 "$STATE/apt.log" >&2
    fail "apt-get could not install $*"
  }
}

# need COMMAND PACKAGE...: makes sure that the command is there.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null || apt_install "$@"
}

# Debian's Prometheus: the programs are wanted, not the server that the package starts where there is a systemd.
need_prometheus() {
  command -v promtool >/dev/null && command -v prometheus >/dev/null && return
  apt_install prometheus
  [ ! -d /run/systemd/system ] || as_root systemctl --quiet disable --now prometheus
}

# go_tool MODULE@VERSION: prints the path of a Go program, built once. The version is the pin: Go's checksum database holds its content.
go_tool() {
  local directory=$STATE/go/${1//\//+}
  if [ -z "$(find "$directory" -type f 2>/dev/null)" ]; then
    # Where Go's own installer puts it, which is not in every PATH.
    command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
    command -v go >/dev/null || fail "please install Go 1.25 or newer (https://go.dev/dl): Debian's is too old for $1"
    echo "building $1" >&2
    GOBIN=$directory go install "$1" 2>"$STATE/go.log" || {
      tail -20 "$STATE/go.log" >&2
      fail "go could not build $1"
    }
  fi
  find "$directory" -type f
}

# The two builds that all scripts share. Cargo resolves features by the packages that are selected: with another selection, or other
# features, it would compile crates once more. .ci/run builds both, and says so in SKALD_BUILT.

# What `cargo test --workspace` builds. Leaves a list of its tests: package, target, directory, binary.
build_debug() {
  local built=$STATE/tests.json
  [ -z "${SKALD_BUILT:-}" ] || return 0
  need jq jq
  cargo test --locked --workspace --no-run --message-format=json-render-diagnostics >"$built"
  jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable)
    | [(.package_id | sub(".*[/#](?<name>[^/#@]+)[#@][^#@]*$"; "\(.name)")), .target.name, (.manifest_path | sub("/Cargo.toml$"; "")), .executable]
    | @tsv' "$built" >"$STATE/tests"
}

# tests PACKAGE [TARGET] [-- ARGUMENT...]: runs tests of that build as cargo does, all targets of a package or one.
tests() {
  local package=$1 target='' found=0 name directory binary
  shift
  if [ $# -gt 0 ] && [ "$1" != -- ]; then
    target=$1
    shift
  fi
  [ $# = 0 ] || shift
  while IFS=$'\t' read -r _ name directory binary; do
    [ -z "$target" ] || [ "$name" = "$target" ] || continue
    found=1
    echo "running $package, $name" >&2
    (cd "$directory" && CARGO_MANIFEST_DIR=$directory "$binary" "$@")
  done < <(grep "^$package"$'\t' "$STATE/tests")
  [ "$found" = 1 ] || fail "there is no test ${target:+$target }of $package in $STATE/tests"
}

# The binary as the image has it, with TLS; the simulation and the models, with planted faults compiled in: none is planted unless
# SKALD_PLANTED names it.
release=(--locked --release --package=skald --package=skald-sim --package=skald-saga --package=skald-fuzz
  --features=skald/tls --features=skald-sim/planted --features=skald-fuzz/libfuzzer)
build_release() {
  [ -z "${SKALD_BUILT:-}" ] || return 0
  [ -e /usr/include/openssl/ssl.h ] || apt_install libssl-dev pkg-config
  need pkg-config pkg-config
  # Without a test target, which would bring in features that only tests want.
  cargo build "${release[@]}" --bin=skald --bin=sim
}
