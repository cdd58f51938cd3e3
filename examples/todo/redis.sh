# shellcheck shell=bash
# The store of the to-do application, sourced by its scripts: a Redis of its own from Debian (apt-get install redis-server), with
# nothing on disk. It listens where instances find it as host.hearth.internal; HEARTH_NETWORK_HOST_PORTS lets them through.
redis_dir=$(mktemp -d)
export HEARTH_NETWORK_HOST_PORTS=6390
redis-server --bind 127.0.0.1 --port 6390 --save '' --appendonly no --dir "$redis_dir" --logfile "$redis_dir/log" &
redis_pid=$!
until redis-cli -p 6390 ping >/dev/null 2>&1; do
  kill -0 $redis_pid || { cat "$redis_dir/log"; exit 1; }
  sleep 0.1
done

stop_redis() {
  kill $redis_pid
  wait $redis_pid 2>/dev/null
  rm -rf "$redis_dir"
}
