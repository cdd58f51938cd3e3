#!/usr/bin/env bash
# Runs the to-do application with a Redis of its own, until Ctrl-C: http://127.0.0.1:8080/todo
set -euo pipefail
cd "$(dirname "$0")/../.."
. examples/todo/redis.sh
trap stop_redis EXIT
trap : INT # for hearth, which drains; then the store goes
${HEARTH:-cargo run --release --} up examples/todo "$@"
