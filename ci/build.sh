#!/usr/bin/env bash
# The builds that the other scripts share: ci/build.sh debug | release. What they are stands in ci/lib.sh.
# shellcheck source=ci/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
debug | release) "build_$1" ;;
*) fail "debug or release, not '${1:-}'" ;;
esac
