# An image with Rosenpass and the `wg` that it calls, to run beside a router; see docs/drivers.md.
#
#   docker build -f deploy/rosenpass.Dockerfile -t rosenpass:0.2.3 deploy
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends cmake libclang-dev libsodium-dev pkg-config
RUN cargo install --locked rosenpass --version 0.2.3 --root /usr/local

FROM debian:bookworm-slim
RUN apt-get update && apt-get install --yes --no-install-recommends libsodium23 wireguard-tools && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/rosenpass /usr/local/bin/rosenpass
CMD ["rosenpass", "exchange-config", "/keys/rosenpass.toml"]
