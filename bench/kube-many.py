#!/usr/bin/env python3
"""500 Functions applied at once on Kubernetes: the time until all are Ready, the controller's memory, requests to the API server for each and at
rest. No instance is started for them (`scale.initial: 0`), so it is Hearth and the API server that work.

    bench/kube-many.py [FUNCTIONS]        default 500; needs a cluster (see cluster.py)
"""

import re
import sys
import time
from pathlib import Path

from cluster import FUNCTIONS, NAMESPACE, Api, Release, run
from common import Verdict, function, table, wait_for

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 500
CODE = "exports.handler = async () => 'hi';\n"


def ready(api):
    listed = api.get(f"/apis/hearth.dev/v1/namespaces/{FUNCTIONS}/functions")["items"]
    holds = lambda one: any(c["type"] == "Ready" and c["status"] == "True" for c in one.get("status", {}).get("conditions", []))
    return sum(map(holds, listed))


def memory():
    """Resident memory of the controllers, in MiB: processes of this machine, which is the cluster's node."""
    labels = (f"io.kubernetes.pod.namespace={NAMESPACE}", "io.kubernetes.container.name=controller")
    listed = run("docker", "ps", "--quiet", *(f"--filter=label={label}" for label in labels)).split()
    pids = run("docker", "inspect", "--format", "{{.State.Pid}}", *listed).split()
    resident = lambda pid: re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    return [int(resident(pid)[1]) / 1024 for pid in pids]


def main():
    verdict = Verdict(f"Kubernetes: {COUNT} Functions at once")
    with Release(controller={"replicas": 1, "config": {"prewarm": {"enabled": False}}}) as release, Api() as api:
        quiet = lambda: api.requests()
        before, since = quiet(), time.monotonic()
        time.sleep(30)
        empty = (quiet() - before) / (time.monotonic() - since) * 60
        manifests = [function(f"many-{number}", "nodejs", "index.js", CODE, "index.handler", scale={"initial": 0}) for number in range(COUNT)]
        before, since = quiet(), time.monotonic()
        release.apply(*manifests, ready=False)
        applied = time.monotonic() - since
        wait_for(lambda: ready(api) == COUNT, "all to be Ready", timeout=600)
        took = time.monotonic() - since
        each = (quiet() - before - empty / 60 * took) / COUNT
        resident = memory()
        time.sleep(20)
        before, since = quiet(), time.monotonic()
        time.sleep(60)
        rest = (quiet() - before) / (time.monotonic() - since) * 60
    table(
        ["", ""],
        [
            ["kubectl apply of all took", f"{applied:.1f} s"],
            ["all Ready after (at zero instances: no Pod is started)", f"{took:.1f} s"],
            ["controller, resident", ", ".join(f"{one:.0f} MiB" for one in resident)],
            ["requests to the API server for each, kubectl's own among them", f"{each:.1f}"],
            ["requests a minute at rest, before and with them", f"{empty:.0f}, {rest:.0f}"],
        ],
    )
    verdict.end()


main()
