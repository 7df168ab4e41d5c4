# Thin wrappers: what happens stands in .ci/run and ci/*.sh, which need no just.

# Lists the recipes.
default:
    @just --list --unsorted

# Everything that CI runs, with the minutes of each stage.
verify:
    .ci/run

# The tests; nothing needs to be installed for them.
test:
    cargo test --workspace

# Format, layers, links and Clippy.
lint:
    ci/format.sh
    ci/layering.sh
    ci/docs.sh
    ci/lint.sh

# Formats every Rust file.
fmt:
    cargo fmt --all

# The whole shop in one process, with orders: `just demo --orders 100 --concurrency 8`.
demo *arguments:
    ci/demo.sh {{ arguments }}

# kill -9 of the real binary while orders stream in.
crash rounds="20":
    ci/crash.sh {{ rounds }}

# The suites on a real PostgreSQL, which is installed, started and stopped; `just postgres up` leaves one running.
postgres what="test":
    ci/postgres.sh {{ what }}

# Orders per second with 256 clients, then the latency that one client alone sees. Release build, SQLite, this machine.
bench:
    ci/demo.sh --mix happy --orders 60000 --concurrency 256 --seed 1
    ci/demo.sh --mix happy --orders 2000 --concurrency 1 --seed 1

# What may be linked in: bans, licences, sources, and the advisories of the day (these need the net and cargo-deny).
deny:
    cargo deny --locked check
