#!/usr/bin/env bash
# Brings the application to the cluster of $KUBECONFIG, where Hearth's chart is installed, and uses it from end to end:
#
#   examples/todo/kubernetes.sh GATEWAY        its URL, as http://127.0.0.1:8080 of a port-forward
#   examples/todo/kubernetes.sh store          print the store's objects, as to delete them again
#
# HEARTH names the binary, REDIS_IMAGE another image for the store. Everything goes into the namespace `default`, as the functions find each
# other there.
set -euo pipefail
cd "$(dirname "$0")/../.."
# The store: a Redis with nothing on disk.
store() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: { name: todo-redis }
spec:
  replicas: 1
  selector: { matchLabels: { app: todo-redis } }
  template:
    metadata: { labels: { app: todo-redis } }
    spec:
      automountServiceAccountToken: false
      securityContext: { runAsNonRoot: true, runAsUser: 999, runAsGroup: 999, seccompProfile: { type: RuntimeDefault } }
      containers:
        - name: redis
          image: ${REDIS_IMAGE:-redis:7-alpine}
          args: [redis-server, --port, "6390", --save, "", --appendonly, "no", --protected-mode, "no"]
          ports: [{ containerPort: 6390 }]
          readinessProbe: { tcpSocket: { port: 6390 }, periodSeconds: 1 }
          resources: { requests: { cpu: 50m, memory: 32Mi }, limits: { memory: 128Mi } }
          securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: [ALL] } }
          volumeMounts: [{ name: data, mountPath: /data }]
      volumes: [{ name: data, emptyDir: {} }]
---
apiVersion: v1
kind: Service
metadata: { name: todo-redis }
spec:
  selector: { app: todo-redis }
  ports: [{ port: 6390 }]
YAML
}

if [ "${1:-}" = store ]; then store; exit; fi
gateway=${1:?the URL of the gateway}
HEARTH=${HEARTH:-target/release/hearth}

store | kubectl -n default apply -f -
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
