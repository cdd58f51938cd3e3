#!/usr/bin/env python3
"""Bad behaviour: the 99th percentile of a function under steady load, alone and while a function or a client beside it misbehaves. The
tests of controller/tests/bad_behaviour measure it; this runs them, makes a table of what they print and holds it to the bound.

    bench/neighbours.py [FILTER]
"""

import re
import subprocess
import sys

from common import ROOT, Verdict, table


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(ns|µs|ms|s)", text).groups()
    return float(value) * {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def main():
    verdict = Verdict("Bad behaviour beside a steady neighbour")
    command = ["cargo", "test", "--release", "--package", "hearth", "--test", "bad_behaviour"]
    done = subprocess.run(
        [*command, *sys.argv[1:], "--", "--nocapture"], cwd=ROOT, capture_output=True, text=True
    )
    rows, over = [], []
    measured = r"(\w+): neighbour's p99: alone (\S+), beside (\S+)"
    for test, alone, beside in re.findall(measured, done.stdout + done.stderr):
        if milliseconds(beside) > 1.5 * milliseconds(alone) + 10:
            over.append(test)
        rows.append([test.replace("_", " "), f"{milliseconds(alone):.2f}", f"{milliseconds(beside):.2f}"])
    table(["", "p99 alone, ms", "p99 beside it, ms"], rows)
    ended = re.findall(r"test result: .*", done.stdout)
    verdict.bar(f"no neighbour's request failed: {ended[-1] if ended else done.stderr[-2000:]}", done.returncode == 0)
    verdict.bar(f"each within 1.5 x + 10 ms{': not ' + ', '.join(over) if over else ''}", bool(rows) and not over)
    verdict.end()


main()
