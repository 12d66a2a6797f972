"""The catalogue: decisions from intervals, a small real measurement, resuming, the table, costs."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tools.catalogue import __main__ as command
from tools.catalogue import cost, measure, rows, run, table

ROOT = Path(__file__).parents[2]
NOISE = [0.001, -0.001, 0.002, -0.002, 0.0, 0.001, -0.001, 0.002, -0.002, 0.0]


def claimed(direction="higher", margin=0.0, shift=0.0, seeds=10):
    """A measured row whose values lie `shift` over its baseline's."""
    base = [0.9] * seeds
    values = [0.9 + shift + noise for noise in NOISE[:seeds]]
    claim = {"direction": direction, "margin": margin}
    compared = measure.compare(claim, values, base)
    stated = {"row": "own", "over": "kd", "metric": "accuracy", **claim}
    return {
        **rows.EMPTY,
        "id": "S1", "command_name": "own", "name": "Own", "kind": "method", "family": "logits",
        "conditions": {"jaxlib": "1"}, "seeds": list(range(seeds)),
        "differences": [{**stated, **compared}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "options, status",
    [
        ({"shift": 0.01}, "works"),
        ({"shift": 0.0}, "no-effect"),
        ({"shift": -0.01}, "no-effect"),
        ({"shift": -0.01, "direction": "lower"}, "works"),
        ({"shift": 0.01, "direction": "lower"}, "no-effect"),
        ({"shift": 0.01, "seeds": 5}, "no-effect"),  # a gain needs ten seeds
        ({"shift": 0.001, "direction": "equal", "margin": 0.005, "seeds": 5}, "works"),
        ({"shift": 0.004, "direction": "equal", "margin": 0.005, "seeds": 5}, "no-effect"),
        ({"shift": 0.01, "direction": "equal", "margin": 0.005}, "no-effect"),
    ],
)
def test_the_interval_decides_in_the_stated_direction(options, status):
    row = claimed(**options)
    measure.decide([row])
    assert row["status"] == status


def test_every_claim_of_a_row_must_hold():
    row = claimed(shift=0.01)
    row["differences"] += claimed(shift=0.0)["differences"]
    measure.decide([row])
    assert row["status"] == "no-effect"


def test_holm_over_the_table_takes_back_what_one_row_alone_would_have():
    just = claimed(shift=0.0012)
    (difference,) = just["differences"]
    assert difference["holds"] and 0.01 < difference["p"] < 0.05
    measure.decide([just])
    assert just["status"] == "works"
    others = [claimed(shift=0.0) for _ in range(9)]
    measure.decide([just, *others])
    assert just["status"] == "no-effect"
    assert just["adjusted_p"] == pytest.approx(10 * difference["p"])


def test_the_catalogue_has_every_row_once_and_all_fields():
    there = rows.load()
    assert len(there) == 294
    for key in ("id", "command_name"):
        assert len({row[key] for row in there}) == 294
    for row in there:
        assert set(rows.EMPTY) <= set(row), row["id"]
        assert row["status"] in rows.STATUSES
        assert set(row["difference"]) == {"mean", "low", "high"}
        assert row["command_name"] == row["command_name"].lower().replace("-", "_")
        if row["status"] in ("works", "no-effect"):
            assert row["command"] and row["conditions"] and row["seeds"] and row["baseline"]
        if row["status"] == "covered":
            assert row["command"] and row["result"]


def test_the_stored_statuses_are_what_the_stored_numbers_say():
    there = rows.load()
    before = [(row["status"], row["adjusted_p"]) for row in there]
    measure.decide(there)
    assert [(row["status"], row["adjusted_p"]) for row in there] == before


def test_the_written_table_is_that_of_the_rows():
    assert (ROOT / "configs" / "README.md").read_text(encoding="utf-8") == table.render(rows.load())


def test_the_table_has_a_line_for_every_row_with_its_numbers():
    row = claimed(shift=0.01)
    measure.decide([row])
    row.update(result="a | b\nc", cost={"training_flops": 3e9, "baseline_training_flops": 2e9})
    text = table.render([row, {**claimed(), **rows.EMPTY, "id": "S2", "family": "online"}])
    (line,) = (line for line in text.splitlines() if line.startswith("| S1"))
    assert (
        "over kd +1.00 [+0.89, +1.11] (higher)" in line and "3.0e+09 FLOPs, 1.5 × baseline" in line
    )
    assert "a \\| b c" in line and "1 works, 1 todo" in text
    assert "| S2 |" in text.split("## online")[1]


def test_cost_counts_code_that_no_other_public_function_needs():
    source = '''def used(x):
    """Says
    something."""
    # a comment

    return _helper(
        _shared(x)
    )


def _helper(x):  # with a comment behind
    return x


def _shared(x):
    return x


def other():
    return _shared(1)
'''
    assert cost.code_lines(source, {"used"}) == 4 + 2
    assert cost.code_lines(source, {"used", "other"}) == 4 + 2 + 2 + 2


def test_costs_leave_out_what_rows_share_and_put_the_study_beside():
    counted = cost.costs(rows.load())
    for several in ("llm_neo", "pre_training_distillation_design_space"):  # both claim `token_kd`
        assert counted[several]["method"] == 0 and counted[several]["recipe"] > 0
    assert counted["rkd"]["method"] > 0, "what is another row's opponent is this row's own"
    own = counted["sak"]
    assert own["method"] > 0 and own["study"] > 0 and own["test"] > 0
    assert own["total"] == own["method"] + own["recipe"] + own["test"]


def test_the_median_row_takes_under_sixty_lines():
    assert median(each["total"] for each in cost.costs(rows.load()).values()) < 60


def test_an_unknown_name_is_refused_with_the_nearest(capsys):
    assert command.main(["run", "born_agian"]) == 2
    assert "did you mean born_again" in capsys.readouterr().err


def test_a_row_without_a_recipe_is_refused(capsys):
    todo = next(row for row in rows.load() if not row["command"])
    assert command.main(["run", todo["id"]]) == 2
    assert "has no recipe" in capsys.readouterr().err


def test_list_writes_every_field(tmp_path, capsys):
    assert command.main(["list", "--json", str(tmp_path / "rows.json")]) == 0
    assert json.loads((tmp_path / "rows.json").read_text()) == rows.load()
    assert command.main(["list", "--family", "privacy"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_durations():
    assert [run.seconds(text) for text in ("45s", "90m", "2h")] == [45, 5400, 7200]
    with pytest.raises(ValueError, match="90 minutes"):
        run.seconds("90 minutes")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A catalogue of two rows on the embedded digits, the first measured for real."""
    folder = tmp_path_factory.mktemp("catalogue")
    own = {"name": "x", "title": "x", "kind": "method", "family": "logits", **rows.EMPTY}
    recipe = "python -m experiments.distill --config=tests/tools/small_recipe.py"
    first = {"id": "S1", "command_name": "first", **own, "command": recipe}
    second = {"id": "S2", "command_name": "second", **own, "command": recipe + " --bad_flag"}
    rows.save([first, second], folder / "rows.jsonl")
    done = called(folder, "run", "first")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def called(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "tools.catalogue", *arguments,
         "--catalogue", str(folder / "rows.jsonl"), "--runs", str(folder / "runs")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_run_stores_what_it_measured(catalogue):
    row = rows.load(catalogue / "rows.jsonl")[0]
    assert row["status"] == "no-effect"  # two seeds are no evidence
    assert row["seeds"] == [0, 1] and row["baseline"] == "alone" and row["data"] == "digits"
    kd, alone = (row["measured"][name]["accuracy"] for name in ("kd", "alone"))
    assert row["difference"]["mean"] == pytest.approx((sum(kd) - sum(alone)) / 2)
    assert row["cost"]["training_flops"] == row["cost"]["baseline_training_flops"] > 1e6
    assert set(row["conditions"]) == {"jaxlib", "python", "layout", "data", "recipe"}
    tuning = json.loads((catalogue / "runs" / "first" / "tuning.json").read_text())
    assert {name: len(trials) for name, trials in tuning.items()} == {"alone": 2, "kd": 2}


@pytest.mark.full
def test_training_anew_under_the_same_conditions_gives_the_same_numbers(catalogue):
    before = rows.load(catalogue / "rows.jsonl")[0]
    done = called(catalogue, "run", "first", "--again")
    assert done.returncode == 0, done.stderr[-3000:]
    after = rows.load(catalogue / "rows.jsonl")[0]
    assert after["measured"] == before["measured"] and after["difference"] == before["difference"]


def test_other_numbers_under_the_same_conditions_are_told(catalogue):
    row, new = (rows.load(catalogue / "rows.jsonl")[0] for _ in range(2))
    assert measure.changed(row, new) == []
    new["measured"]["kd"]["accuracy"][0] += 0.01
    (line,) = measure.changed(row, new)
    assert line.startswith("kd accuracy:")
    new["conditions"]["jaxlib"] = "another"
    assert measure.changed(row, new) == []


def test_all_goes_on_behind_what_is_measured_and_reports_what_fails(catalogue):
    done = called(catalogue, "run", "--all", "--budget", "10m")
    assert done.returncode == 1 and "failed: second" in done.stderr
    assert "runs/first" not in done.stdout  # it has its numbers


def test_a_budget_that_is_spent_starts_nothing(catalogue, tmp_path):
    there = rows.load(catalogue / "rows.jsonl")
    fresh = [{**row, **rows.EMPTY, "command": row["command"]} for row in there]
    rows.save(fresh, tmp_path / "rows.jsonl")
    done = called(tmp_path, "run", "--all", "--budget", "0s")
    assert done.returncode == 0 and "2 rows are left" in done.stdout
    stopped = called(tmp_path, "run", "--all", "--budget", "1s")
    assert stopped.returncode == 0 and "stopped and goes on" in stopped.stdout
    assert rows.load(tmp_path / "rows.jsonl") == fresh
