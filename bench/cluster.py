"""What the benchmarks on a cluster share: the release of the chart that they measure, and the API server by way of `kubectl proxy`. The
cluster is the one of $KUBECONFIG, its nodes run images of this machine's Docker (`eval "$(.ci/cluster up)"` makes one)."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

from common import ROOT, binary, free_port, get, need, wait_for

NAMESPACE = "hearth-bench"
FUNCTIONS = "hearth-bench-functions"
RELEASE = "bench"


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*arguments, stdin=None):
    done = subprocess.run(["kubectl", *map(str, arguments)], input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"kubectl {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")
    return done.stdout


def helm(*arguments):
    return run(shutil.which("helm") or ROOT / ".ci/helm", *arguments)


def need_cluster():
    need("kubectl", "docker")
    if "KUBECONFIG" not in os.environ:
        sys.exit('no cluster: set KUBECONFIG, or eval "$(.ci/cluster up)"')


def images():
    """The images of this tree: Hearth's own and the runtimes' with the host's interpreters. The values that name them."""
    run(ROOT / ".ci/image", binary(), "hearth:test")
    made = json.loads(run(ROOT / ".ci/runtime-images", binary(), env={**os.environ, "HEARTH_LOG_LEVEL": "warn"}))
    # Without the chart's own, which no registry is asked for here.
    others = {name: None for name in ("nodejs20", "nodejs22", "python3.11", "python3.12") if name not in made}
    return {"image": {"repository": "hearth", "tag": "test", "pullPolicy": "Never"}, "runtimes": {"pullPolicy": "Never", "images": {**made, **others}}}


def mirrors():
    """What npm and pip are told of this machine's network, as far as the image of Hearth has the files."""
    names = ("NODE_EXTRA_CA_CERTS", "PIP_CERT", "PIP_INDEX_URL", "npm_config_registry", "HTTPS_PROXY", "NO_PROXY")
    return {"build": {"env": [f"{name}={os.environ[name]}" for name in names if name in os.environ]}}


class Api:
    """The API server, by a `kubectl proxy` on loopback, for a `with`."""

    def __enter__(self):
        self.port = free_port()
        self.process = subprocess.Popen(["kubectl", "proxy", f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.get("/version"), "kubectl proxy to answer", self.process)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def get(self, path):
        return json.loads(self.ask("GET", path))

    def requests(self):
        """Requests that the API server has answered in all, its own among them."""
        text = self.ask("GET", "/metrics")
        return sum(float(value) for value in re.findall(r"^apiserver_request_total\{.*\} (\S+)$", text, re.M))


class Release:
    """The chart, installed in a namespace of its own, with Functions in another, for a `with`."""

    def __init__(self, **values):
        self.values = values

    def write(self, values):
        file = tempfile.NamedTemporaryFile("w", suffix=".json", delete=False)
        json.dump(values, file)
        file.close()
        return file.name

    def __enter__(self):
        need_cluster()
        self.base = images()
        # A cluster that is used for other things too has the definitions by another release, or by kubectl.
        kubectl("apply", "-f", "-", stdin=run(binary(), "crd"))
        self.base["crds"] = {"install": False}
        # One that was killed has left its release; its controller lets go of the Functions.
        with contextlib.suppress(RuntimeError):
            helm("status", RELEASE, "-n", NAMESPACE)
            self.remove()
        for namespace in (NAMESPACE, FUNCTIONS):
            # One of an earlier run takes its time to go.
            wait_for(lambda: "Terminating" not in kubectl("get", "namespaces", f"--field-selector=metadata.name={namespace}"), f"{namespace} to be gone")
            with contextlib.suppress(RuntimeError):
                kubectl("create", "namespace", namespace)
        try:
            helm("install", RELEASE, ROOT / "charts/hearth", "-n", NAMESPACE, "-f", self.write({**self.base, **self.values}), "--timeout", "180")
            self.locate()
        except BaseException:
            self.remove()
            raise
        return self

    def upgrade(self, **values):
        self.values.update(values)
        helm("upgrade", RELEASE, ROOT / "charts/hearth", "-n", NAMESPACE, "-f", self.write({**self.base, **self.values}), "--timeout", "180")
        self.locate()

    def locate(self):
        self.host = kubectl("-n", NAMESPACE, "get", "service", f"{RELEASE}-gateway", "-o", "jsonpath={.spec.clusterIP}")
        self.port = int(kubectl("-n", NAMESPACE, "get", "service", f"{RELEASE}-gateway", "-o", "jsonpath={.spec.ports[0].port}"))
        self.url = f"http://{self.host}:{self.port}"

    def __exit__(self, *_):
        self.remove()

    @staticmethod
    def remove():
        with contextlib.suppress(RuntimeError):
            kubectl("-n", FUNCTIONS, "delete", "functions", "--all", "--timeout=120s")
        with contextlib.suppress(RuntimeError):
            helm("uninstall", RELEASE, "-n", NAMESPACE)
        for namespace in (FUNCTIONS, NAMESPACE):
            with contextlib.suppress(RuntimeError):
                kubectl("delete", "namespace", namespace, "--wait=false")

    def apply(self, *manifests, ready=True, timeout=120):
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        kubectl("-n", FUNCTIONS, "apply", "-f", "-", stdin=json.dumps(listed))
        if ready:
            names = [f"function/{manifest['metadata']['name']}" for manifest in manifests]
            kubectl("-n", FUNCTIONS, "wait", "--for=condition=Ready", f"--timeout={timeout}s", *names)

    def delete(self, *names):
        kubectl("-n", FUNCTIONS, "delete", "function", *names, "--timeout=120s")

    def ask(self, name, timeout=90.0):
        """(status, what it met) of one request."""
        status, head, _ = get(self.host, self.port, f"/function/{FUNCTIONS}/{name}", timeout)
        found = re.search(r"x-hearth-start: (\w+)", head.lower())
        return status, found[1] if found else None

    def pods(self, selector):
        listed = kubectl("-n", FUNCTIONS, "get", "pods", "-l", selector, "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}")
        return listed.split()

    def at_zero(self, name, timeout=120):
        wait_for(lambda: not self.pods(f"hearth.dev/function={name}"), f"{name} to be at zero", timeout=timeout)


def millis_since(since):
    return (time.perf_counter() - since) * 1000
