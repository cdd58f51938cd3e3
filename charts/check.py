#!/usr/bin/env python3
"""Installs the chart in the cluster of $KUBECONFIG as a user does, drives it end to end, upgrades it, removes it, and looks for what is left.

    charts/check.py        HEARTH names the binary (default: the release build, made when it is missing); images are made of it
"""

import json
import os
import subprocess
import sys
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


def main():
    for file, more in (("crds.yaml", []), ("crds-cel.yaml", ["--cel"])):
        said = subprocess.run([binary(), "crd", *more], capture_output=True, text=True, check=True).stdout
        assert (ROOT / "charts/hearth/files" / file).read_text() == said, f"{file} is not what hearth crd prints: make it anew"
    with Release(controller={"config": mirrors()}) as release:
        say("installed; everything came up")
        release.apply(
            function("hello", "nodejs", "index.js", CODE, "index.handler"),
            function("pyhello", "python", "main.py", PYTHON, "main.handler"),
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
        try:
            helm("install", "second", ROOT / "charts/hearth", "-n", NAMESPACE, "--set", "crds.install=false")
            raise AssertionError("a second release in the namespace is taken")
        except RuntimeError as error:
            assert f"has a Hearth already, the release {RELEASE}" in str(error), error
        say("a second release in the namespace is refused, by name")
        release.upgrade(gateway={"replicas": 3})
        assert release.ask("hello")[0] == 200
        say("upgraded")
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
