#!/usr/bin/env python3
"""Installs the chart in the cluster of $KUBECONFIG as a user does, drives it end to end, upgrades it, removes it, and looks for what is left.

    charts/check.py [--todo]

--todo: the to-do application of examples/ too (needs redis-server). HEARTH names the binary (default: the release build, made when it is
missing); images are made of it.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
from cluster import FUNCTIONS, NAMESPACE, RELEASE, Release, helm, kubectl, mirrors  # noqa: E402
from common import ROOT, binary, free_port, function, running, wait_for  # noqa: E402

CODE = "exports.handler = async (event) => `Hello, ${event.queryStringParameters?.name ?? 'world'}!`;\n"
PYTHON = "def handler(event, context):\n    return 'Hello from Python!'\n"


def say(what):
    print(f"ok      {what}", flush=True)


def image_of(*files, name):
    """An image out of this machine's own programs, as no registry is reached."""
    script = f"""set -e; root=$(mktemp -d); mkdir -p $root/usr/bin $root/data $root/tmp
for file in {' '.join(files)}; do real=$(realpath $file); install -D $real $root$file
  ldd $real | grep -o '/[^ )]*' | while read library; do install -D $(realpath $library) $root$library; done; done
tar -C $root -c . | docker import - {name} >/dev/null; rm -rf $root"""
    subprocess.run(["bash", "-c", script], check=True)
    return name


# Kinds that only whoever uses them has defined: here by a definition that takes anything, and validated by the schemas that are published.
OPTIONAL = {"httproutes.gateway.networking.k8s.io": ("HTTPRoute", "v1"), "servicemonitors.monitoring.coreos.com": ("ServiceMonitor", "v1")}
PUBLISHED = ("@kubernetes-models/gateway-api@2.0.0", "@kubernetes-models/prometheus-operator@6.0.0")


@contextlib.contextmanager
def optional_kinds():
    """Has the cluster know them, unless it does."""
    made = []
    for name, (kind, version) in OPTIONAL.items():
        plural, group = name.split(".", 1)
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": "unapproved, of a test"}},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
            },
        }
        if name not in kubectl("get", "crd", "-o", "name"):
            kubectl("create", "-f", "-", stdin=json.dumps(definition))
            kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s")
            made.append(name)
    try:
        yield
    finally:
        for name in made:
            kubectl("delete", "crd", name, "--timeout=60s")


def options(release):
    """What is off by default, given to the API server: it takes each of them."""
    with optional_kinds():
        gateway = {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 3}}
        ingress = {"enabled": True, "className": "nginx", "hosts": ["functions.example.com"], "tls": [{"hosts": ["functions.example.com"], "secretName": "tls"}]}
        route = {"enabled": True, "parentRefs": [{"name": "gateway", "namespace": "default"}], "hostnames": ["functions.example.com"]}
        metrics = {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": True}}
        release.upgrade(gateway=gateway, ingress=ingress, httpRoute=route, metrics=metrics, networkPolicy={"functionNamespaces": [FUNCTIONS]})

        def got(kind):
            return json.loads(kubectl("-n", NAMESPACE, "get", kind, "-o", "json"))["items"]

        for kind in ("ingresses", "horizontalpodautoscalers", "poddisruptionbudgets", *OPTIONAL):
            assert got(kind), f"the cluster has no {kind} of the release"
        assert len(json.loads(kubectl("-n", FUNCTIONS, "get", "networkpolicies", "-o", "json"))["items"]) > 0

        def message():
            return kubectl("-n", FUNCTIONS, "get", "function", "pyhello", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].message}")

        wait_for(lambda: "but" not in message(), "pyhello to know the network policy of its namespace")
        backend = got("ingresses.networking.k8s.io")[0]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        ports = json.loads(kubectl("-n", NAMESPACE, "get", "service", backend["name"], "-o", "json"))["spec"]["ports"]
        assert backend["port"]["name"] in [port["name"] for port in ports], (backend, ports)
        scaled = got("horizontalpodautoscalers")[0]["spec"]
        # Nobody measures here: the autoscaler changes nothing, and none was taken away before it came.
        assert json.loads(kubectl("-n", NAMESPACE, "get", "deployment", backend["name"], "-o", "json"))["spec"]["replicas"] == 3
        assert kubectl("-n", NAMESPACE, "get", "deployment", scaled["scaleTargetRef"]["name"], "-o", "name"), scaled
        say("the API server takes Ingress, HorizontalPodAutoscaler, PodDisruptionBudget and NetworkPolicies")
        objects = json.dumps([one for kind in OPTIONAL for one in got(kind)])
        with tempfile.TemporaryDirectory() as place:
            if not shutil.which("npm"):
                print("NOT RUN: HTTPRoute and ServiceMonitor against their published schemas (npm is not here)", flush=True)
            else:
                install = ["npm", "install", "--silent", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", *PUBLISHED]
                subprocess.run(install, cwd=place, check=True)
                script = shutil.copy(ROOT / "charts/published.mjs", place)
                checked = subprocess.run(["node", script], cwd=place, input=objects, capture_output=True, text=True)
                assert checked.returncode == 0, checked.stderr
                say("HTTPRoute and ServiceMonitor are as their published schemas have them")
        off = {"enabled": False}
        release.upgrade(gateway={"replicas": 2}, ingress=off, httpRoute=off, metrics={}, networkPolicy={})
        for kind in ("ingresses", "horizontalpodautoscalers", *OPTIONAL):
            assert not got(kind), f"{kind} are left when they are switched off"


def removed():
    """Removes it as docs/kubernetes.md has it, and looks at what it leaves in its namespace."""

    def left():
        found = json.loads(kubectl("-n", NAMESPACE, "get", "configmaps,leases,secrets,services,deployments,roles,rolebindings,serviceaccounts", "-o", "json"))
        of_others = ("kube-root-ca.crt", "default", "default-token-", "sh.helm.release")
        return [f"{one['kind']} {one['metadata']['name']}" for one in found["items"] if not one["metadata"]["name"].startswith(of_others)]

    with tempfile.TemporaryDirectory() as place:
        manifest = {"apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": {"name": "uploaded", "namespace": FUNCTIONS}}
        manifest["spec"] = {"runtime": "nodejs", "handler": "index.handler", "source": {"path": "."}, "scale": {"initial": 0}}
        (Path(place) / "index.js").write_text(CODE + "// Code that no other Function has.\n")
        (Path(place) / "function.yaml").write_text(json.dumps(manifest))
        environment = {**os.environ, "HEARTH_CLUSTER_NAMESPACE": NAMESPACE}
        applied = subprocess.run([binary(), "apply", "-f", Path(place) / "function.yaml"], env=environment, capture_output=True, text=True)
        assert applied.returncode == 0, applied.stdout + applied.stderr
    kubectl("-n", FUNCTIONS, "delete", "functions", "--all", "--timeout=120s")
    assert any("hearth-bundle-" in one for one in left()), left()
    helm("uninstall", RELEASE, "-n", NAMESPACE)
    assert "Lease hearth-controller" not in left(), "the next release would wait for the Lease of this one"
    wait_for(lambda: not kubectl("-n", NAMESPACE, "get", "pods", "-o", "name"), "Hearth's Pods to be gone", timeout=180)
    kubectl("-n", NAMESPACE, "delete", "configmaps", "-l", "app.kubernetes.io/managed-by=hearth")
    assert not left(), left()
    say("removed by the documented commands; nothing is left in its namespace")


def main():
    for file, more in (("crds.yaml", []), ("crds-cel.yaml", ["--cel"])):
        said = subprocess.run([binary(), "crd", *more], capture_output=True, text=True, check=True).stdout
        assert (ROOT / "charts/hearth/files" / file).read_text() == said, f"{file} is not what hearth crd prints: make it anew"
    with Release(controller={"config": mirrors()}) as release:
        say("installed; everything came up")
        release.apply(
            function("hello", "nodejs", "index.js", CODE, "index.handler"),
            function("pyhello", "python", "main.py", PYTHON, "main.handler", network="none"),
        )
        for name in ("hello", "pyhello"):
            status, _ = release.ask(name)
            assert status == 200, (name, status)
        say("functions in Node and Python answer")
        listed = kubectl("-n", FUNCTIONS, "get", "functions")
        assert "True" in listed and "http://" in listed, listed
        described = kubectl("-n", FUNCTIONS, "describe", "function", "hello")
        assert "Events:" in described and "<none>" not in described.split("Events:")[1], described
        say("kubectl get and describe show state and events")
        described = kubectl("-n", FUNCTIONS, "describe", "function", "pyhello")
        assert "serves; but `network: none` has no effect" in described and "NoNetworkPolicy" in described, described
        say("a function says that no network policy of its namespace is known")
        try:
            helm("install", "second", ROOT / "charts/hearth", "-n", NAMESPACE, "--set", "crds.install=false")
            raise AssertionError("a second release in the namespace is taken")
        except RuntimeError as error:
            assert f"has a Hearth already, the release {RELEASE}" in str(error), error
        say("a second release in the namespace is refused, by name")
        release.upgrade(gateway={"replicas": 3})
        assert release.ask("hello")[0] == 200
        say("upgraded")
        options(release)
        assert release.ask("hello")[0] == 200
        say("what is optional comes and goes with its option")
        if "--todo" in sys.argv:
            redis = image_of("/usr/bin/redis-server", name="hearth-redis:test")
            port = free_port()
            # It tells of every connection.
            forward = ["sh", "-c", f"exec kubectl -n {NAMESPACE} port-forward service/{RELEASE}-gateway {port}:{release.port} >/dev/null"]
            with running(forward, port, dict(os.environ)):
                drive = [str(ROOT / "examples/todo/kubernetes.sh"), f"http://127.0.0.1:{port}"]
                environment = {**os.environ, "HEARTH": str(binary()), "REDIS_IMAGE": redis, "HEARTH_CLUSTER_NAMESPACE": NAMESPACE}
                done = subprocess.run(drive, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
            kubectl("-n", "default", "delete", "function", "web", "user", "rule", "--timeout=120s")
            store = subprocess.run([drive[0], "store"], capture_output=True, text=True, check=True).stdout
            kubectl("-n", "default", "delete", "-f", "-", "--wait=false", stdin=store)
            say("the to-do application works")
        kubectl("-n", FUNCTIONS, "delete", "functions", "--all", "--timeout=120s")
        wait_for(lambda: not release.pods("hearth.dev/function"), "the functions' Pods to be gone")
        say("deleted functions leave no Pods")
        removed()
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        left = json.loads(kubectl("get", "clusterroles,clusterrolebindings", "-o", "json"))["items"]
        left = [one["metadata"]["name"] for one in left if NAMESPACE in one["metadata"]["name"]]
        spaces = kubectl("get", "namespaces", "-o", "name")
        if not left and NAMESPACE not in spaces:
            break
        time.sleep(2)
    assert not left and NAMESPACE not in spaces, (left, spaces)
    say("removed; nothing is left but the definitions")


main()
