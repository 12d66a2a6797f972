"""Distils one teacher into the same student by several methods, over seeds: the main job.

    python -m experiments.distill --config=configs/digits.py --workdir=runs/demo

Prints a table and writes `config.json`, `metrics.jsonl`, `results.json`, `report.html`,
`checkpoints/` and TensorBoard events into the workdir. The same command goes on with a run that was
stopped or killed.

A row of `run.rows` holds its method with the hyperparameters, and perhaps: `steps` and `optimiser`,
what differs there from the other rows; `after`, the row whose trained students the method finds in
`memory["previous"]`; `carry`, whether its own students start from those. With `run.tune` the numbers
of every row are chosen on validation first, by as many trials for each, see `tuning.tune`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments import setup, train_teacher, training, tuning
from experiments.train_teacher import build_data, measure, summary
from kdjax.data import streams
from kdjax.metrics import classification
from kdjax.report import tables
from kdjax.report.results import write_results
from kdjax.train import build_evaluation

COLUMNS = (
    tables.Column("accuracy", "test accuracy", percent=True, gain=True),
    tables.Column("agreement", "agreement with teacher", percent=True),
    tables.Column("calibration_error", "calibration error", percent=True),
    tables.Column("parameters", "parameters", digits=0),
    tables.Column("flops", "FLOPs per example", digits=0),
    tables.Column("seconds", "seconds per seed", digits=1),
)
ROW_OPTIONS = ("after", "carry", "optimiser", "steps")  # of a row, beside its method's own


def build_networks(config, data):
    """Teachers and student, each giving the features that some row asks for."""
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
    row = config.run.rows[name]
    options = {key: value for key, value in row.items() if key not in ROW_OPTIONS}
    return setup.build_method(f"run.rows.{name}", type(row)(options))


def build_stages(config, data, nets):
    """{row: its stages}: all seeds in one program, or a stage for each; no row before its `after`."""
    setup.check_range("run.steps", config.run.steps, lambda v: v > 0, "above 0")
    setup.check_range("run.seeds", config.run.seeds, lambda v: v > 0, "above 0")
    setup.choose("run.baseline", config.run.baseline, config.run.rows)
    placement = setup.build_placement(config)
    stages = {name: build_row(config, data, nets, name) for name in _ordered(config.run)}
    named = {name for parts in stages.values() for stage, _ in parts for name in stage.networks}
    for name in placement.sharding:
        setup.choose(f"place.sharding.{name}", name, dict.fromkeys(named))
    return stages


def build_row(config, data, nets, name):
    """The stages of one row, with their seeds."""
    groups = training.seed_groups(name, config.run.seeds, config.run.seeds_together)
    return [(build_stage(config, data, nets, name, label, seeds), seeds) for label, seeds in groups]


def build_stage(config, data, nets, name, label, seeds, scaled=False):
    """One stage of a row; `scaled` puts a factor of the learning rate, `step_size`, up for trial."""
    row = config.run.rows[name]
    steps = row.get("steps", config.run.steps)
    setup.check_range(f"run.rows.{name}.steps", steps, lambda v: v > 0, "above 0")
    optimiser = tuning.row_optimiser(config, name, steps, nets["student"], data.inputs)
    if scaled:
        optimiser = optax.chain(optimiser, optax.inject_hyperparams(optax.scale)(step_size=1.0))
    method = build_method(config, name)
    with setup.reading(f"run.rows.{name}"):
        return training.build_stage(
            label, method, nets, dict.fromkeys(nets, data.inputs),
            optimiser, data.student, steps, seeds, setup.build_placement(config),
        )  # fmt: skip


def _ordered(run):
    """The rows: the baseline first, every other after the row that it goes on from."""
    waiting = sorted(run.rows, key=lambda name: name != run.baseline)
    for name in waiting:
        before = run.rows[name].get("after", "")
        if before:
            setup.choose(f"run.rows.{name}.after", before, run.rows)
            if not run.seeds_together:
                raise setup.ConfigError(f"config.run.rows.{name}.after needs seeds_together")
    ordered: list[str] = []
    while waiting:
        ready = [name for name in waiting if run.rows[name].get("after", "") in ("", *ordered)]
        if not ready:
            raise setup.ConfigError(f"config.run.rows: {waiting} go on from each other")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def start_from(stage, students, key, *, carry):
    """The stage whose state begins with the `students` of another: as `previous`, or as its own."""
    start = stage.init

    def init(frozen):
        state, frozen = start(frozen)
        if not carry and "previous" not in state.memory:
            raise setup.ConfigError(f"config.{key}.after: its method reads no memory 'previous'")
        if "previous" in state.memory:
            memory = {**state.memory, "previous": jax.tree.map(jnp.copy, students)}
            state = state.replace(memory=memory)
        if carry:
            own = jax.tree.map(jnp.copy, students)
            state = state.replace(params={**state.params, "student": own})
        return state, frozen

    return dataclasses.replace(stage, init=init)


def cache_teachers(data, nets, frozen, names):
    """The data whose student streams hold the outputs of the frozen teachers beside the images."""
    view = data.student["labelled"].augment
    batches = streams.epoch_batches({"image": data.source.columns["image"]}, 500, prepare=view)

    @jax.jit
    def outputs(frozen):
        def one(images):
            made = {}
            for name in names:
                variables = {"params": frozen[name], "model": frozen.get(f"{name}/model", {})}
                given, _ = nets[name].apply(
                    {**variables, "frozen": {}}, images, train=False, rngs={}
                )
                made[f"{name}/logits"] = given.logits
                made |= {f"{name}/{key}": value for key, value in given.features.items()}
            return made

        return jax.lax.map(one, batches["image"])

    size = len(data.source)
    columns = {key: x.reshape(-1, *x.shape[2:])[:size] for key, x in outputs(frozen).items()}
    held = {
        key: dataclasses.replace(stream, resident={**stream.resident, **columns})
        for key, stream in data.student.items()
    }
    return data._replace(student=held)


def measure_pair(scope):
    """What is measured of a student, and how often it agrees with its teacher."""
    image = scope.batch["image"]
    student, teacher = (scope.apply(name, image)[0].logits for name in ("student", "teacher"))
    return {**measure(scope), "agreement": classification.agreement(student, teacher)}


def build_student_evaluation(stage, seeds):
    """`evaluate(state, frozen, batches) -> totals` of one stage, by seed for several."""
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    return build_evaluation(stage.networks, measure_pair, replicas=replicas)


def train_student(run, data, stage, seeds, frozen, digests):
    """(metrics on the test split, what was trained) of one stage."""
    evaluate = build_student_evaluation(stage, seeds)

    def validate(state):
        return summary(evaluate(state, frozen, data.validation))

    trained = training.train_row(run, stage, frozen, seeds, digests, validate)
    return train_teacher.measured(evaluate, trained.state, frozen, data), trained


def tune_row(run, data, nets, name, frozen, students):
    """The config with the numbers of one row that were the best on validation."""
    config, tune = run.config, run.config.run.tune
    row = config.run.rows[name]

    def build(seeds):
        stage = build_stage(config, data, nets, name, name, seeds, scaled=True)
        if students is None:
            return stage
        own = jax.tree.map(lambda x: x[jnp.asarray(seeds)], students)
        return start_from(stage, own, f"run.rows.{name}", carry=row.get("carry", False))

    def score(stage, state, seeds):
        evaluate = build_student_evaluation(stage, seeds)
        return summary(evaluate(state, frozen, data.validation))[tune.metric]

    chosen = tuning.tune(run, name, build, frozen, score)
    return tuning.with_choice(config, name, chosen)


def main(config, workdir: Path) -> int:
    data = build_data(config)
    nets = build_networks(config, data)
    names = list(train_teacher.teacher_configs(config))
    teacher_stages = {n: train_teacher.build_stage(config, data, nets[n], n) for n in names}
    stages = build_stages(config, data, nets)
    tuning.check_measurement(config)
    run = setup.open_run(config, workdir, data.source.fingerprint)

    frozen: dict[str, Any] = {}
    digests: dict[str, str] = {}
    rows, failed = [], 0
    for name in names:
        given, digests[name], row = train_teacher.obtain_teacher(
            config, run, data, teacher_stages[name]
        )
        frozen |= given
        rows.append(row)
    if config.run.teacher.get("cached", False):
        data = cache_teachers(data, nets, frozen, names)
    students: dict[str, Any] = {}
    for name in stages:
        before = students.get(config.run.rows[name].get("after", ""))
        own, chosen = tuning.row_run(config, run, name), config
        if "tune" in config.run:
            chosen = tune_row(own, data, nets, name, frozen, before)
        done = []
        for stage, seeds in build_row(chosen, data, nets, name):
            if before is not None:
                carry = config.run.rows[name].get("carry", False)
                stage = start_from(stage, before, f"run.rows.{name}", carry=carry)
            done.append(train_student(own, data, stage, seeds, frozen, digests))
        failed += sum(len(trained.failures) for _, trained in done)
        students[name] = done[0][1].state.params["student"]
        seeds = list(range(config.run.seeds))
        row = training.result_row(name, seeds, done, nets["student"], data.inputs)
        if "claims" in config.run:
            cost = tuning.training_flops(stage, seeds, frozen)
            row["metrics"]["training_flops"] = [cost] * len(seeds)
        rows.append(row)
    if setup.is_first():
        write_results(workdir / "results.json", rows)
        report(config, workdir, data, rows)
    return 1 if failed else 0


def report(config, workdir, data, rows):
    """The table on the terminal and `report.html`."""
    name, labelled = config.run.data.name, config.run.data.labelled
    train, validation, test = data.splits.train, data.splits.validation, data.splits.test
    described = f"{name}: {len(train)} train ({labelled or len(train)} labelled), "
    setup.report(
        config, workdir, rows, COLUMNS,
        baseline=config.run.baseline,
        experiment="distill",
        title=f"Distillation on {name}",
        notes={"data": described + f"{len(validation)} validation, {len(test)} test"},
    )  # fmt: skip


if __name__ == "__main__":
    setup.launch(main)
