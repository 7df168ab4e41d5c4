#!/usr/bin/env bash
# Compiles one crate of this workspace for libFuzzer: what cargo calls in place of rustc for them (RUSTC_WORKSPACE_WRAPPER), so that all other
# crates are those of the release build. ci/fuzz.sh sets it; cargo keeps what came of it apart.
#
# LLVM's coverage by flags, no sanitizer; and the checks of a debug build.
set -euo pipefail

case " $* " in
# What runs while it is compiled has no libFuzzer to tell.
*' --crate-name build_script_'* | *' --crate-type proc-macro '*) exec "$@" ;;
esac
# Quick to build, quick enough to run.
flags=(-Copt-level=1 --cfg fuzzing -Cpasses=sancov-module -Cdebug-assertions=on -Coverflow-checks=on)
for flag in level=4 inline-8bit-counters pc-table trace-compares; do flags+=("-Cllvm-args=-sanitizer-coverage-$flag"); done
exec "$@" "${flags[@]}"
