# A runtime image: an official image with Hearth's shim, bootstraps and mount points in it. Another version by its base (python3.11: python:3.11-slim).
#
#   hearth runtime files out
#   docker build -f runtime-shim/images/python.Dockerfile --build-arg BASE=python:3.12-slim -t hearth-python out
#
# Nothing is run in it: a base without a shell will do, as `hearth runtime from-host` makes one.
ARG BASE=python:3.12-slim
FROM ${BASE}
COPY . /
LABEL dev.hearth.runtime=python
USER 65532:65532
WORKDIR /code
