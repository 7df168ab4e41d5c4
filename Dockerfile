# syntax=docker/dockerfile:1.7
# One image for all five services, the topics and the operator's commands: docker build --tag skald:0.1.0 .
#
# Images are pinned by full version; renew them together with rust-toolchain.toml (ci/compose.sh compares the two).

FROM rust:1.95.0-bookworm AS build
WORKDIR /skald
COPY . .
ARG SKALD_COMMIT=unknown
# Crates and what was compiled before outlive the build in the builder's caches, so that a change of a line costs its own crates.
# Without line tables, which are most of the binary; a panic still names its functions.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/skald/target,sharing=locked \
    CARGO_PROFILE_RELEASE_DEBUG=false SKALD_COMMIT="$SKALD_COMMIT" \
    cargo build --locked --release --package skald --features tls \
    && cp target/release/skald /usr/local/bin/skald

FROM debian:bookworm-20260824-slim
# The newest of both, for their security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libssl3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin skald
COPY --from=build /usr/local/bin/skald /usr/local/bin/skald
# Fails here, and not at a customer's, if a library is missing.
RUN ["skald", "--version"]
ARG SKALD_COMMIT=unknown
LABEL org.opencontainers.image.title="skald" \
      org.opencontainers.image.description="Event-sourced saga orchestration on Kafka" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="$SKALD_COMMIT"
USER 10001:10001
# REST, probes and metrics; stock checks.
EXPOSE 8080 50052
ENTRYPOINT ["skald"]
CMD ["--help"]
