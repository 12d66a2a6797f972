"""Holds every loss of kdjax against recorded values and gradients of published implementations.

    python -m tools.references --data DIR [--json FILE]     compares; exit 1 if any entry differs
    python -m tools.references --stress [--json FILE]       the stress table over every public loss
    python -m tools.references --data DIR --compact OUT     a small copy of DIR for the suite
    python -m tools.references --data DIR --readme FILE     the table of the losses [--costs FILE]

DIR holds NAME.json beside NAME.npz, in either format that `recorded.py` reads.
"""

import argparse
import collections
import json
import pathlib
import sys

import jax

from tools.references import compare, readme, recorded, registry, stress

STATUSES = ("matched", "differ", "not covered", "quirk")
MARKS = {"ok": "ok", "failed": "FAILED", "not posed": "-"}


def main(argv=None):
    parser = argparse.ArgumentParser(
        "tools.references", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", metavar="DIR", help="a folder of recorded references")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--stress", action="store_true", help="the stress table")
    parser.add_argument("--compact", metavar="OUT", help="write a small copy of DIR there")
    parser.add_argument("--only", metavar="TEXT", default="", help="names that contain TEXT")
    parser.add_argument("--readme", metavar="FILE", help="write the table of the losses there")
    parser.add_argument("--costs", metavar="FILE", help="rows of tools.bench losses, for the table")
    flags = parser.parse_args(argv)
    if not (flags.data or flags.stress):
        parser.error("say --data DIR or --stress")
    if flags.compact:
        recorded.write_compact(flags.data, flags.compact)
        return 0
    adapters, examples = registry.discover()
    rows, failed = [], False
    if flags.stress:
        rows, failed = run_stress(examples, flags.only)
    if flags.data:
        entries = [entry for entry in recorded.read(flags.data) if flags.only in entry.name]
        compared = [compare.compare(entry, adapters.get(entry.name)) for entry in entries]
        rows += compared
        failed |= report(compared)
        if flags.readme:
            costs = json.loads(pathlib.Path(flags.costs).read_text()) if flags.costs else []
            costs = {row["name"]: row for row in costs}
            pathlib.Path(flags.readme).write_text(readme.table(compared, adapters, costs))
    if flags.json:
        path = pathlib.Path(flags.json)
        path.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")
    return int(failed)


def report(rows):
    """Prints what does not match, the table by method and the summary; True if any row differs."""
    for row in rows:
        if row.status != "matched":
            print(f"{row.status:<12} {row.name}: {row.detail}")
    counted = collections.defaultdict(collections.Counter)
    for row in rows:
        counted[row.method][row.status] += 1
    width = max((len(method) for method in counted), default=6)
    print(f"\n{'method':<{width}} " + " ".join(f"{status:>11}" for status in STATUSES))
    for method, counts in sorted(counted.items()):
        print(f"{method:<{width}} " + " ".join(f"{counts[status]:>11}" for status in STATUSES))
    total = collections.Counter(row.status for row in rows)
    print(
        f"\nreferences: {total['matched']} matched, {total['differ']} differ, "
        f"{total['not covered']} not covered, {total['quirk']} quirks"
    )
    return total["differ"] > 0


def run_stress(examples, only=""):
    """Prints the table loss x case; (rows, True if a case failed or a loss has no example)."""
    losses = {name: f for name, f in registry.public_losses().items() if only in name}
    rows, missing = [], [name for name in losses if name not in examples]
    width = max((len(name) for name in losses), default=4)
    for number, case in enumerate(stress.CASES, 1):
        print(f"{number:>3} {case}")
    print(f"{'loss':<{width}} " + " ".join(f"{n:>6}" for n in range(1, len(stress.CASES) + 1)))
    for name, loss in losses.items():
        if name in missing:
            rows.append(stress.StressRow(name, "", "failed", "no Example"))
            print(f"{name:<{width}} no Example")
            continue
        found = stress.stress(loss, examples[name])
        rows += found
        print(f"{name:<{width}} " + " ".join(f"{MARKS[row.status]:>6}" for row in found))
        for row in found:
            if row.status == "failed":
                print(f"    {row.case}: {row.detail}")
    failures = sum(row.status == "failed" for row in rows)
    print(f"stress: {len(losses)} losses, {failures} failures, {len(missing)} without an example")
    return rows, failures > 0


if __name__ == "__main__":
    # Small programs, compiled once each: the CPU is quickest and has float64.
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main())
