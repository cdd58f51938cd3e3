#!/usr/bin/env python3
"""Starts on Kubernetes: from `kubectl apply` to the first answer; a cold start beside a bare Pod of the same image up to its first answer, in
pairs; a prewarmed start.

    bench/kube-start.py [PAIRS]        default 20; needs a cluster (see cluster.py)
"""

import sys
import time

from cluster import FUNCTIONS, Api, Release, millis_since
from common import Verdict, first_byte, function, median, percentile, table

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
CODE = "exports.handler = async () => 'Hello, world!';\n"
SERVER = "require('http').createServer((q, s) => s.end('Hello, world!')).listen(8080)"


def hello(name, **spec):
    return function(name, "nodejs", "index.js", CODE, "index.handler", scale={"initial": 0}, **spec)


def applied(release, number):
    """Milliseconds from `kubectl apply` to the first answer."""
    name = f"applied-{number}"
    since = time.perf_counter()
    release.apply(hello(name), ready=False)
    while True:
        status, _ = release.ask(name)
        if status == 200:
            return millis_since(since)
        time.sleep(0.005)


def started(release, name, kind):
    since = time.perf_counter()
    took, answer = first_byte(release.host, release.port, f"/function/{FUNCTIONS}/{name}", since)
    head = answer.lower()
    assert " 200 " in head.split("\r\n")[0], answer
    assert f"x-hearth-start: {kind}" in head, answer
    return took


def bare_pod(api, image, interpreter, number):
    """Milliseconds from the creation of a Pod to its first answer."""
    path = f"/api/v1/namespaces/{FUNCTIONS}/pods"
    name = f"bare-{number}"
    container = {"name": "server", "image": image, "imagePullPolicy": "Never", "command": [interpreter, "-e", SERVER]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    since = time.perf_counter()
    api.ask("POST", path, pod)
    address = None
    while not address:
        address = api.get(f"{path}/{name}").get("status", {}).get("podIP")
        time.sleep(0.002)
    while True:
        try:
            took, answer = first_byte(address, 8080, "/", since)
            break
        except OSError:
            time.sleep(0.002)
    assert "Hello, world!" in answer, answer
    api.ask("DELETE", f"{path}/{name}?gracePeriodSeconds=0")
    return took


def main():
    verdict = Verdict("Kubernetes: starts")
    with Release(controller={"config": {"prewarm": {"enabled": False}}, "replicas": 1}) as release, Api() as api:
        images = release.base["runtimes"]["images"]
        runtime = next(images[name] for name in images if name.startswith("nodejs"))
        names = [f"cold-{number}" for number in range(PAIRS)]
        release.apply(*[hello(name) for name in names])
        cold, bare = [], []
        for number, name in enumerate(names):
            bare.append(bare_pod(api, runtime["image"], runtime["interpreter"], number))
            cold.append(started(release, name, "cold"))
        first = [applied(release, number) for number in range(5)]

        release.upgrade(controller={"config": {"prewarm": {"enabled": True, "size": 3}}, "replicas": 1})
        names = [f"prewarmed-{number}" for number in range(PAIRS)]
        release.apply(*[hello(name) for name in names])
        prewarmed = []
        for name in names:
            deadline = time.monotonic() + 60
            while len(release.pods("hearth.dev/pool,!hearth.dev/function")) < 3 and time.monotonic() < deadline:
                time.sleep(0.2)
            # Their shims have reported by then too.
            time.sleep(1.5)
            prewarmed.append(started(release, name, "prewarmed"))
    row = lambda name, times: [name, len(times), *(f"{percentile(times, percent):.0f}" for percent in (50, 90, 99))]
    table(
        ["", "runs", "p50 ms", "p90 ms", "p99 ms"],
        [
            row("bare Pod to its first answer", bare),
            row("Hearth, cold", cold),
            row("Hearth, prewarmed", prewarmed),
            row("kubectl apply to the first answer", first),
        ],
    )
    above = median([one - other for one, other in zip(cold, bare)])
    verdict.bar(f"cold: the median of {PAIRS} pairs is {above:+.0f} ms beside a bare Pod (at most +150)", above <= 150)
    verdict.bar(f"prewarmed: p50 {median(prewarmed):.1f} ms (at most 25)", median(prewarmed) <= 25)
    verdict.end()


main()
