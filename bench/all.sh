#!/usr/bin/env bash
# Every benchmark, one after the other; what they print is the content of RESULTS.md. Exit code 1 when one missed its bar.
#
#   bench/all.sh | tee /tmp/results.md        needs root; apt-get install apache2-utils docker.io hey wrk nginx redis-server
cd "$(dirname "$0")" || exit 1
missed=
for script in from-zero.py cold-start.py prewarmed.py paused.py reserved.py shapes.py no-loss.py throughput.py latency.py neighbours.py footprint.py docker.py rebuild.py; do
  ./$script || missed="$missed $script"
done
# These need a cluster: eval "$(.ci/cluster up)" makes one.
[ -z "${KUBECONFIG:-}" ] || for script in kube-start.py kube-load.py kube-many.py; do
  ./$script || missed="$missed $script"
done
[ -z "$missed" ] || { echo "missed:$missed"; exit 1; }
