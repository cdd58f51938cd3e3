#!/usr/bin/env python3
"""Nothing lost: constant load while instances are put out, code is replaced, and the function goes to zero and back. Not one answer may be
other than 2xx. The connections of the clients stay open throughout.

    bench/no-loss.py [SECONDS]        of each part, default 20
"""

import random
import sys
import threading
import time
import urllib.request

from common import BENCH, Hearth, Verdict, function, need, table
from shapes import Watcher, answers, hey

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
REDEPLOY_SECONDS = 2.0


def manifest(name, release=0, **scale):
    code = (BENCH / "functions/slow.js").read_text() + f"\n// {release}\n"
    scale = {"initial": 0, "max": 20, "idleTimeout": "1s", "window": "6s", "keepAlive": "fixed", "pause": "off", **scale}
    return function(name, "nodejs", "index.js", code, "index.handler", signature="event", concurrency={"limit": 5}, scale=scale)


def scale_in(hearth, url):
    """A crowd comes and leaves, again and again, beside a few who stay: instances come and are put out under load."""
    few = hey(url, 4, SECONDS)
    done = []
    until = time.monotonic() + SECONDS - 5
    while time.monotonic() < until:
        done.append(answers(hey(url, 40, 2)))
        time.sleep(3)
    return [*done, answers(few)]


def redeploy(hearth, url):
    """New code every other second."""
    load = hey(url, 20, SECONDS)
    until, release = time.monotonic() + SECONDS - 3, 0
    while time.monotonic() < until:
        time.sleep(REDEPLOY_SECONDS)
        release += 1
        hearth.apply(manifest("redeploy", release), wait=False)
    return [answers(load)]


def idle_out(hearth, url):
    """Two clients that call every 1.0 to 1.4 s, about when an instance that has been idle for 1 s is put out."""
    done, threads = [], []

    def one(number):
        chance, until = random.Random(number), time.monotonic() + SECONDS
        good = bad = 0
        while time.monotonic() < until:
            time.sleep(chance.uniform(1.0, 1.4))
            try:
                with urllib.request.urlopen(url, timeout=60) as answer:
                    good += 200 <= answer.status < 300
            except OSError as error:
                print(f"idle-out: {error}", file=sys.stderr)
                bad += 1
        done.append((good, bad))

    for number in range(2):
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return done


PARTS = {"scale-in": scale_in, "redeploy": redeploy, "idle-out": idle_out}


def main():
    need("hey")
    verdict = Verdict("Nothing lost")
    rows = []
    with Hearth() as hearth:
        for name, part in PARTS.items():
            hearth.apply(manifest(name))
            with Watcher(hearth, name) as watcher:
                done = part(hearth, f"{hearth.url}/{name}")
            good, bad = map(sum, zip(*done))
            rows.append([name, good, bad, watcher.started])
            verdict.bar(f"{name}: {bad} of {good + bad} answers were not 2xx (none); {watcher.started} instances started meanwhile", not bad)
            hearth.cli("delete", "function", name)
    print()
    table(["", "2xx", "others", "instances started"], rows)
    verdict.end()


if __name__ == "__main__":
    main()
