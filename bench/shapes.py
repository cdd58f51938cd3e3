#!/usr/bin/env python3
"""Load that comes and goes, on real containers: a step from nothing to 200 clients and back, a square wave of 30 s, a slow ramp. The handler
takes 100 ms and an instance runs 10 calls. Samples what there should be, what is Ready, what runs and what waits, and draws it into
bench/plots/. No request may fail, and no more than 1.3 times the instances may be started that the load needs at least: the peak in flight
over the limit, rounded up, again after each gap longer than the idle time. The functions aim at 80 % of their limit: the default of 70 % is
1.43 times the least by itself.

    bench/shapes.py [step|square|ramp ...]        default all
"""

import math
import re
import subprocess
import sys
import threading
import time

from common import BENCH, CLEAN, Hearth, Verdict, function, get, need, table
from plot import plot

LIMIT = 10
IDLE_SECONDS = 5
EVERY = 0.1
NAMES = ("desired", "ready", "in flight", "queue")


def hey(url, clients, seconds):
    return subprocess.Popen(
        ["hey", "-z", f"{seconds}s", "-c", str(clients), "-t", "60", url], env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def answers(process):
    """(2xx, everything else) of a hey that has ended."""
    text = process.communicate()[0]
    statuses = {int(status): int(count) for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", text)}
    good = sum(count for status, count in statuses.items() if 200 <= status < 300)
    refused = sum(int(count) for count in re.findall(r"^\s+\[(\d+)\]\s+(?!\d+ responses)\S", text, re.M))
    if not good:
        raise RuntimeError(f"hey: {text}")
    return good, sum(statuses.values()) - good + refused


def step(url):
    """Nothing, 200 clients for 20 s, nothing."""
    time.sleep(3)
    done = [answers(hey(url, 200, 20))]
    time.sleep(IDLE_SECONDS * 3)
    return done


def square(url):
    """120 clients for 15 s, nothing for 15 s, three times."""
    done = []
    for _ in range(3):
        done.append(answers(hey(url, 120, 15)))
        time.sleep(15)
    return done


def ramp(url):
    """Ten clients more every 6 s, up to 100."""
    started = []
    for number in range(10):
        started.append(hey(url, 10, 6 * (10 - number)))
        time.sleep(6)
    return [answers(process) for process in started]


# Each with its gaps longer than the idle time, so the times that everything is started again.
SHAPES = {"step": (step, 1), "square": (square, 3), "ramp": (ramp, 1)}


class Watcher:
    """Samples the metrics of one Function until the end of its `with`."""

    def __init__(self, hearth, name):
        self.hearth, self.name, self.samples, self.over = hearth, name, [], threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def read(self):
        _, _, text = get("127.0.0.1", self.hearth.management, "/metrics")
        found = {}
        for metric, labels, value in re.findall(r"^(hearth_\w+)\{([^}]*)\} (\S+)$", text.decode(), re.M):
            if f'function="{self.name}"' in labels or f'function="default/{self.name}"' in labels:
                kind = re.search(r'(?:state|figure|outcome)="([^"]*)"', labels)
                found[metric, kind and kind[1]] = float(value)
        return found

    def starts(self):
        found = self.read()
        return int(found.get(("hearth_instance_starts_total", "ready"), 0) + found.get(("hearth_instance_starts_total", "failed"), 0))

    def watch(self):
        began = time.perf_counter()
        while not self.over.is_set():
            found = self.read()
            row = [
                found.get(("hearth_scaler_instances", "desired"), 0),
                found.get(("hearth_instances", "ready"), 0),
                found.get(("hearth_gateway_requests", "running"), 0),
                found.get(("hearth_gateway_requests", "waiting"), 0),
            ]
            self.samples.append((time.perf_counter() - began, row))
            self.over.wait(EVERY)

    def __enter__(self):
        self.before = self.starts()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.started = self.starts() - self.before


def main():
    need("hey")
    shapes = sys.argv[1:] or list(SHAPES)
    verdict = Verdict("Load that comes and goes")
    rows = []
    with Hearth() as hearth:
        code = (BENCH / "functions/slow.js").read_text()
        for name in shapes:
            load, times = SHAPES[name]
            scale = {"initial": 0, "max": 50, "idleTimeout": f"{IDLE_SECONDS}s", "keepAlive": "fixed"}
            hearth.apply(function(name, "nodejs", "index.js", code, "index.handler", signature="event", concurrency={"limit": LIMIT, "target": "80%"}, scale=scale))
            with Watcher(hearth, name) as watcher:
                done = load(f"{hearth.url}/{name}")
            good, bad = map(sum, zip(*done))
            peak = int(max(row[2] for _, row in watcher.samples))
            least = times * math.ceil(peak / LIMIT)
            most = int(max(row[1] for _, row in watcher.samples))
            rows.append([name, good, bad, peak, most, watcher.started, least, f"{watcher.started / least:.2f}"])
            verdict.bar(f"{name}: {bad} of {good + bad} requests failed (none)", not bad)
            verdict.bar(
                f"{name}: {watcher.started} instances started, {watcher.started / least:.2f} x the least possible {least} (at most 1.3)",
                watcher.started <= 1.3 * least,
            )
            picture = BENCH / "plots" / f"{name}.svg"
            series = {label: [(at, row[index]) for at, row in watcher.samples] for index, label in enumerate(NAMES)}
            plot(picture, f"{name}: {load.__doc__}", {"instances": ("desired", "ready"), "requests": ("in flight", "queue")}, series)
            hearth.cli("delete", "function", name)
    print()
    table(["", "2xx", "failed", "peak in flight", "most Ready", "starts", "least", "starts / least"], rows)
    print(f"plots: {', '.join(f'plots/{name}.svg' for name in shapes)}\n")
    verdict.end()


if __name__ == "__main__":
    main()
