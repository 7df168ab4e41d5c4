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

# Format, layers, links, alerts and dashboards, workflows, and Clippy.
lint:
    ci/format.sh
    ci/layering.sh
    ci/docs.sh
    ci/prometheus.sh
    ci/workflows.sh
    ci/lint.sh

# Formats every Rust file.
fmt:
    cargo fmt --all

# The whole shop in one process, with orders: `just demo --orders 100 --concurrency 8`.
demo *arguments:
    ci/demo.sh {{ arguments }}

# The model check and the laws of the sagas, and the planted faults that they have to find.
model:
    ci/model.sh

# The same models in larger bounds.
model-large:
    ci/model.sh --larger

# What no test notices in sagas/core and the services' deciders; docs/mutants.md has the reasons. `--changed`: only since main.
mutants *arguments:
    ci/mutants.sh {{ arguments }}

# Everything that can be killed is killed, again and again, while orders stream in: the processes, Kafka, PostgreSQL.
crash minutes="30":
    ci/e2e.sh --minutes {{ minutes }}

# Three brokers and a PostgreSQL with its standby: killed, frozen, cut off while orders stream in. `just cluster long 30` for long.
cluster *arguments:
    ci/cluster.sh {{ arguments }}

# kill -9 of `skald up`, the one process on SQLite, while orders stream in.
crash-embedded rounds="20":
    ci/crash.sh {{ rounds }}

# The whole shop on one seed, with faults and then calm: production code, one step at a time. `just sim 7 --trace` shows every step.
sim seed *arguments:
    cargo run --release -p skald-sim --features planted -- --seed {{ seed }} {{ arguments }}

# New seeds for ever, until one fails.
soak *arguments:
    cargo run --release -p skald-sim --features planted -- --runs 0 {{ arguments }}

# The simulation as CI runs it: thousands of orders, then every planted fault.
simulate what="all":
    ci/sim.sh {{ what }}

# The suites on a real PostgreSQL, which is installed, started and stopped; `just postgres up` leaves one running.
postgres what="test":
    ci/postgres.sh {{ what }}

# The bus on a real Kafka, which is fetched, started and stopped; `just kafka up` leaves one running.
kafka what="test":
    ci/kafka.sh {{ what }}

# The five services as processes on a real Kafka and PostgreSQL: the scenarios, then everything that can go wrong.
e2e kills="20":
    ci/e2e.sh {{ kills }}

# Whatever reads bytes from outside, fuzzed for so many seconds; docs/fuzzing.md.
fuzz seconds="3600":
    ci/fuzz.sh {{ seconds }}

# TLS to Kafka and PostgreSQL.
tls:
    ci/tls.sh

# The files of the image and of compose, without Docker.
compose:
    ci/compose.sh

# Orders per second of the processes on Kafka and PostgreSQL, everything on this machine.
bench-serve orders="20000":
    ci/bench.sh {{ orders }}

# Orders per second with 256 clients, then the latency that one client alone sees. Release build, SQLite, this machine.
bench:
    ci/demo.sh --mix happy --orders 60000 --concurrency 256 --seed 1
    ci/demo.sh --mix happy --orders 2000 --concurrency 1 --seed 1

# What may be linked in: bans, licences, sources, and the advisories of the day (these need the net).
deny:
    ci/deny.sh
