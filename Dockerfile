# The image of controller and gateway, for a cluster:
#
#   docker build -t ghcr.io/hearth-dev/hearth:0.1.0 .
#
# Images that run functions are made by runtime-shim/images.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/hearth

FROM debian:bookworm-slim
# git fetches `source.git`; the certificates are for registries, archives and repositories.
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates git && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 65532 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin hearth
COPY --from=build /src/target/release/hearth /usr/local/bin/hearth
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/hearth"]
