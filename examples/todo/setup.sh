# shellcheck shell=bash
. examples/todo/redis.sh
after() { stop_redis; }
