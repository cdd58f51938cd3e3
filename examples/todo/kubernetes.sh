#!/usr/bin/env bash
# Brings the application to the cluster of $KUBECONFIG, where Hearth's chart is installed, and uses it from end to end:
#
#   examples/todo/kubernetes.sh GATEWAY        its URL, as http://127.0.0.1:8080 of a port-forward
#
# HEARTH names the binary, REDIS_IMAGE another image for the store. Everything goes into the namespace `default`, as the functions find each
# other there.
set -euo pipefail
cd "$(dirname "$0")/../.."
gateway=${1:?the URL of the gateway}
HEARTH=${HEARTH:-target/release/hearth}

sed "s#image: redis:7-alpine#image: ${REDIS_IMAGE:-redis:7-alpine}#" examples/todo/kubernetes.yaml | kubectl -n default apply -f -
kubectl -n default rollout status deployment/todo-redis --timeout=120s

# The same manifests; only the store is elsewhere. Its address, for a cluster without names.
redis=$(kubectl -n default get service todo-redis -o jsonpath='{.spec.clusterIP}')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r examples/todo/{web,user,rule} "$work"
sed "s/host.hearth.internal/$redis/" examples/todo/functions.yaml >"$work/functions.yaml"
"$HEARTH" apply -f "$work/functions.yaml"
kubectl -n default wait --for=condition=Ready --timeout=300s function/web function/user function/rule

examples/todo/drive.sh "$gateway"
