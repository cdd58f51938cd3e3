#!/usr/bin/env python3
"""Compares scaling policies in simulation, and says whether the bars hold.

Usage: bench/simulate.py [--hearth PATH] [--seeds 1,101,102,103]

Seed 1 was used while tuning; the others were not. Nothing runs but `hearth simulate`: no server, no container. Prints a table of all
shipped traces for each seed, and a verdict for each bar:
- against the fixed keep-alive of 10 minutes, all traces together: at most half the cold starts at no more memory-time, or the reverse;
- against Knative: p99 of the waits never higher on any trace, at least 30 % lower on burst and flash, at no more instance-seconds over all.
"""

import argparse
import json
import subprocess
import sys

COLUMNS = ["served", "cold", "prewarmed", "refused", "coldStarts", "pooledStarts", "waitP50Ms", "waitP99Ms", "instanceSeconds",
           "poolSeconds", "gibHours", "wastedSeconds"]


def simulate(hearth, seed):
    """The comparisons of one seed: a list of {trace, policies}."""
    command = [hearth, "simulate", "--seed", str(seed), "--output", "json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def table(comparison):
    """One trace as Markdown."""
    lines = [f"**{comparison['trace']}**", "", "| policy | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    for row in comparison["policies"]:
        cells = [f"{row[column]:.2f}" if column == "gibHours" else f"{row[column]:.0f}" for column in COLUMNS]
        lines.append(f"| {row['policy']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def verdicts(comparisons):
    """(held, sentence) for each bar."""
    by_trace = {one["trace"].split(":")[0]: {row["policy"]: row for row in one["policies"]} for one in comparisons}
    together = by_trace.pop("all together")
    ours, bare, knative, fixed = (together[name] for name in ("hearth", "hearth, no pool", "knative", "fixed 10 min"))
    half_cold = 2 * ours["cold"] <= fixed["cold"] and ours["gibHours"] <= fixed["gibHours"]
    half_memory = 2 * ours["gibHours"] <= fixed["gibHours"] and ours["cold"] <= fixed["cold"]
    yield half_cold or half_memory, (
        f"fixed 10 min: {ours['cold']} cold calls to {fixed['cold']}, {ours['gibHours']:.1f} GiB·h to {fixed['gibHours']:.1f}")
    for name, rows in by_trace.items():
        mine, theirs = rows["hearth"]["waitP99Ms"], rows["knative"]["waitP99Ms"]
        bar = 0.7 if name in ("burst", "flash") else 1.0
        yield mine <= bar * theirs, f"Knative, {name}: p99 {mine:.0f} ms to {theirs:.0f}"
    with_pool = ours["instanceSeconds"] + ours["poolSeconds"]
    yield with_pool <= knative["instanceSeconds"], (
        f"Knative: {with_pool:.0f} instance-seconds, the pool's with them, to {knative['instanceSeconds']:.0f}"
        f" (without a pool {bare['instanceSeconds']:.0f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearth", default="target/release/hearth", help="the binary")
    parser.add_argument("--seeds", default="1,101,102,103", help="which, with commas between them")
    arguments = parser.parse_args()
    held_all = True
    for seed in arguments.seeds.split(","):
        comparisons = simulate(arguments.hearth, int(seed))
        print(f"### Seed {seed}\n")
        for comparison in comparisons:
            print(table(comparison))
        for held, sentence in verdicts(comparisons):
            held_all &= held
            print(f"- {'holds' if held else 'FAILS'}: {sentence}")
        print()
    sys.exit(0 if held_all else 1)


if __name__ == "__main__":
    main()
