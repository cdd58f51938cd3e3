#!/usr/bin/env python3
"""The Docker backend. A cold start of Node, from a request at zero instances to the first byte of its answer, against `create` and `start`
of a container of the same image by the same API, with the same limits, mounts and network, in which a bare node loads the same file and
answers its first request. And a prewarmed start on Docker against one on the embedded backend. Interleaved pairs.

    bench/docker.py [PAIRS]        default 30; needs a Docker Engine that answers (DOCKER_HOST, default unix:///var/run/docker.sock)
"""

import http.client
import json
import os
import socket
import sys
import time
import urllib.parse

from common import BENCH, RUNTIMES, Hearth, Verdict, call, first_byte, function, interpreter, median, percentile, rungs, table, wait_for

PAIRS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
POOL = 4
# Each Function is asked in its turn, so that it has come to rest at zero when its turn comes again.
COPIES = 4
PORT = 8000
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(SOCKET)


def engine(method, path, body=None, allow=()):
    """One request to the engine, over a connection of its own, as Hearth makes them."""
    connection = Connection("engine", timeout=60)
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, f"/v1.40{path}", json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 300 and answer.status not in allow:
        raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
    return json.loads(text) if text.strip() else None


def containers(hearth):
    filters = urllib.parse.quote(json.dumps({"label": [f"dev.hearth.data={hearth.tag()}"]}))
    return engine("GET", f"/containers/json?all=1&filters={filters}")


class Plain:
    """A container like those of a Hearth, but with a bare node in it."""

    def __init__(self, hearth, program, source, server):
        like = engine("GET", f"/containers/{containers(hearth)[0]['Id']}/json")
        host = like["HostConfig"]
        host["Mounts"] = [mount for mount in host["Mounts"] if mount["Target"] not in ("/run/hearth", "/code")]
        host["Mounts"].append({"Type": "bind", "Source": str(BENCH), "Target": "/code", "ReadOnly": True})
        network = engine("GET", f"/networks/{host['NetworkMode']}")
        gateway = network["IPAM"]["Config"][0]["Gateway"].split(".")
        # In the upper end of the subnet, which the engine does not reach in this time; known before, so that nobody need ask.
        self.address = ".".join([*gateway[:2], str(int(gateway[2]) + 15), "200"])
        self.body = {
            "Image": like["Image"],
            "Entrypoint": [program, f"/code/baseline/{server}", f"/code/functions/{source}", str(PORT), "0.0.0.0"],
            "User": "65532:65532",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
            "HostConfig": host,
            "NetworkingConfig": {"EndpointsConfig": {host["NetworkMode"]: {"IPAMConfig": {"IPv4Address": self.address}}}},
        }

    def start(self):
        """Milliseconds from `create` to the first byte of the first answer."""
        since = time.perf_counter()
        name = engine("POST", "/containers/create", self.body)["Id"]
        try:
            engine("POST", f"/containers/{name}/start")
            took, answer = first_byte(self.address, PORT, "/", since, since + 30)
        finally:
            engine("DELETE", f"/containers/{name}?force=1&v=1")
        assert "Hello, world!" in answer, answer
        return took


def cold(hearth, name):
    wait_for(lambda: not containers(hearth), "every container to be gone", hearth.process)
    took, met = call(hearth, name)
    assert met == "cold", met
    return took


def cold_starts(verdict, rows):
    file, source, handler, server = RUNTIMES["nodejs"]
    with Hearth(HEARTH_BACKEND="docker", HEARTH_PREWARM_ENABLED="false") as hearth:
        program = interpreter(hearth, "nodejs")
        code = (BENCH / "functions" / source).read_text()
        names = [f"cold-{copy}" for copy in range(COPIES)]
        scale = {"initial": 0, "idleTimeout": "1s"}
        hearth.apply(*(function(name, "nodejs", file, code, handler, signature="event", scale=scale) for name in names))
        # The first of each is not counted: it fills the page cache.
        cold(hearth, names[0])
        plain = Plain(hearth, program, source, server)
        plain.start()
        plains, colds = [], []
        for pair in range(PAIRS):
            took = cold(hearth, names[(pair + 1) % COPIES])
            colds.append(took)
            # The engine is still busy with what went; both begin when it is not.
            wait_for(lambda: not containers(hearth), "every container to be gone", hearth.process)
            plains.append(plain.start())
        for label, values in (("create + start, bare node", plains), ("cold start on Docker", colds)):
            rows.append([label, len(values), *(f"{percentile(values, p):.1f}" for p in (50, 90, 99))])
        base, own = median(plains), median(colds)
        verdict.bar(f"Docker, Node: cold p50 {own:.1f} ms is {own / base:.2f} x create + start's {base:.1f} ms (at most 1.25)", own <= 1.25 * base)


def at_rest(hearth):
    """Waits until the pool is full and nothing else runs or starts."""

    def rests():
        now = rungs(hearth)
        return now.get("pooled") == POOL and sum(now.values()) == POOL

    # What the metrics show is up to 50 ms old.
    time.sleep(0.1)
    wait_for(rests, "a full pool and nothing else", hearth.process)


def prewarmed_starts(verdict, rows):
    file, source, handler, _ = RUNTIMES["nodejs"]
    code = (BENCH / "functions" / source).read_text()
    names = [f"warmed-{copy}" for copy in range(COPIES)]
    pool = {"HEARTH_PREWARM_SIZE": str(POOL), "HEARTH_PREWARM_MAX": str(POOL)}
    scale = {"initial": 0, "idleTimeout": "1s"}
    with Hearth(**pool) as embedded, Hearth(HEARTH_BACKEND="docker", **pool) as docker:
        took = {embedded: [], docker: []}
        for hearth in took:
            hearth.apply(*(function(name, "nodejs", file, code, handler, signature="event", scale=scale) for name in names))
        for pair in range(-1, PAIRS):
            for hearth in took:
                # Both at rest: one machine has both.
                at_rest(embedded)
                at_rest(docker)
                time_taken, met = call(hearth, names[(pair + 1) % COPIES])
                assert met == "prewarmed", met
                # The first of each is not counted.
                if pair >= 0:
                    took[hearth].append(time_taken)
        for label, values in (("prewarmed, embedded", took[embedded]), ("prewarmed, Docker", took[docker])):
            rows.append([label, len(values), *(f"{percentile(values, p):.1f}" for p in (50, 90, 99))])
        base, own = median(took[embedded]), median(took[docker])
        verdict.bar(f"prewarmed on Docker: p50 {own:.1f} ms is {own / base:.2f} x embedded's {base:.1f} ms (at most 1.5)", own <= 1.5 * base)


def main():
    try:
        engine("GET", "/_ping", allow=(200,))
    except json.JSONDecodeError:
        # It says "OK".
        pass
    except OSError as error:
        sys.exit(f"no Docker Engine at unix://{SOCKET} ({error}): systemctl start docker, or dockerd &")
    verdict = Verdict("Docker")
    rows = []
    cold_starts(verdict, rows)
    prewarmed_starts(verdict, rows)
    print()
    table(["", "runs", "p50 ms", "p90 ms", "p99 ms"], rows)
    verdict.end()


main()
