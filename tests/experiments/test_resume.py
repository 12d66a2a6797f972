"""Kills for real, at the worst moments: the same command ends with the same bits."""

import json
import signal
import subprocess

import launched
import pytest

from kdjax.report.results import read_results
from kdjax.report.writers import read_metrics
from tools import checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


def run(home, workdir, point="never", *flags, devices=1, **options):
    return subprocess.run(
        launched.command(workdir, point, *flags, **options),
        check=False,
        env=launched.environment(home, devices),
        cwd=launched.ROOT,
        capture_output=True,
        text=True,
    )


def digests(workdir):
    rows = [checkpoint.describe(row) for row in checkpoint.rows(workdir / "checkpoints")]
    return {row["row"]: (row["step"], row["sha256"]) for row in rows}


def measured(workdir):
    """What must be equal: everything measured but the time it took."""
    rows = read_results(workdir / "results.json")
    return [{k: v for k, v in row["metrics"].items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(home):
    done = run(home, home / "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    (home / "printed").write_text(done.stdout)
    return home / "whole"


def steps(workdir, row):
    folder = workdir / "checkpoints" / row
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def kill(home, workdir, point):
    done = run(home, workdir, point)
    assert done.returncode == -signal.SIGKILL, (point, done.stderr[-3000:])


def test_a_kill_and_a_sigterm_change_nothing(home, whole):
    workdir = home / "stopped"
    kill(home, workdir, "while_writing")
    rows = [row for row in ("teacher", "alone") if steps(workdir, row)]
    assert any("tmp" in name for name in steps(workdir, rows[-1]))
    done = run(home, workdir, "sigterm")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same command goes on from here" in done.stderr
    assert not (workdir / "results.json").exists()
    check_ends_like(home, workdir, whole)


@pytest.mark.full
def test_five_kills_in_a_row_change_nothing(home, whole):
    workdir = home / "killed"
    kill(home, workdir, "before_first_save")
    assert steps(workdir, "teacher") == []
    kill(home, workdir, "while_writing")
    kill(home, workdir, "before_retention")
    assert [n for n in steps(workdir, "alone") if n.isdigit()] == ["10", "20", "30"]
    kill(home, workdir, "in_final_evaluation")
    assert not (workdir / "results.json").exists()
    kill(home, workdir, "while_writing_report")
    assert (workdir / "results.json").exists() and not (workdir / "report.html").exists()
    check_ends_like(home, workdir, whole)


def check_ends_like(home, workdir, whole):
    """The same command, once more: what an uninterrupted run gives, and every line once."""
    done = run(home, workdir)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(workdir) == digests(whole)
    assert measured(workdir) == measured(whole)
    assert (workdir / "report.html").read_text().rstrip().endswith("</html>")
    lines = [(c["row"], c["split"], c["step"]) for c in read_metrics(workdir / "metrics.jsonl")]
    assert len(lines) == len(set(lines))
    assert sorted(lines) == sorted(
        (c["row"], c["split"], c["step"]) for c in read_metrics(whole / "metrics.jsonl")
    )


def test_another_config_is_refused_and_nothing_is_lost(home, whole):
    before = digests(whole)
    done = run(home, whole, "never", "--config.run.steps=40")
    assert done.returncode == 2 and "run.steps: 30 there, 40 now" in done.stderr
    assert "More steps are allowed with --extend" in done.stderr
    assert digests(whole) == before


@pytest.mark.full
def test_a_checkpoint_of_another_teacher_is_refused(home, whole):
    """The teacher's row is trained again with another seed of the digits' own order."""
    workdir = home / "other_teacher"
    subprocess.run(["cp", "-r", whole, workdir], check=True)
    subprocess.run(["rm", "-r", workdir / "checkpoints" / "teacher"], check=True)
    config = json.loads((workdir / "config.json").read_text())
    config["run"]["teacher"]["steps"] = 10
    (workdir / "config.json").write_text(json.dumps(config))
    done = run(home, workdir, "never", "--config.run.teacher.steps=10")
    assert done.returncode == 2 and "was trained with another teacher" in done.stderr
    assert digests(workdir)["alone"] == digests(whole)["alone"]


def test_evaluate_measures_the_finished_rows_again(home, whole):
    done = run(home, whole, module="experiments.evaluate")
    assert done.returncode == 0, done.stderr[-3000:]
    table = [
        [
            line
            for line in text.splitlines()
            if line.startswith(("teacher  ", "alone", "relational"))
        ]
        for text in ((home / "printed").read_text(), done.stdout)
    ]
    assert len(table[0]) == 3 and table[0] == table[1]


def test_a_loss_that_is_not_finite_ends_with_its_step_and_term(home):
    done = run(home, home / "nan", config="nan")
    assert done.returncode == 1
    assert "is not finite" in done.stderr and "term labels" in done.stderr
    assert "Traceback" not in done.stderr
    assert digests(home / "nan").keys() == {"teacher"}


@pytest.mark.full
def test_a_run_goes_on_with_fewer_devices(home, whole):
    """Another layout is not the same bits (DESIGN: what "exactly" means), but the same run."""
    workdir = home / "layouts"
    for devices in (8, 4):
        done = run(home, workdir, "sigterm", devices=devices)
        assert done.returncode == 0 and "goes on from here" in done.stderr, done.stderr[-3000:]
    assert "layout = \"pjit {'data': 4} cpu\", was \"pjit {'data': 8} cpu\"" in done.stderr
    assert run(home, workdir).returncode == 0
    assert {row: step for row, (step, _) in digests(workdir).items()} == {
        row: step for row, (step, _) in digests(whole).items()
    }
    for mine, theirs in zip(measured(workdir), measured(whole), strict=True):
        assert mine["nll"] == pytest.approx(theirs["nll"], rel=1e-2)
