"""One row of a run: its stage, its training in the workdir, what was trained, its line of results."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import setup
from kdjax import networks
from kdjax.metrics.cost import count_flops
from kdjax.report.progress import progress
from kdjax.train import Every, Stage, init_state, put, settle, state_sharding, train_stage
from kdjax.train.checkpoints import Checkpoints


class Trained(NamedTuple):
    """A trained row: its state (with a seed axis for several), seconds of training, failed seeds."""

    state: Any
    seconds: float
    failures: Mapping[int, tuple[int, list[str]]]


def seed_groups(name: str, seeds: int, together: bool) -> list[tuple[str, int | list[int]]]:
    """What trains as one program: (label of its checkpoints and curves, its seed or seeds)."""
    if together:
        return [(name, list(range(seeds)))]
    return [(f"{name}-seed{seed}", seed) for seed in range(seeds)]


def build_stage(
    label, method, nets, inputs, optimiser, streams, steps, seeds, placement: setup.Placement
) -> Stage:
    """A stage of a method over networks at hand: its own players are made, sized and added.

    `inputs` are the shapes that networks are initialised with, `{name: shape struct}`; `seeds` is one
    seed or several, which then train together. `init` takes the frozen arrays and makes a state that
    lies as the rules of `placement` say from the start; `finish` gives the frozen arrays of the
    trained student as a teacher.
    """
    shapes = {key: networks.output_shapes(net, inputs[key]) for key, net in nets.items()}
    made = {key: make(shapes) for key, make in method.players.items()}
    every = {**nets, **{key: net for key, (net, _) in made.items()}}
    inputs = {**inputs, **{key: shape for key, (_, shape) in made.items()}}
    players = dict.fromkeys(player for phase in method.phases for player in phase.trains)
    optimisers = {player: optimiser for player in players}

    def fresh(seed):
        return init_state(
            jax.random.key(seed), every, inputs, optimisers,
            averages=method.averages, memory=method.memory, hyper=method.hyper,
        )  # fmt: skip

    replicas = not isinstance(seeds, int)
    start, numbers = (jax.vmap(fresh), np.asarray(seeds)) if replicas else (fresh, seeds)

    def shardings(frozen):
        rules = {n: r for n, r in placement.sharding.items() if n in players or n in frozen}
        state = jax.eval_shape(start, numbers)
        return state_sharding(placement.mesh, state, frozen, rules, replicas=replicas)

    def init(frozen):
        if not placement.sharding:
            return jax.jit(start)(numbers), frozen
        of_state, of_frozen = shardings(frozen)
        return jax.jit(start, out_shardings=of_state)(numbers), put(frozen, of_frozen)

    if placement.sharding:  # refused here, before anything is trained
        teachers = [name for name in nets if name not in players]
        shapes = {n: networks.variable_shapes(nets[n], inputs[n])["params"] for n in teachers}
        with setup.reading("place.sharding"):
            shardings(shapes)

    def finish(state, frozen):
        del frozen
        return {"teacher": state.params["student"], "teacher/model": state.model["student"]}

    return Stage(label, method, every, optimisers, streams, steps, init, finish)


def train_row(run: setup.Run, stage: Stage, frozen, seeds, teachers, evaluate) -> Trained:
    """Trains one stage in the workdir, or goes on with it.

    Args:
        run: from `open_run`.
        stage: from `build_stage`, with its `frozen` arrays and `seeds`.
        teachers: the fingerprints of the frozen teachers; a checkpoint of others is refused.
        evaluate: `evaluate(state) -> {metric: values}` on validation, for the curves.
    """
    setup.stop_before(stage.name)
    place = run.config.place
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    checkpoints = Checkpoints(run.workdir / "checkpoints" / stage.name)
    found = checkpoints.record()
    if found is not None:
        _check_teachers(run.workdir / "checkpoints" / stage.name, found, teachers)
    spent = 0.0 if found is None else found["seconds"]
    began = time.perf_counter()

    def record():
        seconds = spent + time.perf_counter() - began
        return {**run.record, "teachers": teachers, "seeds": seeds, "seconds": seconds}

    def validate(step, state):
        run.writer.write(stage.name, step, evaluate(state), split="validation")

    assert stage.steps is not None  # only a fold without gradients has no steps of its own
    with progress(stage.steps, stage.name) if setup.is_first() else _no_progress() as update:

        def on_start(step):
            nonlocal began
            began = time.perf_counter()
            run.writer.rewind(stage.name, step)
            update(step)

        def on_metrics(step, values):
            means = {name: value.mean(axis=0) for name, value in values.items()}
            run.writer.write(stage.name, step, means)
            update(step, "  ".join(f"{k} {float(np.mean(v)):.3g}" for k, v in means.items()))

        state, frozen = stage.init(frozen)
        trained = train_stage(
            stage, state, frozen,
            seeds=seeds, mesh=run.placement.mesh, how=place.how, replicas=replicas,
            checkpoints=checkpoints, record=record,
            save_every=place.save_every, chunk_length=place.log_every,
            every=[Every(place.validate_every, validate)],
            on_start=on_start, on_metrics=on_metrics, stop=setup.stop_agreed,
        )  # fmt: skip
    checkpoints.close()
    run.writer.rewind(stage.name, stage.steps - 1, split="validation")
    validate(stage.steps, trained.state)
    for replica, (step, terms) in trained.failures.items() if setup.is_first() else ():
        print(
            f"{stage.name}: seed {replica} is not finite from step {step}: {terms}", file=sys.stderr
        )
    seconds = (checkpoints.record() or {}).get("seconds", 0.0)
    return Trained(trained.state, seconds, trained.failures)


@contextlib.contextmanager
def _no_progress():
    yield lambda step, note="": None


def restore_row(
    workdir: Path, stage: Stage, teachers, placement: setup.Placement, *, key: str
) -> Trained:
    """The finished state of a stage that a workdir holds, trained with `teachers`."""
    folder = workdir / "checkpoints" / stage.name
    if not folder.is_dir():
        raise setup.ConfigError(f"config.{key}: there is no trained {stage.name!r} in {workdir}")
    checkpoints = Checkpoints(folder)
    state = stage.init({})[0]
    state = settle(state, placement.mesh) if placement.how == "pjit" else state
    with setup.reading(key):
        found = checkpoints.restore(state)
    checkpoints.close()
    if found is None or found.record["step"] < stage.steps:
        reached = "no sound checkpoint" if found is None else f"step {found.record['step']}"
        raise setup.ConfigError(f"{folder} is not finished: {reached} of {stage.steps} steps")
    _check_teachers(folder, found.record, teachers)
    return Trained(found.state, found.record["seconds"], {})


def _check_teachers(folder, record, teachers):
    if record["teachers"] != teachers:
        raise setup.ConfigError(
            f"{folder} was trained with another teacher: {record['teachers']} there, {teachers} now"
        )


def result_row(name, seeds, parts, network, inputs) -> dict[str, Any]:
    """A row of results.json: one value per seed for every metric, and the network's size and cost.

    `parts` are (metrics, Trained) of the programs that the seeds ran in, in the order of `seeds`.
    """
    variables = networks.variable_shapes(network, inputs)

    def forward(variables, x):
        return network.apply(variables, x, train=False, rngs={})[0].logits

    constant = {
        "parameters": networks.count_parameters(variables["params"]),
        "flops": count_flops(forward, variables, inputs),
        "seconds": sum(trained.seconds for _, trained in parts) / len(seeds),
    }
    measured = {
        key: np.concatenate([np.atleast_1d(metrics[key]) for metrics, _ in parts]).tolist()
        for key in parts[0][0]
    }
    columns = {key: [value] * len(seeds) for key, value in constant.items()}
    return {"name": name, "seeds": seeds, "metrics": {**measured, **columns}}
