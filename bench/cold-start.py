#!/usr/bin/env python3
"""Cold start: from a request at zero instances to the first byte of its answer, against a bare interpreter that starts in a clean
environment, loads the same file and answers its first request. Interleaved pairs; nothing is pooled.

    bench/cold-start.py [PAIRS]        default 30
"""

import sys
import time

from common import BENCH, RUNTIMES, Hearth, Verdict, bare, first_byte, free_port, function, interpreter, median, percentile, table

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
# Each Function is asked in its turn, so that it has come to rest at zero when its turn comes again.
COPIES = 6


def cold(hearth, name):
    """Milliseconds from the request to the first byte, and the parts of Server-Timing."""
    # At zero: no process of it is left.
    hearth.at_zero()
    since = time.perf_counter()
    took, answer = first_byte(hearth.host, hearth.port, f"/{name}", since)
    head = answer.split("\r\n\r\n")[0].lower()
    assert " 200 " in head.split("\r\n")[0] and "hello, world!" in answer.lower(), answer
    assert "x-hearth-start: cold" in head, head
    timing = next(line for line in head.split("\r\n") if line.startswith("server-timing:")).split(":", 1)[1]
    parts = {}
    for part in timing.split(","):
        key, _, rest = part.strip().partition(";dur=")
        parts[key] = float(rest.split(";")[0])
    return took, parts


def main():
    verdict = Verdict("Cold start")
    rows = []
    with Hearth(HEARTH_PREWARM_ENABLED="false") as hearth:
        for runtime, (file, source, handler, server) in RUNTIMES.items():
            program = interpreter(hearth, runtime)
            code = (BENCH / "functions" / source).read_text()
            names = [f"cold-{runtime}-{copy}" for copy in range(COPIES)]
            hearth.apply(
                *(
                    function(name, runtime, file, code, handler, signature="event", scale={"initial": 0, "idleTimeout": "1s"})
                    for name in names
                )
            )
            command = [program, str(BENCH / "baseline" / server), str(BENCH / "functions" / source)]
            # The first of each is not counted: it fills the page cache.
            bare(command, free_port())
            cold(hearth, names[0])
            bares, colds, parts = [], [], []
            for pair in range(PAIRS):
                bares.append(bare(command, free_port()))
                took, timing = cold(hearth, names[(pair + 1) % COPIES])
                colds.append(took)
                parts.append(timing)
            for label, values in ((f"bare {runtime}", bares), (f"Hearth, {runtime}", colds)):
                rows.append([label, len(values), *(f"{percentile(values, p):.1f}" for p in (50, 90, 99))])
            phases = {key: median([part.get(key, 0.0) for part in parts]) for key in parts[0]}
            unaccounted = median([took - sum(part.values()) for took, part in zip(colds, parts)])
            rows.append([f"{runtime}, phases (p50)", "", *(f"{key} {value:.1f}" for key, value in phases.items())])
            bare50, cold50 = median(bares), median(colds)
            if runtime == "nodejs":
                verdict.bar(f"Node: p50 {cold50:.1f} ms is {cold50 / bare50:.2f} x the bare node's {bare50:.1f} ms (at most 1.8)", cold50 <= 1.8 * bare50)
                verdict.bar(f"Node: p50 {cold50:.1f} ms (under 100)", cold50 < 100)
            else:
                verdict.bar(f"Python: p50 {cold50:.1f} ms is {cold50 - bare50:.1f} ms above the bare python's {bare50:.1f} ms (at most 30)", cold50 <= bare50 + 30)
            verdict.bar(f"{runtime}: the phases add up to the whole but for {unaccounted:.2f} ms (at most 3)", abs(unaccounted) <= 3)
            for name in names:
                hearth.cli("delete", "function", name)
    print()
    table(["", "runs", "p50 ms", "p90 ms", "p99 ms"], rows)
    verdict.end()


main()
