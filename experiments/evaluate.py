"""Measures the finished rows of a workdir again, from their checkpoints, on the test split.

    python -m experiments.evaluate --config=configs/digits.py --workdir=runs/demo

Prints the table of the config's rows; trains nothing and writes nothing there.
"""

import json
from pathlib import Path
from typing import Any

from experiments import distill, setup, train_teacher, training, tuning
from experiments.train_teacher import build_data
from kdjax.report import tables


def main(config, workdir: Path) -> None:
    data = build_data(config)
    nets = distill.build_networks(config, data)
    if not (workdir / "config.json").exists():
        raise setup.ConfigError(f"{workdir} holds no run")
    record = json.loads((workdir / "config.json").read_text())
    placement = setup.build_placement(config)
    run = setup.Run(workdir, config, placement, setup.SilentWriter(), record)
    frozen: dict[str, Any] = {}
    digests: dict[str, str] = {}
    rows = []
    for name in train_teacher.teacher_configs(config):
        stage = train_teacher.build_stage(config, data, nets[name], name)
        teacher = train_teacher.restore_teacher(train_teacher.teacher_run(config, run, name), stage)
        given, digests[name], row = train_teacher.frozen_teacher(data, stage, teacher)
        frozen |= given
        rows.append(row)
    for name, parts in distill.build_stages(config, data, nets).items():
        home, done = tuning.row_run(config, run, name).workdir, []
        for stage, seeds in parts:
            key = f"run.rows.{name}"
            trained = training.restore_row(home, stage, digests, placement, key=key)
            evaluate = distill.build_student_evaluation(stage, seeds)
            done.append((train_teacher.measured(evaluate, trained.state, frozen, data), trained))
        seeds = list(range(config.run.seeds))
        rows.append(training.result_row(name, seeds, done, nets["student"], data.inputs))
    if not setup.is_first():
        return
    print(f"teacher {digests['teacher'][:12]}")
    print(tables.results_table(rows, baseline=config.run.baseline, columns=distill.COLUMNS))


if __name__ == "__main__":
    setup.launch(main)
