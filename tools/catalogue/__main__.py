"""The catalogue of published works: what each row is, how it is measured, and what came out.

    python -m tools.catalogue list [--json FILE] [--status STATUS] [--family FAMILY]
    python -m tools.catalogue run NAME [--data DIR] [--again]
    python -m tools.catalogue run --all [--budget 90m] [--data DIR]
    python -m tools.catalogue table
    python -m tools.catalogue cost [NAME ...]

NAME is a row's id or command name; DIR holds the raw data sets, each in a folder of its name. `list
--json` without a file prints the rows. `run` measures a row in runs/catalogue/NAME and stores it in
configs/catalogue.jsonl; a row that has numbers must give the same ones again under the same conditions,
and `--again` trains everything anew. `run --all` goes on with the rows that have none. `table` writes
configs/README.md. `cost` counts the code lines of a row's method, recipe, tests and study; of all rows
and their medians where none is named.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from kdjax.report import files
from tools.catalogue import cost, rows, run, table


def main(argv=None) -> int:
    flags = parse(argv)
    catalogue = Path(flags.catalogue)
    try:
        return COMMANDS[flags.command](flags, catalogue)
    except KeyError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
    except (ValueError, run.FailedError) as error:
        print(f"error: {error}", file=sys.stderr)
    except run.OutOfTimeError as stopped:
        print(stopped)
        return 0
    return 2


def parse(argv):
    parser = argparse.ArgumentParser(
        "tools.catalogue", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="show the rows")
    listing.add_argument("--json", nargs="?", const="-", metavar="FILE", help="all fields as JSON")
    listing.add_argument("--status", choices=rows.STATUSES)
    listing.add_argument("--family")
    running = commands.add_parser("run", help="measure a row")
    running.add_argument("name", nargs="?", metavar="NAME")
    running.add_argument("--all", action="store_true", help="all rows without numbers")
    running.add_argument("--budget", type=run.seconds, metavar="90m", help="stop after this time")
    running.add_argument("--data", type=Path, metavar="DIR", help="the raw data sets")
    running.add_argument("--again", action="store_true", help="train everything anew")
    running.add_argument("--runs", type=Path, default=Path("runs/catalogue"), metavar="DIR")
    writing = commands.add_parser("table", help="write configs/README.md")
    writing.add_argument("--out", metavar="FILE", help="write there instead")
    counting = commands.add_parser("cost", help="count code lines")
    counting.add_argument("names", nargs="*", metavar="NAME")
    for each in (listing, running, writing, counting):
        each.add_argument("--catalogue", default=rows.PATH, metavar="FILE", help="other rows")
    flags = parser.parse_args(argv)
    if flags.command == "run" and bool(flags.name) == flags.all:
        parser.error("say a NAME or --all")
    return flags


def show(flags, catalogue) -> int:
    chosen = [
        row
        for row in rows.load(catalogue)
        if flags.status in (None, row["status"]) and flags.family in (None, row["family"])
    ]
    if flags.json == "-":
        print(json.dumps(chosen, ensure_ascii=False, indent=1))
    elif flags.json:
        files.write_atomically(Path(flags.json), json.dumps(chosen, ensure_ascii=False, indent=1))
    else:
        width = max((len(row["command_name"]) for row in chosen), default=0)
        for row in chosen:
            print(f"{row['id']} {row['status']:<9} {row['command_name']:<{width}} {row['title']}")
    return 0


def measure_rows(flags, catalogue) -> int:
    data = None if flags.data is None else flags.data.resolve()
    runs = flags.runs.resolve()
    if flags.all:
        return run.run_all(catalogue, runs=runs, data=data, budget=flags.budget)
    row = rows.find(rows.load(catalogue), flags.name)
    row = run.run(row, catalogue, runs=runs, data=data, again=flags.again, limit=flags.budget)
    print(f"{row['command_name']}: {row['status']}. {row['result']}")
    for each in row["differences"]:
        print(f"  {each['row']} {table.difference(each)}")
    return 0


def write_table(flags, catalogue) -> int:
    path = Path(flags.out or catalogue.parent / "README.md")
    files.write_atomically(path, table.render(rows.load(catalogue)))
    print(path)
    return 0


def count(flags, catalogue) -> int:
    there = rows.load(catalogue)
    found = cost.costs(there)
    names = [rows.find(there, name)["command_name"] for name in flags.names] or list(found)
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"no recipe to count: {', '.join(missing)}")
    for name in names:
        print(f"{name}: " + ", ".join(f"{part} {n}" for part, n in found[name].items()))
    if len(names) > 1:
        medians = {part: median(found[name][part] for name in names) for part in found[names[0]]}
        print(f"median of {len(names)}: " + ", ".join(f"{p} {n:g}" for p, n in medians.items()))
    return 0


COMMANDS = {"list": show, "run": measure_rows, "table": write_table, "cost": count}

if __name__ == "__main__":
    sys.exit(main())
