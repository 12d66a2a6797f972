"""Work in stages: a teacher and then its student, one task after another."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.data.streams import Stream
from kdjax.networks.network import Network
from kdjax.train.loop import Every, NonFiniteLossError, Trained, scanned, train
from kdjax.train.method import Method
from kdjax.train.placement import place, put, replicated
from kdjax.train.step import build_train_step


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training.

    `init(previous) -> (state, frozen)` starts from what the stage before gave (None for the first);
    `finish(state, frozen)` gives what the next one gets.
    """

    name: str
    method: Method
    networks: Mapping[str, Network]
    optimisers: Mapping[str, optax.GradientTransformation]
    streams: Mapping[str, Stream]
    steps: int
    init: Callable[[Any], tuple[Any, Mapping[str, Any]]]
    finish: Callable[[Any, Mapping[str, Any]], Any]


class Stopped(Exception):
    """Training was asked to stop and has saved: the same command goes on from here."""


def train_stage(
    stage: Stage,
    state,
    frozen,
    *,
    seeds: int | Sequence[int],
    mesh,
    how: str = "pjit",
    replicas: tuple[str, int] | None = None,
    checkpoints=None,
    record: Callable[[], Mapping[str, Any]] = dict,
    save_every: int = 500,
    chunk_length: int = 100,
    every: Sequence[Every] = (),
    on_start: Callable[[int], None] = lambda step: None,
    on_metrics: Callable[..., None] = lambda step, values: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Trains one stage on its devices, from its newest checkpoint to its last step.

    Args:
        stage: what to train; `state` and `frozen` are what its `init` gave.
        seeds: what the index plans are read with: one seed, or one per replica.
        mesh, how, replicas: see `place`.
        checkpoints: a `kdjax.train.checkpoints.Checkpoints`, or None to keep nothing.
        record: gives what is written beside a saved state.
        save_every: steps between two saves; the last step is always saved.
        on_start: called with the step that training goes on from.
        chunk_length, every, on_metrics, stop: see `train`.

    Raises:
        Stopped: `stop` said so; the state is saved if there are checkpoints.
        NonFiniteLossError: no replica has a finite loss or finite parameters; the checkpoints before
            that stay.
    """

    def builder(axis):
        method = stage.method
        return build_train_step(
            stage.networks, method.phases, stage.optimisers, averages=method.averages, axis=axis
        )

    chunk = place(scanned(builder, stage.streams), mesh, how, replicas=replicas, batch_axis=1)
    resident = {name: dict(stream.resident) for name, stream in stage.streams.items()}
    shared = {"frozen": frozen, "resident": resident}
    if how == "pjit":
        state, shared = put(state, replicated(mesh)), put(shared, replicated(mesh))
    found = checkpoints.restore(state) if checkpoints else None
    start = 0 if found is None else found.record["step"]
    state = state if found is None else found.state
    on_start(start)

    def save(step, state):
        if not _any_finite(state.params, replicas):
            raise NonFiniteLossError(f"step {step}: the parameters are not finite")
        checkpoints.save(step, state, record())

    saving = [Every(save_every, save)] if checkpoints else []
    trained = train(
        chunk, state, shared, stage.streams,
        seeds=seeds, steps=stage.steps, start=start, chunk_length=chunk_length,
        every=[*saving, *every], on_metrics=on_metrics, stop=stop,
    )  # fmt: skip
    if checkpoints and trained.step > start:
        save(trained.step, trained.state)
    if trained.step < stage.steps:
        if checkpoints:
            checkpoints.wait()
        raise Stopped(f"{stage.name} stopped at step {trained.step} of {stage.steps}")
    return trained


def _any_finite(tree, replicas):
    """Whether some replica's leaves are all finite."""

    def finite(leaf):
        axes = tuple(range(0 if replicas is None else 1, leaf.ndim))
        return jnp.all(jnp.isfinite(leaf), axis=axes)

    return bool(jnp.any(jnp.stack([finite(leaf) for leaf in jax.tree.leaves(tree)]).all(axis=0)))


def run_stages(stages: Sequence[Stage], run: Callable[..., Trained], previous=None):
    """Trains the stages in order and returns what the last one finished with.

    `run(stage, state, frozen)` is `train_stage` with everything else bound. With checkpoints, a stage
    that is complete is restored and costs no step: the sequence resumes wherever it stopped.
    """
    for stage in stages:
        state, frozen = stage.init(previous)
        trained = run(stage, state, frozen)
        previous = stage.finish(trained.state, frozen)
    return previous
