"""Distils one teacher into the same student by several methods, over seeds: the main job.

    python -m experiments.distill --config=configs/digits.py --workdir=runs/demo

Prints a table and writes `config.json`, `metrics.jsonl`, `results.json`, `report.html`,
`checkpoints/` and TensorBoard events into the workdir. The same command goes on with a run that was
stopped or killed.
"""

import shlex
import sys
from pathlib import Path

import jax

from experiments import setup, train_teacher
from experiments.train_teacher import build_data, measure, summary
from kdjax.metrics import classification
from kdjax.report import html, tables
from kdjax.report.results import write_results
from kdjax.report.writers import read_metrics
from kdjax.train import build_evaluation

COLUMNS = (
    tables.Column("accuracy", "test accuracy", percent=True, gain=True),
    tables.Column("agreement", "agreement with teacher", percent=True),
    tables.Column("calibration_error", "calibration error", percent=True),
    tables.Column("parameters", "parameters", digits=0),
    tables.Column("flops", "FLOPs per example", digits=0),
    tables.Column("seconds", "seconds per seed", digits=1),
)


def build_networks(config, data):
    """Teacher and student, each giving the features that some row asks for."""
    asked = {row.student_feature for row in config.run.rows.values() if "student_feature" in row}
    student = setup.build_network(
        "run.student.network",
        config.run.student.network,
        data.classes,
        data.inputs,
        asked,
    )
    return {**train_teacher.build_networks(config, data), "student": student}


def build_method(config, name):
    """The method of one row of the table."""
    return setup.build_method(f"run.rows.{name}", config.run.rows[name])


def build_stages(config, data, nets):
    """{row: its stages}: all seeds in one program, or a stage for each."""
    setup.check_range("run.steps", config.run.steps, lambda v: v > 0, "above 0")
    setup.check_range("run.seeds", config.run.seeds, lambda v: v > 0, "above 0")
    key = "run.student.optimiser"
    optimiser = setup.build_optimiser(key, config.run.student.optimiser, config.run.steps)
    setup.check_no_decay(key, config.run.student.optimiser, nets["student"], data.inputs)
    setup.choose("run.baseline", config.run.baseline, config.run.rows)
    placement = setup.build_placement(config)
    stages = {}
    for name in sorted(config.run.rows, key=lambda name: name != config.run.baseline):
        method = build_method(config, name)
        with setup.reading(f"run.rows.{name}"):
            stages[name] = [
                (
                    setup.build_stage(
                        label, method, nets, dict.fromkeys(nets, data.inputs),
                        optimiser, data.student, config.run.steps, seeds, placement,
                    ),
                    seeds,
                )
                for label, seeds in setup.seed_groups(
                    name, config.run.seeds, config.run.seeds_together
                )
            ]  # fmt: skip
    named = {name for parts in stages.values() for stage, _ in parts for name in stage.networks}
    for name in placement.sharding:
        setup.choose(f"place.sharding.{name}", name, dict.fromkeys(named))
    return stages


def measure_pair(scope):
    """What is measured of a student, and how often it agrees with its teacher."""
    image = scope.batch["image"]
    student, teacher = (scope.apply(name, image)[0].logits for name in ("student", "teacher"))
    return {**measure(scope), "agreement": classification.agreement(student, teacher)}


def build_student_evaluation(stage, seeds):
    """`evaluate(state, frozen, batches) -> totals` of one stage, by seed for several."""
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    return build_evaluation(stage.networks, measure_pair, replicas=replicas)


def train_student(run, data, stage, seeds, frozen, digest):
    """(metrics on the test split, what was trained) of one stage."""
    evaluate = build_student_evaluation(stage, seeds)

    def validate(state):
        return summary(evaluate(state, frozen, data.validation))

    trained = setup.train_row(run, stage, frozen, seeds, {"teacher": digest}, validate)
    return summary(evaluate(trained.state, frozen, data.test)), trained


def main(config, workdir: Path) -> int:
    data = build_data(config)
    nets = build_networks(config, data)
    teacher_stage = train_teacher.build_stage(config, data, nets["teacher"])
    stages = build_stages(config, data, nets)
    run = setup.open_run(config, workdir, data.source.fingerprint)

    frozen, digest, row = train_teacher.obtain_teacher(config, run, data, teacher_stage)
    rows, failed = [row], 0
    for name, parts in stages.items():
        done = [train_student(run, data, stage, seeds, frozen, digest) for stage, seeds in parts]
        failed += sum(len(trained.failures) for _, trained in done)
        seeds = list(range(config.run.seeds))
        rows.append(setup.result_row(name, seeds, done, nets["student"], data.inputs))
    if setup.is_first():
        write_results(workdir / "results.json", rows)
        report(config, workdir, data, rows)
    return 1 if failed else 0


def report(config, workdir, data, rows):
    """The table on the terminal and `report.html`."""
    baseline = config.run.baseline
    table = tables.results_table(rows, baseline=baseline, columns=COLUMNS)
    print(table)
    train, validation, test = data.splits.train, data.splits.validation, data.splits.test
    labelled = config.run.data.labelled or len(train)
    notes = {
        "command": shlex.join(["python", "-m", "experiments.distill", *sys.argv[1:]]),
        "data": f"{config.run.data.name}: {len(train)} train ({labelled} labelled), "
        f"{len(validation)} validation, {len(test)} test",
        "seeds": f"{config.run.seeds}, paired by seed with {baseline!r}",
        "versions": f"jax {jax.__version__}, {jax.default_backend()}",
    }
    html.write_report(
        workdir / "report.html",
        title=f"Distillation on {config.run.data.name}",
        table=table,
        curves=read_metrics(workdir / "metrics.jsonl"),
        notes=notes,
        config=config.to_dict(),
    )
    print(f"report: {workdir / 'report.html'}")


if __name__ == "__main__":
    setup.launch(main)
