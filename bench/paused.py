#!/usr/bin/env python3
"""Paused: from a request that meets a frozen instance to the first byte of its answer, against one that meets the same instance awake. Each
pair asks one of several functions, once frozen and once right after.

    bench/paused.py [PAIRS]        default 60
"""

import sys
import time

from common import BENCH, Hearth, Verdict, call, function, median, percentile, rungs, table, wait_for

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 60
COPIES = 6
KINDS = {
    "nodejs, event": ("nodejs", "index.js", "hello.js", "index.handler", "event"),
    "nodejs, http": ("nodejs", "index.js", None, "index.handler", "http"),
    "python, event": ("python", "main.py", "hello.py", "main.handler", "event"),
}
HTTP = "exports.handler = (req, res) => res.end('Hello, world!');\n"


def main():
    verdict = Verdict("Paused")
    rows = []
    with Hearth() as hearth:
        for kind, (runtime, file, source, handler, signature) in KINDS.items():
            code = (BENCH / "functions" / source).read_text() if source else HTTP
            names = [f"paused-{kind.split(',')[0]}-{signature}-{copy}" for copy in range(COPIES)]
            scale = {"initial": 0, "idleTimeout": "1h", "pause": "1s"}
            hearth.apply(*(function(name, runtime, file, code, handler, signature=signature, scale=scale) for name in names))
            for name in names:
                call(hearth, name)
                call(hearth, name)
            frozen, warm = [], []
            while len(frozen) < PAIRS:
                # What the metrics show is up to 50 ms old.
                time.sleep(0.1)
                wait_for(lambda: rungs(hearth).get("paused") == COPIES, "every instance to be paused", hearth.process)
                for name in names:
                    took, met = call(hearth, name)
                    assert met == "paused", met
                    frozen.append(took)
                    took, met = call(hearth, name)
                    assert met == "warm", met
                    warm.append(took)
            for label, values in ((f"{kind}, warm", warm), (f"{kind}, paused", frozen)):
                rows.append([label, len(values), *(f"{percentile(values, p):.2f}" for p in (50, 90, 99))])
            more = median(frozen) - median(warm)
            verdict.bar(f"{kind}: p50 {median(frozen):.2f} ms paused is {more:.2f} ms above warm (at most 1)", more <= 1)
            for name in names:
                hearth.cli("delete", "function", name)
    print()
    table(["", "runs", "p50 ms", "p90 ms", "p99 ms"], rows)
    verdict.end()


main()
