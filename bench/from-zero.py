#!/usr/bin/env python3
"""From zero under fire: `ab -l -n 1000 -c 200` at zero instances. No request may fail. Beside each, in the same run, the same load on the
same handler under plain node:http, warm: what the machine can do when nothing has to start.

    bench/from-zero.py [ROUNDS]        default 3
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from common import BENCH, CLEAN, ROOT, Hearth, Verdict, free_port, function, interpreter, need, running, table, wait_for

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
REDIS_PORT = 6390
ZERO = {"initial": 0, "idleTimeout": "1s"}


def ab(url, *arguments):
    text = subprocess.run(
        ["ab", "-l", "-n", "1000", "-c", "200", "-s", "60", *arguments, url], env=CLEAN, capture_output=True, text=True
    )
    number = lambda pattern, default=0: int(found[1]) if (found := re.search(pattern, text.stdout)) else default
    return {
        # ab that gives up prints no report: then everything failed.
        "failed": number(r"Failed requests:\s+(\d+)", 1000),
        "non-2xx": number(r"Non-2xx responses:\s+(\d+)"),
        "p50": number(r"50%\s+(\d+)"),
        "p99": number(r"99%\s+(\d+)"),
        "longest": number(r"100%\s+(\d+)"),
    }


def call(url, token=None, body=None):
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, {"content-type": "application/json"})
    if token:
        request.add_header("authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def todo(hearth):
    """Applies the to-do application, scaling to zero within seconds, with a few to-dos in it. Returns a token."""
    manifests = (ROOT / "examples/todo/functions.yaml").read_text()
    manifests = re.sub(r"(?m)^  signature:", '  scale: { idleTimeout: "1s", initial: 0 }\n  signature:', manifests)
    manifests = manifests.replace("path: ./", f"path: {ROOT}/examples/todo/")
    file = Path(hearth.data) / "todo.yaml"
    file.write_text(manifests)
    hearth.cli("apply", "-f", str(file))
    for name in ("web", "user", "rule"):
        wait_for(lambda: hearth.ready(name), f"{name} to be Ready", hearth.process, 300)
    token = call(f"{hearth.url}/todo/api/session", body={"name": "Ada"})["token"]
    for text in ("write the notes", "feed the engine", "count the cards"):
        call(f"{hearth.url}/todo/api/todos", token, {"text": text})
    return token


def redis(hearth, directory):
    """The to-do application's store, where instances find it: on Hearth's bridge."""
    show = ["ip", "-4", "-oneline", "address", "show", "dev", f"hearth{hearth.tag()}"]
    listed = lambda: subprocess.run(show, capture_output=True, text=True).stdout
    wait_for(listed, "Hearth's bridge", hearth.process)
    address = re.search(r"inet ([\d.]+)/", listed())[1]
    return subprocess.Popen(
        ["redis-server", "--bind", address, "--protected-mode", "no", "--port", str(REDIS_PORT), "--save", "", "--dir", directory],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )


def main():
    need("ab", "redis-server")
    verdict = Verdict("From zero under fire: ab -l -n 1000 -c 200")
    functions = BENCH / "functions"
    rows = []
    with tempfile.TemporaryDirectory() as home, Hearth(HEARTH_NETWORK_HOST_PORTS=str(REDIS_PORT), HEARTH_PREWARM_ENABLED="false") as hearth:
        store = redis(hearth, home)
        try:
            node = interpreter(hearth, "nodejs")
            text = lambda name: (functions / name).read_text()
            hearth.apply(
                function("hello-node", "nodejs", "index.js", text("hello.js"), "index.handler", signature="event", scale=ZERO),
                function("hello-python", "python", "main.py", text("hello.py"), "main.handler", signature="event", scale=ZERO),
                function("slow", "nodejs", "index.js", text("slow.js"), "index.handler", signature="event", scale=ZERO, concurrency={"limit": 10}),
            )
            token = todo(hearth)
            cases = {
                "hello, Node": (f"{hearth.url}/hello-node", ()),
                "hello, Python": (f"{hearth.url}/hello-python", ()),
                "100 ms, limit 10": (f"{hearth.url}/slow", ()),
                "to-do list": (f"{hearth.url}/todo/api/overview", ("-H", f"authorization: Bearer {token}")),
            }
            baselines = {"hello, node:http, warm": "hello.js", "100 ms, node:http, warm": "slow.js"}
            for round_ in range(1, ROUNDS + 1):
                for name, (url, arguments) in cases.items():
                    hearth.at_zero()
                    result = ab(url, *arguments)
                    served = len(json.loads(hearth.cli("get", "instances", "-o", "json"))["items"])
                    rows.append([name, round_, *result.values(), served])
                    bad = result["failed"] + result["non-2xx"]
                    verdict.bar(f"{name}, round {round_}: {bad} failed or non-2xx (none), {served} instances, p99 {result['p99']} ms", not bad)
                    if name.startswith("100 ms"):
                        verdict.bar(f"{name}, round {round_}: {served} instances served (more than one)", served > 1)
                for name, file in baselines.items():
                    port = free_port()
                    with running([node, str(BENCH / "baseline/event.js"), str(functions / file), str(port)], port):
                        rows.append([name, round_, *ab(f"http://127.0.0.1:{port}/").values(), ""])
        finally:
            store.terminate()
            store.wait()
    print()
    table(["", "round", "failed", "non-2xx", "p50 ms", "p99 ms", "longest ms", "instances just after"], rows)
    verdict.end()


main()
