#!/usr/bin/env python3
"""Warm throughput: requests per second of one resident instance at 64 connections, against the same handler under plain node:http, and
against nginx as a plain proxy in front of the same server. Rounds in which each has its turn.

    bench/throughput.py [ROUNDS] [SECONDS]        default 5 rounds of 5 s each
"""

import sys

from common import Hearth, Verdict, median, need, table
from warm import contenders
from wrk import wrk

ROUNDS, SECONDS = (list(map(int, sys.argv[1:])) + [5, 5][len(sys.argv) - 1 :])[:2]


def main():
    need("wrk", "nginx")
    verdict = Verdict("Warm throughput, 64 connections")
    with Hearth() as hearth, contenders(hearth) as urls:
        rates = {name: [] for name in urls}
        failures = {name: 0 for name in urls}
        for url in urls.values():
            wrk(url, 64, 2)
        for _ in range(ROUNDS):
            for name, url in urls.items():
                rate, _, failed = wrk(url, 64, SECONDS)
                rates[name].append(rate)
                failures[name] += failed
    ratio = lambda name, base: median([a / b for a, b in zip(rates[name], rates[base])])
    table(
        ["", "requests/s (median)", "least", "most", "failed", "of its node:http"],
        [
            [
                name,
                f"{median(values):.0f}",
                f"{min(values):.0f}",
                f"{max(values):.0f}",
                failures[name],
                f"{ratio(name, 'event, node:http' if name.startswith('event') else 'http, node:http'):.2f}",
            ]
            for name, values in rates.items()
        ],
    )
    event = ratio("event, Hearth", "event, node:http")
    verdict.bar(f"event: {event:.2f} x plain node:http (at least 1)", event >= 1)
    verdict.bar(f"failed requests: {sum(failures.values())} (none)", not sum(failures.values()))
    for name in ("http signature, Hearth", "http runtime, Hearth"):
        print(f"       {name}: {ratio(name, 'http, nginx in front'):.2f} x nginx in front of the same server")
    verdict.end()


main()
