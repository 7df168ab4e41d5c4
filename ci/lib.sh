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
