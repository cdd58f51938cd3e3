#!/usr/bin/env python3
"""A change of one line in a function with a tree of at least 200 packages that is installed already: from `hearth apply` to a Revision that can
be started, to one that has been started and tried, and `hearth build` to an image on the disk. Beside it, in the same run, what
installing the tree again takes: `npm ci` with a warm cache.

    bench/rebuild.py [ROUNDS]        default 10; needs root and a registry of npm's, for the first installation
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Hearth, Verdict, get, median, need, percentile, table

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 10
PACKAGES = 200
BAR_MS = 300
DEPENDENCIES = {"express": "4.21.2", "eslint": "8.57.1", "mocha": "10.8.2", "webpack": "5.97.1"}
CODE = "const express = require('express');\nexports.handler = async () => ({ statusCode: 200, body: 'VERSION ' + typeof express });\n"


def project(directory, name, initial):
    directory.mkdir()
    (directory / "package.json").write_text(json.dumps({"name": name, "version": "1.0.0", "dependencies": DEPENDENCIES}))
    manifest = {
        "apiVersion": "hearth.dev/v1",
        "kind": "Function",
        "metadata": {"name": name},
        "spec": {
            "runtime": "nodejs", "source": {"path": "."}, "handler": "index.handler", "scale": {"initial": initial},
            "triggers": [{"http": {"path": f"/{name}"}}],
        },
    }
    (directory / "function.json").write_text(json.dumps(manifest))
    return directory


def change(directory, version):
    (directory / "index.js").write_text(CODE.replace("VERSION", str(version)))


def timed(work):
    since = time.perf_counter()
    work()
    return (time.perf_counter() - since) * 1000


def main():
    need("npm")
    verdict = Verdict(f"Rebuild after a change of one line, {PACKAGES} packages installed already")
    with tempfile.TemporaryDirectory() as home, Hearth(HEARTH_PREWARM_ENABLED="false") as hearth:
        home = Path(home)
        built, tried = project(home / "built", "built", 0), project(home / "tried", "tried", 1)
        npm = lambda *arguments: subprocess.run(
            ["npm", *arguments, "--no-audit", "--no-fund", "--loglevel=error"], cwd=built, check=True, stdout=subprocess.DEVNULL
        )
        npm("install", "--package-lock-only")
        lock = (built / "package-lock.json").read_text()
        (tried / "package-lock.json").write_text(lock)
        packages = sum(1 for path in json.loads(lock)["packages"] if path)
        cache, out = str(home / "cache"), f"oci:{home / 'out'}"
        image = lambda: hearth.cli("build", str(built), "--cache-dir", cache, "--output", out)
        for directory in (built, tried):
            change(directory, 0)
            hearth.cli("apply", "-f", str(directory))
        image()
        times = {"to a Revision that can be started": [], "to one that was started and tried": [], "hearth build": [], "npm ci, warm cache": []}
        can, was, build, again = times.values()
        for number in range(1, ROUNDS + 1):
            for directory, into in ((built, can), (tried, was)):
                change(directory, number)
                into.append(timed(lambda: hearth.cli("apply", "-f", str(directory))))
                status, _, body = get(hearth.host, hearth.port, f"/{directory.name}")
                assert status == 200 and body.decode() == f"{number} function", (status, body)
            change(built, f"image {number}")
            build.append(timed(image))
            if number <= 2:
                again.append(timed(lambda: npm("ci")))
        table(
            [f"{packages} packages", "p50 ms", "p90 ms", "rounds"],
            [[what, round(median(all)), round(percentile(all, 90)), len(all)] for what, all in times.items()],
        )
        verdict.bar(f"at least {PACKAGES} packages ({packages})", packages >= PACKAGES)
        verdict.bar(f"p50 to a Revision that can be started: {median(can):.0f} ms, bar {BAR_MS} ms", median(can) < BAR_MS)
    verdict.end()


main()
