#!/usr/bin/env python3
"""Prewarmed start: from a request at zero instances to the first byte of its answer while the pool has an instance of the runtime, against a
bare interpreter that starts in a clean environment, loads the same file and answers its first request. Interleaved pairs. Then ephemeral
functions: a burst no larger than the pool, the rate at which a pool is filled again, and arrivals at half that rate.

    bench/prewarmed.py [PAIRS]        default 30
"""

import selectors
import socket
import sys
import time

from common import BENCH, RUNTIMES, Hearth, Verdict, bare, call, free_port, function, interpreter, median, percentile, rungs, start_kind, table, wait_for

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
POOL = 6
# Each Function is asked in its turn, so that it has come to rest at zero when its turn comes again.
COPIES = 4
BURSTS = 5
ARRIVALS_SECONDS = 5


def at_rest(hearth):
    """Waits until the pool is full and nothing else runs or starts."""

    def rests():
        now = rungs(hearth)
        return now.get("pooled") == POOL and sum(now.values()) == POOL

    # What the metrics show is up to 50 ms old.
    time.sleep(0.1)
    wait_for(rests, "a full pool and nothing else", hearth.process)


def together(hearth, name, count, gap=0.0):
    """So many calls, at once or `gap` seconds apart: times and what they met. One thread does it all: several would have a part of the
    cores that the starts need."""
    request = f"GET /{name} HTTP/1.1\r\nhost: {hearth.host}:{hearth.port}\r\nconnection: close\r\n\r\n".encode()
    waiting, answered = selectors.DefaultSelector(), []
    start, sent = time.perf_counter(), 0
    while len(answered) < count:
        while sent < count and time.perf_counter() >= start + sent * gap:
            since = time.perf_counter()
            connection = socket.create_connection((hearth.host, hearth.port))
            connection.sendall(request)
            waiting.register(connection, selectors.EVENT_READ, since)
            sent += 1
        until_next = max(0.0, start + sent * gap - time.perf_counter()) if sent < count else 60
        for key, _ in waiting.select(until_next):
            answered.append(((time.perf_counter() - key.data) * 1000, key.fileobj))
            waiting.unregister(key.fileobj)
    results = []
    for took, connection in answered:
        with connection:
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
        results.append((took, start_kind(answer.decode())))
    return results


def shares(results):
    met = [kind for _, kind in results]
    return ", ".join(f"{met.count(kind)} {kind}" for kind in sorted(set(met)))


def main():
    verdict = Verdict("Prewarmed start")
    rows = []
    for runtime, (file, source, handler, server) in RUNTIMES.items():
        with Hearth(HEARTH_PREWARM_SIZE=str(POOL), HEARTH_PREWARM_MAX=str(POOL)) as hearth:
            program = interpreter(hearth, runtime)
            code = (BENCH / "functions" / source).read_text()
            scale = {"initial": 0, "idleTimeout": "1s"}
            names = [f"warmed-{runtime}-{copy}" for copy in range(COPIES)]
            ephemeral = f"once-{runtime}"
            hearth.apply(
                *(function(name, runtime, file, code, handler, signature="event", scale=scale) for name in names),
                function(ephemeral, runtime, file, code, handler, signature="event", processModel="ephemeral", scale={"initial": 0, "max": 50}),
            )
            command = [program, str(BENCH / "baseline" / server), str(BENCH / "functions" / source)]
            # The first of each is not counted: it fills the page cache.
            bare(command, free_port())
            at_rest(hearth)
            call(hearth, names[0])
            bares, warmed = [], []
            for pair in range(PAIRS):
                at_rest(hearth)
                bares.append(bare(command, free_port()))
                took, met = call(hearth, names[(pair + 1) % COPIES])
                assert met == "prewarmed", met
                warmed.append(took)
            bursts, fills = [], []
            for _ in range(BURSTS):
                at_rest(hearth)
                bursts += together(hearth, ephemeral, POOL)
                since = time.perf_counter()
                time.sleep(0.1)
                wait_for(lambda: rungs(hearth).get("pooled") == POOL, "the pool to be full again", hearth.process)
                fills.append(time.perf_counter() - since)
            rate = POOL / median(fills)
            at_rest(hearth)
            arrivals = together(hearth, ephemeral, int(ARRIVALS_SECONDS * rate / 2), 2 / rate)
            pieces = (
                (f"bare {runtime}", bares),
                (f"prewarmed, {runtime}", warmed),
                (f"ephemeral, bursts of {POOL}: {shares(bursts)}", [took for took, _ in bursts]),
                (f"ephemeral, {rate / 2:.1f} a second: {shares(arrivals)}", [took for took, _ in arrivals]),
            )
            for label, values in pieces:
                rows.append([label, len(values), *(f"{percentile(values, p):.1f}" for p in (50, 90, 99))])
            rows.append([f"{runtime}: refilled", BURSTS, f"{rate:.1f} a second", "", ""])
            base = median(bares)
            for label, values in pieces[1:]:
                p50, p99 = median(values) / base, percentile(values, 99) / base
                verdict.bar(f"{label}: p50 {median(values):.1f} ms is {p50:.2f} x the bare {base:.1f} ms (at most 0.2)", p50 <= 0.2)
                verdict.bar(f"{label}: p99 {percentile(values, 99):.1f} ms is {p99:.2f} x (at most 0.6)", p99 <= 0.6)
            for label, results in (("burst", bursts), ("arrivals", arrivals)):
                met = sum(kind == "prewarmed" for _, kind in results)
                verdict.bar(f"{runtime}, ephemeral, {label}: {met} of {len(results)} were prewarmed", met == len(results))
    print()
    table(["", "runs", "p50 ms", "p90 ms", "p99 ms"], rows)
    verdict.end()


main()
