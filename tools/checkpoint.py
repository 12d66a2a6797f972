"""What a checkpoint holds: `python -m tools.checkpoint show DIR`, a row's folder or a workdir."""

import argparse
import json
import sys
from pathlib import Path

from kdjax.train.checkpoints import Checkpoints


def rows(folder: Path) -> list[Path]:
    """The folders under `folder` that hold steps."""
    found = {step.parent for step in folder.rglob("*") if step.is_dir() and step.name.isdigit()}
    return sorted(row for row in found if row.parent.name != "damaged")


def describe(row: Path) -> dict:
    """Step, sizes, seeds, teachers' fingerprints and sha256 of the newest readable checkpoint."""
    checkpoints = Checkpoints(row)
    record = checkpoints.record()
    checkpoints.close()
    if record is None:
        return {"row": row.name, "error": "no readable checkpoint"}
    files = [file for file in (row / str(record["step"])).rglob("*") if file.is_file()]
    return {
        "row": row.name,
        "step": record["step"],
        "bytes": sum(file.stat().st_size for file in files),
        **{
            key: record.get(key)
            for key in ("seeds", "layout", "jaxlib", "python", "data", "teachers")
        },
        "sha256": record["sha256"],
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.checkpoint", description=__doc__)
    parser.add_argument("verb", choices=["show"])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args(argv)
    if not arguments.dir.is_dir():
        print(f"error: {arguments.dir} is no folder", file=sys.stderr)
        return 2
    described = [describe(row) for row in rows(arguments.dir)]
    if not described:
        print(f"error: no checkpoints in {arguments.dir}", file=sys.stderr)
        return 2
    for row in described:
        print(row["row"])
        for key in list(row)[1:]:
            print(f"  {key:9} {row[key]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(described, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
