# shellcheck shell=bash
# The store of the to-do application, sourced by its scripts: a Redis of its own from Debian (apt-get install redis-server), with
# nothing on disk. It listens on Hearth's bridge only, where instances find it as host.hearth.internal, so it starts as soon as
# Hearth has made the bridge. HEARTH_NETWORK_HOST_PORTS lets the instances through.
export HEARTH_NETWORK_HOST_PORTS=6390
export HEARTH_DATA_DIR=${HEARTH_DATA_DIR:-/var/lib/hearth}
redis_dir=$(mktemp -d)

# Waits for the bridge, whose name carries the tag of the data directory, and becomes Redis.
redis_on_the_bridge() {
  local address='' tag
  tag=$(printf %s "$(readlink -m "$HEARTH_DATA_DIR")" | sha256sum | cut -c1-8)
  until [ -n "$address" ]; do
    sleep 0.2
    # The second is the bridge with HEARTH_BACKEND=docker.
    address=$(for bridge in "hearth$tag" "hearthd$tag"; do ip -4 -oneline address show dev "$bridge" 2>/dev/null; done |
      sed -n 's/.* inet \([0-9.]*\)\/.*/\1/p')
  done
  exec redis-server --bind "$address" --protected-mode no --port 6390 --save '' --appendonly no --dir "$redis_dir"
}

redis_on_the_bridge >"$redis_dir/log" 2>&1 &
redis_pid=$!

stop_redis() {
  kill $redis_pid
  wait $redis_pid 2>/dev/null
  rm -rf "$redis_dir"
}
