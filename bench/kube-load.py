#!/usr/bin/env python3
"""Load on Kubernetes: from zero through two gateways and through one; constant load while everything is replaced, while the leader is killed,
and while instances are killed.

    bench/kube-load.py [from-zero] [rolling] [leader] [pods]        default all; needs a cluster (see cluster.py)
"""

import asyncio
import random
import re
import subprocess
import sys
import time

from cluster import FUNCTIONS, NAMESPACE, RELEASE, Release, kubectl
from common import CLEAN, Verdict, function, need, percentile, table

CODE = "exports.handler = async () => { await new Promise((done) => setTimeout(done, 20)); return 'hi'; };\n"
RATE = 40


def ab(url):
    done = subprocess.run(["ab", "-l", "-n", "1000", "-c", "200", "-s", "90", url], env=CLEAN, capture_output=True, text=True)
    number = lambda pattern: int((re.search(pattern, done.stdout) or [0, 0])[1])
    if not number(r"Complete requests:\s+(\d+)"):
        raise RuntimeError(f"ab: {done.stdout}{done.stderr}")
    failed = number(r"Failed requests:\s+(\d+)") + number(r"Non-2xx responses:\s+(\d+)") + 1000 - number(r"Complete requests:\s+(\d+)")
    return failed, number(r"\n\s+50%\s+(\d+)"), number(r"\n\s+99%\s+(\d+)")


def scale(gateways):
    kubectl("-n", NAMESPACE, "scale", f"deployment/{RELEASE}-gateway", f"--replicas={gateways}")
    kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}-gateway", "--timeout=120s")
    # So that the proxies of the nodes know it too.
    time.sleep(3)


def from_zero(release, verdict):
    rows, p99 = [], {1: [], 2: []}
    for _ in range(3):
        for gateways in (2, 1):
            scale(gateways)
            release.at_zero("fire")
            failed, p50, last = ab(f"{release.url}/function/{FUNCTIONS}/fire")
            p99[gateways].append(last)
            rows.append([gateways, failed, p50, last])
            verdict.bar(f"from zero, {gateways} gateways: {failed} of 1000 failed", failed == 0)
    scale(2)
    table(["gateways", "failed", "p50 ms", "p99 ms"], rows)
    two, one = percentile(p99[2], 50), percentile(p99[1], 50)
    verdict.bar(f"from zero: the p99 with two gateways is {two / max(one, 1):.2f} x that with one (at most 1.5)", two <= 1.5 * one)


class Load:
    """RATE requests a second, each over a connection of its own, until the end of `during`."""

    def __init__(self, release, name):
        self.host, self.port, self.target = release.host, release.port, f"/function/{FUNCTIONS}/{name}"
        self.answers, self.times = {}, []

    async def one(self):
        since = time.perf_counter()
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port), 30)
            writer.write(f"GET {self.target} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n\r\n".encode())
            data = await asyncio.wait_for(reader.read(), 60)
            writer.close()
            said = data.split(b"\r\n", 1)[0].decode("latin-1") or "closed without an answer"
            if not said.startswith("HTTP/1.1 2"):
                said = f"{said} {data.split(b'code', 1)[-1][:60]!r}"
        except (OSError, asyncio.TimeoutError) as error:
            said = f"{type(error).__name__} {error}"
        self.times.append((time.perf_counter() - since) * 1000)
        self.answers[said] = self.answers.get(said, 0) + 1

    async def during(self, work):
        tasks, over = set(), asyncio.get_running_loop().run_in_executor(None, work)
        next_at = time.perf_counter()
        while not over.done():
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            next_at += 1 / RATE
            await asyncio.sleep(max(0, next_at - time.perf_counter()))
        await over
        await asyncio.gather(*tasks)

    def bad(self):
        return {said: count for said, count in self.answers.items() if not said.startswith("HTTP/1.1 2")}


def under_load(release, verdict, what, work):
    load = Load(release, "steady")
    asyncio.run(load.during(work))
    bad, count = load.bad(), len(load.times)
    verdict.bar(
        f"{what}: {sum(bad.values())} of {count} answers were not 2xx ({bad or 'none'}); p50 {percentile(load.times, 50):.0f} ms, p99 {percentile(load.times, 99):.0f} ms",
        not bad,
    )


def rolling():
    time.sleep(3)
    for part in ("gateway", "controller"):
        kubectl("-n", NAMESPACE, "rollout", "restart", f"deployment/{RELEASE}-{part}")
        kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{RELEASE}-{part}", "--timeout=180s")
    # A change of the template replaces the function's Pods.
    kubectl("-n", FUNCTIONS, "patch", "function", "steady", "--type=merge", "-p", '{"spec":{"env":[{"name":"ROLLED","value":"yes"}]}}')
    kubectl("-n", FUNCTIONS, "wait", "--for=condition=Ready", "--timeout=120s", "function/steady")
    time.sleep(10)


def leader():
    for _ in range(2):
        time.sleep(5)
        holder = kubectl("-n", NAMESPACE, "get", "lease", "hearth-controller", "-o", "jsonpath={.spec.holderIdentity}")
        kubectl("-n", NAMESPACE, "delete", "pod", holder.split("_")[0], "--grace-period=0", "--force")
        time.sleep(25)


def pods(release):
    generator = random.Random(7)
    for _ in range(5):
        time.sleep(4)
        running = release.pods("hearth.dev/function=steady")
        if running:
            kubectl("-n", FUNCTIONS, "delete", "pod", generator.choice(running), "--grace-period=0", "--force")
    time.sleep(5)


def main():
    need("ab")
    wanted = sys.argv[1:] or ["from-zero", "rolling", "leader", "pods"]
    verdict = Verdict("Kubernetes: load")
    with Release() as release:
        spec = {"concurrency": {"limit": 20}}
        release.apply(
            function("fire", "nodejs", "index.js", CODE, "index.handler", scale={"idleTimeout": "5s", "keepAlive": "fixed", "max": 10}, **spec),
            function("steady", "nodejs", "index.js", CODE, "index.handler", scale={"min": 2}, **spec),
        )
        if "from-zero" in wanted:
            from_zero(release, verdict)
        if "rolling" in wanted:
            under_load(release, verdict, "a rolling restart of everything", rolling)
        if "leader" in wanted:
            under_load(release, verdict, "the leader killed twice", leader)
        if "pods" in wanted:
            under_load(release, verdict, "five instances killed", lambda: pods(release))
    verdict.end()


main()
