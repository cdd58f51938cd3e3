#!/usr/bin/env python3
"""Reserved instances beside cold starts: the cold start of one function while 20 reserved instances of another are being started, against
the same undisturbed. Without pools, so that every start is one from nothing. Rounds in which each has its turn.

    bench/reserved.py [ROUNDS]        default 8
"""

import sys
import time

from common import BENCH, Hearth, Verdict, call, function, median, percentile, table, wait_for
from shapes import Watcher

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 8
RESERVED = 20
# Asked one after the other, so each is at zero when its turn comes.
COPIES = 5


def counts(hearth, name):
    found = Watcher(hearth, name).read()
    return tuple(int(found.get(("hearth_instances", state), 0)) for state in ("starting", "ready"))


def main():
    verdict = Verdict(f"A cold start beside {RESERVED} reserved ones")
    alone, beside, took = [], [], []
    with Hearth(HEARTH_PREWARM_ENABLED="false") as hearth:
        code = (BENCH / "functions/hello.js").read_text()
        make = lambda name, **scale: function(name, "nodejs", "index.js", code, "index.handler", signature="event", scale=scale)
        names = [f"other-{copy}" for copy in range(COPIES)]
        hearth.apply(*(make(name, initial=0, idleTimeout="1s") for name in names))
        call(hearth, names[0])
        for number in range(ROUNDS):
            hearth.at_zero()
            for name in names:
                milliseconds, met = call(hearth, name)
                assert met == "cold", met
                alone.append(milliseconds)
            hearth.at_zero()
            crowd = f"crowd-{number}"
            hearth.apply(make(crowd, min=RESERVED, max=RESERVED), wait=False)
            since = time.perf_counter()
            wait_for(lambda: sum(counts(hearth, crowd)) > 1, "the reserved instances to start", hearth.process)
            for name in names:
                if counts(hearth, crowd)[1] == RESERVED:
                    break
                milliseconds, met = call(hearth, name)
                assert met == "cold", met
                beside.append(milliseconds)
            wait_for(lambda: counts(hearth, crowd)[1] == RESERVED, "every reserved instance", hearth.process)
            took.append(time.perf_counter() - since)
            hearth.cli("delete", "function", crowd)
    table(
        ["", "runs", "p50 ms", "p95 ms"],
        [[label, len(values), *(f"{percentile(values, p):.1f}" for p in (50, 95))] for label, values in (("undisturbed", alone), ("beside", beside))],
    )
    print(f"all {RESERVED} were Ready after {median(took):.1f} s in the median\n")
    ratio = percentile(beside, 95) / percentile(alone, 95)
    verdict.bar(f"p95 beside them is {ratio:.2f} x the undisturbed one (at most 1.5)", ratio <= 1.5)
    verdict.bar(f"{len(beside)} cold starts fell into that time (at least {2 * ROUNDS})", len(beside) >= 2 * ROUNDS)
    verdict.end()


main()
