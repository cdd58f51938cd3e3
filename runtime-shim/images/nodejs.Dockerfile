# A runtime image: an official image with Hearth's shim, bootstraps and mount points in it. Another version by its base (nodejs20: node:20-slim).
#
#   hearth runtime files out
#   docker build -f runtime-shim/images/nodejs.Dockerfile --build-arg BASE=node:22-slim -t hearth-nodejs out
#
# Nothing is run in it: a base without a shell will do, as `hearth runtime from-host` makes one.
ARG BASE=node:22-slim
FROM ${BASE}
COPY . /
LABEL dev.hearth.runtime=nodejs
USER 65532:65532
WORKDIR /code
