"""Choosing a row's settings on validation, and what a recipe claims: the protocol of measured rows."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments import setup
from kdjax.metrics.cost import count_flops
from kdjax.report import files
from kdjax.train import NonFiniteLossError, Stage, build_train_step, scanned, train_stage
from kdjax.train.trials import with_trials

RATE = "rate"  # in a grid: the factor of the learning rate


def check_measurement(config) -> None:
    """Refuses a `run.tune` that gives rows different numbers of trials, and a claim about no row.

    `run.tune` has `trials`, `seeds`, `metric` and `grid`: for every row the values of its numeric
    hyperparameters and of `rate`, a factor of the learning rate, of which all combinations are tried. A
    row of a study that trains in parts has as many trials for each part that the grid names.
    `run.claims` has by name: `row`, the rows `over` which it should be better, `metric`, `direction`
    ("higher", "lower" or "equal") and the `margin` within which it is equal.
    """
    run = config.run
    for name, claim in run.get("claims", {}).items():
        key = f"run.claims.{name}"
        for row in (claim.row, *claim.over):
            setup.choose(key, row, run.rows)
        directions = dict.fromkeys(("equal", "higher", "lower"))
        setup.choose(f"{key}.direction", claim.direction, directions)
        fits = claim.margin > 0 if claim.direction == "equal" else claim.margin == 0
        if not fits:
            raise setup.ConfigError(f"config.{key}.margin is for 'equal' alone, got {claim.margin}")
    if "tune" not in run:
        return
    tuning = run.tune
    metric = "log_likelihood" if "tokenizer" in run else "accuracy"
    metric = "score" if "study" in run else metric
    setup.choose("run.tune.metric", tuning.metric, {metric: None})
    setup.check_range(
        "run.tune.seeds", tuning.seeds, lambda v: 0 < v <= run.seeds, "up to run.seeds"
    )
    setup.check_range("run.seeds_together", run.seeds_together, bool, "true for run.tune")
    # A study may have rows that nothing is trained for.
    for name in tuning.grid if "study" in run else run.rows:
        settings = grid(setup.choose("run.tune.grid", name, tuning.grid))
        if len(settings) != tuning.trials:
            raise setup.ConfigError(
                f"config.run.tune.grid.{name} makes {len(settings)} trials, every row has "
                f"{tuning.trials}"
            )


def grid(values: Mapping[str, Any]) -> list[dict[str, float]]:
    """Every combination of `{name: values}`, the last name fastest."""
    names = sorted(values)
    return [
        dict(zip(names, each, strict=True))
        for each in itertools.product(*(values[name] for name in names))
    ]


def tune(run: setup.Run, name: str, build, frozen, score) -> dict[str, float]:
    """The setting of a row's grid with the best mean of `run.tune.metric` on validation.

    All trials over the first `run.tune.seeds` seeds train as one program; WORKDIR/tuning.json keeps
    what came out, so that a run that goes on does not choose again.

    Args:
        run: from `open_run`.
        name: the row.
        build: `build(seeds)`, its stage, with the learning rate's `step_size` up for trial.
        frozen: what its `init` takes.
        score: `score(stage, state, seeds)`, one value per replica.
    """
    wanted, path = run.config.run.tune, run.workdir / "tuning.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    settings = grid(wanted.grid[name])
    if name not in kept:
        setup.stop_before(f"the trials of {name}")
        seeds = list(range(wanted.seeds)) * len(settings)
        stage = build(seeds)
        state, given = stage.init(frozen)
        tried = {key: np.repeat([s[key] for s in settings], wanted.seeds) for key in settings[0]}
        rates = tried.pop(RATE, np.ones(len(seeds)))
        with setup.reading(f"run.tune.grid.{name}"):
            state = with_trials(
                state, tried, {player: {"step_size": rates} for player in stage.optimisers}
            )
        trained = train_stage(
            stage, state, given,
            seeds=seeds, mesh=run.placement.mesh, replicas=("trial", len(seeds)),
            chunk_length=run.config.place.log_every, stop=setup.stop_agreed,
        )  # fmt: skip
        values = np.asarray(score(stage, trained.state, seeds), float)
        means = values.reshape(len(settings), wanted.seeds).mean(axis=1)
        kept[name] = [[s, float(m)] for s, m in zip(settings, means, strict=True)]
        if setup.is_first():
            files.write_atomically(path, files.dumps(kept, indent=1))
    means = [float(mean) for _, mean in kept[name]]
    if not np.isfinite(means).any():
        raise NonFiniteLossError(f"row {name!r}: no setting of its grid has a finite result")
    return settings[int(np.nanargmax(means))]


def begun(stage: Stage, seeds, chosen: Mapping[str, float] | None = None, start=None):
    """The stage's `init`, changed by `start(state, seeds) -> state`, with the numbers that were chosen.

    A stage with `step_size` up for trial then is the program of its trials, if they are as many.
    """

    def init(frozen):
        state, frozen = stage.init(frozen)
        if start is not None:
            state = start(state, seeds)
        if chosen:
            numbers = {key: np.full(len(seeds), value) for key, value in chosen.items()}
            sizes = numbers.pop(RATE, np.ones(len(seeds)))
            rates = {player: {"step_size": sizes} for player in stage.optimisers}
            state = with_trials(state, numbers, rates)
        return state, frozen

    return init


def with_choice(config, name: str, setting: Mapping[str, float]):
    """The config with a setting of `grid` written into one row."""
    config = config.copy_and_resolve_references()
    row = config.run.rows[name]
    base = row.get("optimiser", {}).get("learning_rate", config.run.student.optimiser.learning_rate)
    with config.unlocked():
        for key, value in setting.items():
            if key != RATE:
                row[key] = value
        if RATE in setting:
            changes = {**row.get("optimiser", {}), "learning_rate": base * setting[RATE]}
            row["optimiser"] = changes
    return config


def row_optimiser(config, name: str, steps: int, network, inputs):
    """The students' optimiser, with what the row's own `optimiser` changes."""
    row = config.run.rows[name]
    key, settings = "run.student.optimiser", config.run.student.optimiser
    if row.get("optimiser"):
        key, settings = f"run.rows.{name}.optimiser", settings.copy_and_resolve_references()
        for option, value in row.optimiser.items():
            setup.choose(f"{key}.{option}", option, settings)
            with setup.reading(key), settings.unlocked():
                settings[option] = value
    optimiser = setup.build_optimiser(key, settings, steps)
    setup.check_no_decay(key, settings, network, inputs)
    return optimiser


def row_run(config, run: setup.Run, name: str) -> setup.Run:
    """The run in the workdir where a row is trained: its own, or one that several runs share."""
    if name not in config.place.get("shared_rows", ()):
        return run
    settings = config.run.to_dict()
    grid = settings.get("tune", {}).pop("grid", {}).get(name, {})
    row = settings.pop("rows")[name]
    # Neither changes what the row comes to; the data are identified beside this.
    for other in ("claims", "baseline", "data"):
        settings.pop(other, None)
    return setup.shared_run(run, {**settings, "row": row, "grid": grid})


def training_flops(stage: Stage, seeds, frozen) -> int:
    """The products of one seed's training in a stage, as executed; cached outputs cost none."""
    method, streams, steps = stage.method, stage.streams, stage.steps
    assert method is not None and steps is not None and not callable(streams)

    def builder(axis):
        return build_train_step(
            stage.networks, method.phases, stage.optimisers, averages=method.averages, axis=axis
        )

    chunk = scanned(builder, streams)(None)
    replicas = 1 if isinstance(seeds, int) else len(seeds)
    if not isinstance(seeds, int):
        chunk = jax.vmap(chunk, in_axes=(0, None, 1))
    state = jax.eval_shape(lambda: stage.init(frozen)[0])
    resident = {name: dict(stream.resident) for name, stream in streams.items()}
    xs = {name: stream.xs(seeds, 0, 1) for name, stream in streams.items()}
    shared = {"frozen": frozen, "resident": resident}
    return steps * count_flops(chunk, state, shared, xs) // replicas
