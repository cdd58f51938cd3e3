"""Runs wrk and reads what it prints."""

import re
import subprocess

from common import CLEAN

UNITS = {"us": 1.0, "ms": 1000.0, "s": 1_000_000.0}


def wrk(url, connections, seconds):
    """(requests per second, median latency in microseconds, failed requests)."""
    text = subprocess.run(
        ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--latency", url],
        env=CLEAN, capture_output=True, text=True, check=True,
    ).stdout
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()
    failed = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", text)))
    if errors := re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text):
        failed += sum(map(int, errors.groups()))
    return rate, float(value) * UNITS[unit], failed
