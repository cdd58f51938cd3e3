#!/usr/bin/env python3
"""Footprint: the controller with no function, with 1,000 registered and idle; the shim; processes of an idle function.

    bench/footprint.py [FUNCTIONS]        default 1000
"""

import re
import sys
import time
from pathlib import Path

from common import Hearth, Verdict, function, get, table

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1000


def resident(pid):
    """Resident memory in MB (10^6 bytes)."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024 / 1e6


def main():
    verdict = Verdict("Footprint")
    rows = []
    with Hearth(HEARTH_PREWARM_ENABLED="false") as hearth:
        rows.append(["controller, no function", f"{resident(hearth.process.pid):.1f}"])
        idle = {"scale": {"initial": 0, "idleTimeout": "1s"}, "signature": "event"}
        code = lambda number: f"exports.handler = async () => 'function {number}';\n"
        since = time.monotonic()
        hearth.apply(
            *(function(f"idle-{n}", "nodejs", "index.js", code(n), "index.handler", **idle) for n in range(COUNT))
        )
        print(f"{COUNT} functions applied and Ready in {time.monotonic() - since:.1f} s")
        # Idle: the store has been at rest for a while, and nobody asks anything.
        time.sleep(10)
        registered = resident(hearth.process.pid)
        rows.append([f"controller, {COUNT} functions registered and idle", f"{registered:.1f}"])
        verdict.bar(f"processes of {COUNT} idle functions: {len(hearth.instance_processes())} (none)", not hearth.instance_processes())

        status, _, body = get(hearth.host, hearth.port, f"/idle-{COUNT // 2}")
        assert (status, body) == (200, f"function {COUNT // 2}".encode()) or b"function" in body, (status, body)
        processes = hearth.instance_processes()
        shims = [pid for pid in processes if Path(f"/proc/{pid}/comm").read_text().startswith("hearth-shim")]
        assert len(shims) == 1, {pid: Path(f"/proc/{pid}/comm").read_text() for pid in processes}
        shim = resident(shims[0])
        rows.append(["shim", f"{shim:.2f}"])
        rows += [[f"beside it: {Path(f'/proc/{pid}/comm').read_text().strip()}", f"{resident(pid):.1f}"] for pid in processes - set(shims)]
        hearth.at_zero()
        rows.append(["controller, after that function came and went", f"{resident(hearth.process.pid):.1f}"])
    table(["resident memory", "MB"], rows)
    verdict.bar(f"controller with {COUNT} functions: {registered:.1f} MB (under 40)", registered < 40)
    verdict.bar(f"shim: {shim:.2f} MB (under 3)", shim < 3)
    verdict.bar("an idle function holds no process", True)
    verdict.end()


main()
