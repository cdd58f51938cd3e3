#!/usr/bin/env python3
"""Compares what the chart renders to with charts/golden/*.yaml, and checks that its schema refuses what it does not know.

    charts/golden.py [--update]        renders with `helm`, or with .ci/helm and the cluster of $KUBECONFIG
"""

import contextlib
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHART = HERE / "hearth"


def render(values, *more, chart=CHART):
    # What .ci/helm prints has no hooks in it; charts/check.py sees what they do.
    helm = [shutil.which("helm"), "--no-hooks"] if shutil.which("helm") else [str(HERE.parent / ".ci/helm")]
    command = [helm[0], "template", *helm[1:], "golden", str(chart), "-n", "hearth-golden", "-f", str(values), "--set", "crds.install=false", *more]
    return subprocess.run(command, capture_output=True, text=True)


@contextlib.contextmanager
def reusing():
    """The chart as `helm upgrade --reuse-values` takes it: the values of the release before in the place of its own."""
    with tempfile.TemporaryDirectory() as place:
        chart = Path(shutil.copytree(CHART, Path(place) / CHART.name))
        shutil.copy(HERE / "golden/reused-values.yaml", chart / "values.yaml")
        yield chart


def settled(manifest):
    """Without what is another each time, and what depends on the server's version."""
    manifest = re.sub(r"(key|token): [A-Za-z0-9+/=]{40,}", r"\1: RANDOM", manifest)
    manifest = re.sub(r"policy/v1(beta1)?\b", "policy/v1", manifest)
    manifest = re.sub(r"autoscaling/v2(beta2)?\b", "autoscaling/v2", manifest)
    # The dashboard is compared by the tests of the metrics.
    manifest = re.sub(r"(  hearth\.json: \|\n)(    .*\n|\n)+", r"\1    DASHBOARD\n", manifest)
    documents = [one.strip() for one in manifest.split("\n---\n") if one.strip("- \n")]
    return "\n---\n".join(sorted(re.sub(r"\A---\n", "", one) for one in documents)) + "\n"


def main():
    if not shutil.which("helm") and "KUBECONFIG" not in os.environ:
        print("NOT RUN: the chart's golden test needs helm, or a cluster in $KUBECONFIG")
        return
    failed = False
    for values in sorted(HERE.glob("golden/*.values.yaml")):
        golden = values.with_name(values.name.replace(".values", ""))
        rendered = render(values)
        if rendered.returncode:
            sys.exit(f"{values.name}: {rendered.stderr}")
        text = settled(rendered.stdout)
        if "--update" in sys.argv:
            golden.write_text(text)
        elif text != golden.read_text():
            sys.stdout.writelines(difflib.unified_diff(golden.read_text().splitlines(True), text.splitlines(True), golden.name, "rendered"))
            failed = True
    for wrong in ("gateway.replica=3", "gateway.service.type=Loadbalancer", "controller.replicas=0", "runtimes.images.java.image=x", "networkPolicy.managementFrom=[{pod: {}}]"):
        refused = render(HERE / "golden/default.values.yaml", "--set", wrong)
        if refused.returncode == 0:
            print(f"the schema takes {wrong}")
            failed = True
    nothing, persistent = HERE / "golden/default.values.yaml", ("--set", "controller.persistence.enabled=true")
    # Without policies the controller knows of none, and functions say so.
    open_to_all = render(nothing, "--set", "networkPolicy.enabled=false").stdout
    if "kind: NetworkPolicy" in open_to_all or "network_policies: []" not in open_to_all:
        print("without networkPolicy.enabled there are policies, or the controller is told of some")
        failed = True
    # By the least number that there may be.
    scaled = render(nothing, "--set", "gateway.replicas=1", "--set", "gateway.autoscaling.enabled=true").stdout
    if not re.search(r"kind: PodDisruptionBudget\nmetadata:\n  name: golden-gateway\n", scaled):
        print("gateways that an autoscaler keeps at two or more have no PodDisruptionBudget")
        failed = True
    with reusing() as chart:
        # The defaults mean the same in both; one that does not needs a golden file of its own.
        reused = render(nothing, chart=chart)
        if reused.returncode or settled(reused.stdout) != (HERE / "golden/default.yaml").read_text():
            print(f"an earlier chart's values do not render to what today's do: {reused.stderr}")
            failed = True
        # Two controllers cannot have one data directory, and two was the default.
        refused = render(nothing, *persistent, chart=chart)
        if refused.returncode == 0 or "set controller.replicas to 1" not in refused.stderr:
            print(f"two controllers with persistence are not refused as they should be: {refused.stderr}")
            failed = True
        taken = render(nothing, *persistent, "--set", "controller.replicas=1", chart=chart)
        if taken.returncode or "persistentVolumeClaim" not in taken.stdout:
            print(f"one controller with persistence is not taken: {taken.stderr}")
            failed = True
    if failed:
        sys.exit("the chart does not render to charts/golden: look at the difference, then charts/golden.py --update")
    print("the chart renders as it should")


main()
