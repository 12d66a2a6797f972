"""`configs/README.md`: every row of the catalogue in one table per family."""

from collections import Counter
from collections.abc import Sequence

from kdjax.report.tables import SHARES
from tools.catalogue.rows import STATUSES, Row

HEAD = """# The catalogue

{count} published works on knowledge transfer, from `configs/catalogue.jsonl`: {counts}.

- `works`: every claim that the recipe states before it runs holds. Intervals are paired over seeds,
  95 %; p is the row's largest, corrected by Holm's method over all measured rows.
- `no-effect`: measured the same way, and not so at this scale; the numbers are there all the same.
- `covered`: a framework, survey, data set or report; the row names what here holds what it offers.
- `runs`: the command runs, nothing is claimed. `todo`: not there yet.

`python -m tools.catalogue run NAME --data DIR` measures a row anew (DIR holds the raw data sets); a
command below does the same by hand. Students are small and everything trains on two cores, so a
difference here says that the mechanism acts, not how far it carries at the scale of the paper. Cost is
the training FLOPs of one student as executed, beside those of the first baseline; outputs of frozen
teachers are computed once and not counted.

Made by `python -m tools.catalogue table`.
"""
COLUMNS = (
    "id", "work", "kind", "status", "command", "data", "seeds", "baseline",
    "result", "difference [95 %]", "p (Holm)", "cost",
)  # fmt: skip


def render(rows: Sequence[Row]) -> str:
    """The text of the file."""
    counted = Counter(row["status"] for row in rows)
    counts = ", ".join(f"{counted[status]} {status}" for status in STATUSES if counted[status])
    parts = [HEAD.format(count=len(rows), counts=counts)]
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        lines = [" | ".join(cells(row)) for row in own]
        parts.append(f"\n## {family}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
        parts.extend(f"| {line} |\n" for line in lines)
    return "".join(parts)


def cells(row: Row) -> list[str]:
    """One line of the table, as text without pipes or line breaks."""
    differences = [difference(each) for each in row["differences"]]
    p = row["adjusted_p"]
    texts = [
        row["id"],
        f"{row['name']}: `{row['command_name']}`",
        row["kind"],
        row["status"],
        f"`{row['command']}`" if row["command"] else "",
        row["data"],
        str(len(row["seeds"]) or ""),
        row["baseline"],
        ". ".join(text for text in (row["result"], row["note"]) if text),
        "; ".join(differences),
        "" if p is None else f"{p:.2g}",
        _cost(row["cost"]),
    ]
    return [" ".join(str(text).split()).replace("|", "\\|") for text in texts]


def difference(each):
    scale = 100 if each["metric"] in SHARES else 1
    mean, low, high = (
        "nan" if each[key] is None else f"{scale * each[key]:+.2f}"
        for key in ("mean", "low", "high")
    )
    wanted = f"equal within {scale * each['margin']:g}" if each["margin"] else each["direction"]
    return f"over {each['over']} {mean} [{low}, {high}] ({wanted}{'' if each['holds'] else ': no'})"


def _cost(cost):
    own, base = (cost.get(key) for key in ("training_flops", "baseline_training_flops"))
    if not own:
        return ""
    ratio = f", {own / base:.2g} × baseline" if base else ""
    return f"{own:.1e} FLOPs{ratio}"
