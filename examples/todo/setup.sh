. examples/todo/redis.sh
after() { stop_redis; }
