"""Measures the finished rows of a workdir again, from their checkpoints, on the test split.

    python -m experiments.evaluate --config=configs/digits.py --workdir=runs/demo

Prints the table of the config's rows; trains nothing and writes nothing.
"""

from pathlib import Path

from experiments import distill, setup, train_teacher
from experiments.train_teacher import build_data, measure, summary
from kdjax.networks import fingerprint
from kdjax.report import tables
from kdjax.train import build_evaluation, fetch


def main(config, workdir: Path) -> None:
    placement = setup.build_placement(config)
    data = build_data(config)
    nets = distill.build_networks(config, data)
    teacher_stage = train_teacher.build_stage(config, data, nets["teacher"])
    home = Path(config.run.teacher.workdir or workdir)
    teacher = setup.restore_row(home, teacher_stage, {}, placement, key="run.teacher.workdir")
    frozen = teacher_stage.finish(teacher.state, {})
    digest = fingerprint(fetch(frozen))
    metrics = summary(
        build_evaluation(teacher_stage.networks, measure)(teacher.state, {}, data.test)
    )
    rows = [setup.result_row("teacher", [0], [(metrics, teacher)], nets["teacher"], data.inputs)]
    for name, parts in distill.build_stages(config, data, nets).items():
        done = []
        for stage, seeds in parts:
            trained = setup.restore_row(
                workdir, stage, {"teacher": digest}, placement, key=f"run.rows.{name}"
            )
            evaluate = distill.build_student_evaluation(stage, seeds)
            done.append((summary(evaluate(trained.state, frozen, data.test)), trained))
        seeds = list(range(config.run.seeds))
        rows.append(setup.result_row(name, seeds, done, nets["student"], data.inputs))
    if not setup.is_first():
        return
    print(f"teacher {digest[:12]}")
    print(tables.results_table(rows, baseline=config.run.baseline, columns=distill.COLUMNS))


if __name__ == "__main__":
    setup.launch(main)
