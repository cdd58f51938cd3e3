# The image of controller and gateway, for a cluster:
#
#   docker build -t ghcr.io/hearth-dev/hearth:0.1.0 .
#
# Images that run functions are made by runtime-shim/images.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked && strip target/release/hearth

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/hearth /usr/local/bin/hearth
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/hearth"]
