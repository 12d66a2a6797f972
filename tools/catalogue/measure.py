"""From a finished workdir to a measured row: the claims that its recipe stated, and their intervals.

A claim compares one row of `results.json` with others, seed by seed. "higher" and "lower" hold where
the 95 % interval of the difference lies on that side of zero, "equal" where it lies within the margin.
A row of the catalogue works if all its claims hold, for ten seeds or more where a gain is claimed and
five where none is, and still do after Holm's correction over all measured rows.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.report import tables
from kdjax.report.intervals import holm, paired_interval, paired_p_value
from kdjax.report.results import read_results
from tools.catalogue.rows import Row

LEVEL = 0.05
SEEDS = {"higher": 10, "lower": 10, "equal": 5}
PLACES = ("data_dir", "manual_dir")  # where the data lie, not what they are


def compare(claim: Mapping[str, Any], values: Sequence[float], base: Sequence[float]) -> dict:
    """{"mean", "low", "high", "p", "holds"} of a claim about the differences `values - base`."""
    interval, direction, margin = paired_interval(values, base), claim["direction"], claim["margin"]
    if direction == "equal":
        holds = -margin < interval.low and interval.high < margin
        shifted = [np.asarray(base, float) + side * margin for side in (-1, 1)]
        p = max(paired_p_value(values, each) for each in shifted)
        p = p if abs(interval.mean) < margin else 1.0
    else:
        sign = 1 if direction == "higher" else -1
        holds = min(sign * interval.low, sign * interval.high) > 0
        p = paired_p_value(values, base) if sign * interval.mean > 0 else 1.0
    return {**interval._asdict(), "p": p, "holds": bool(holds)}


def read(workdir: Path) -> dict[str, Any]:
    """What a workdir measured: the fields of a catalogue row, except its status.

    Raises:
        ValueError: a recipe without claims, or a claimed metric that was not measured.
    """
    record = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    results = {row["name"]: row for row in read_results(workdir / "results.json")}
    run = record["run"]
    if not run.get("claims"):
        raise ValueError(f"the recipe of {workdir} states no claim")
    differences: list[dict[str, Any]] = []
    measured: dict[str, dict[str, Any]] = {}
    for claim in run["claims"].values():
        for name in (claim["row"], *claim["over"]):
            if claim["metric"] not in results[name]["metrics"]:
                raise ValueError(f"row {name!r} of {workdir} has no metric {claim['metric']!r}")
            values = results[name]["metrics"][claim["metric"]]
            measured.setdefault(name, {})[claim["metric"]] = values
        values = measured[claim["row"]][claim["metric"]]
        for over in claim["over"]:
            compared = compare(claim, values, measured[over][claim["metric"]])
            stated = {key: claim[key] for key in ("row", "metric", "direction", "margin")}
            differences.append({**stated, "over": over, **compared})
    first = differences[0]
    costs = {
        name: results[name]["metrics"]["training_flops"][0]
        for name in (first["row"], first["over"])
        if "training_flops" in results[name]["metrics"]
    }
    return {
        "data": _data(run["data"]),
        "seeds": results[first["row"]]["seeds"],
        "baseline": ", ".join(dict.fromkeys(each["over"] for each in differences)),
        "result": "; ".join(dict.fromkeys(_sentence(each, measured) for each in differences)),
        "difference": {key: _finite(first[key]) for key in ("mean", "low", "high")},
        "differences": [{key: _finite(x) for key, x in each.items()} for each in differences],
        "measured": measured,
        "cost": {
            "training_flops": costs.get(first["row"]),
            "baseline_training_flops": costs.get(first["over"]),
            "seconds": sum(s for row in results.values() for s in row["metrics"]["seconds"]),
        },
        "conditions": {
            **{key: record[key] for key in ("jaxlib", "python", "layout")},
            "data": record["data"],
            "recipe": fingerprint(run),
        },
    }


def fingerprint(run: Mapping[str, Any]) -> str:
    """sha256 of a recipe's `run`, wherever its data lie."""
    data = {key: value for key, value in run["data"].items() if key not in PLACES}
    text = json.dumps({**run, "data": data}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def decide(rows: list[Row]) -> None:
    """Sets `adjusted_p` and `status` of every measured row, Holm's correction over all of them."""
    tested = [row for row in rows if row["differences"]]
    # All claims of a row must hold: its p-value is the largest of theirs.
    worst = [max(_number(each["p"]) for each in row["differences"]) for row in tested]
    for row, p in zip(tested, holm(worst), strict=True):
        row["adjusted_p"] = _finite(p)
        enough = all(len(row["seeds"]) >= SEEDS[each["direction"]] for each in row["differences"])
        holds = all(each["holds"] for each in row["differences"])
        row["status"] = "works" if enough and holds and p <= LEVEL else "no-effect"


def changed(row: Row, new: Mapping[str, Any]) -> list[str]:
    """What differs from the stored values although the conditions are the same; empty if they differ."""
    if row["conditions"] != new["conditions"] or row["seeds"] != new["seeds"]:
        return []
    return [
        f"{name} {metric}: {row['measured'].get(name, {}).get(metric)} stored, {values} now"
        for name, metrics in new["measured"].items()
        for metric, values in metrics.items()
        if row["measured"].get(name, {}).get(metric) != values
    ]


def _data(data):
    labelled = f", {data['labelled']} labelled" if data.get("labelled") else ""
    return f"{data['name']}{labelled}"


def _sentence(each, measured):
    percent = each["metric"] in tables.SHARES

    def shown(name):
        values = np.asarray(measured[name][each["metric"]], float) * (100 if percent else 1)
        shape = ".2f" if percent else ".3g"
        spread = f" ± {values.std(ddof=1):{shape}}" if len(values) > 1 else ""
        return f"{name} {values.mean():{shape}}{spread}"

    unit = " %" if percent else ""
    return f"{each['metric'].replace('_', ' ')}{unit}: {shown(each['row'])}, {shown(each['over'])}"


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value):
    return math.nan if value is None else value
