#!/usr/bin/env python3
"""Warm latency: the median at one connection, against the same handler under plain node:http. Rounds in which each has its turn.

    bench/latency.py [ROUNDS] [SECONDS]        default 5 rounds of 3 s each
"""

import sys

from common import Hearth, Verdict, median, need, table
from warm import contenders
from wrk import wrk

ROUNDS, SECONDS = (list(map(int, sys.argv[1:])) + [5, 3][len(sys.argv) - 1 :])[:2]


def main():
    need("wrk", "nginx")
    verdict = Verdict("Warm latency, 1 connection")
    with Hearth() as hearth, contenders(hearth) as urls:
        times = {name: [] for name in urls}
        for url in urls.values():
            wrk(url, 1, 1)
        for _ in range(ROUNDS):
            for name, url in urls.items():
                times[name].append(wrk(url, 1, SECONDS)[1])
    above = lambda name, base: median([a - b for a, b in zip(times[name], times[base])])
    base = lambda name: "event, node:http" if name.startswith("event") else "http, node:http"
    table(
        ["", "p50 µs (median of rounds)", "least", "most", "above its node:http"],
        [
            [name, f"{median(values):.0f}", f"{min(values):.0f}", f"{max(values):.0f}", f"{above(name, base(name)):.0f}"]
            for name, values in times.items()
        ],
    )
    event = above("event, Hearth", "event, node:http")
    verdict.bar(f"event: p50 {event:.0f} µs above plain node:http (at most 60)", event <= 60)
    verdict.end()


main()
