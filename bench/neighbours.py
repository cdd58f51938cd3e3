#!/usr/bin/env python3
"""Bad behaviour: the 99th percentile of a function under steady load, alone and while a function or a client beside it misbehaves. The
tests of controller/tests/bad_behaviour measure it; this runs them, makes a table of what they print and holds it to the bound. A test that
fails is named with its last lines, and the others are measured all the same.

    bench/neighbours.py [FILTER]
"""

import re
import subprocess
import sys

from common import ROOT, Verdict, table

LAST_LINES = 8


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(ns|µs|ms|s)", text).groups()
    return float(value) * {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def tests(command):
    """The names of the tests that the filter names."""
    listed = subprocess.run([*command, "--", "--list"], cwd=ROOT, capture_output=True, text=True)
    names = re.findall(r"^(\S+): test$", listed.stdout, re.MULTILINE)
    if not names:
        sys.exit(f"no test to run: {listed.stderr[-2000:]}")
    return names


def run(command, name):
    """Runs one test, by itself so that what it prints is its own; whether it passed, and its output."""
    done = subprocess.run(
        [*command[: command.index("bad_behaviour") + 1], name, "--", "--exact", "--nocapture"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode == 0, done.stdout


def last_lines(output):
    """The end of what a test printed, without cargo's own lines and the backtrace."""
    frame = r"\s*(\d+: |at |stack backtrace|note: )"
    ours = r"\s*(Compiling|Finished|Running|running \d+ test|test result|failures:|error: test failed|successes:|$)"
    lines = [line for line in output.splitlines() if not re.match(frame, line) and not re.match(ours, line)]
    return lines[-LAST_LINES:]


def main():
    verdict = Verdict("Bad behaviour beside a steady neighbour")
    command = ["cargo", "test", "--release", "--package", "hearth", "--test", "bad_behaviour", *sys.argv[1:]]
    rows, over, failed = [], [], []
    for name in tests(command):
        passed, output = run(command, name)
        if not passed:
            failed.append(name)
            print(f"FAILED {name}", *last_lines(output), sep="\n    ", flush=True)
        measured = r"(\w+): neighbour's p99: alone (\S+), beside (\S+)"
        for test, alone, beside in re.findall(measured, output):
            if milliseconds(beside) > 1.5 * milliseconds(alone) + 10:
                over.append(test)
            rows.append([test.replace("_", " "), f"{milliseconds(alone):.2f}", f"{milliseconds(beside):.2f}"])
    table(["", "p99 alone, ms", "p99 beside it, ms"], rows)
    verdict.bar(f"no neighbour's request failed{': not ' + ', '.join(failed) if failed else ''}", not failed)
    verdict.bar(f"each within 1.5 x + 10 ms{': not ' + ', '.join(over) if over else ''}", bool(rows) and not over)
    verdict.end()


main()
