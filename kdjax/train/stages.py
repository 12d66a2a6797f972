"""Work in stages: a teacher and then its student, one task after another, rounds of both."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.data.streams import Stream
from kdjax.networks.network import Network
from kdjax.train.loop import Every, NonFiniteLossError, Trained, scanned, train
from kdjax.train.method import Method
from kdjax.train.placement import fetch, place, settle
from kdjax.train.scope import Scope
from kdjax.train.step import build_train_step

Streams = Mapping[str, Stream]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stretch of training, or one pass over data without gradients.

    `init(previous) -> (state, frozen)` starts from what the stage before gave (None for the first);
    `finish(state, frozen)` gives what the next one gets. Both run again when a run goes on, and must
    then give the same.

    Args:
        streams: `{name: Stream}`, or a function of `previous` where the run makes its own data or
            the rounds of a repetition differ in theirs.
        steps: how many; None for a `fit`, which takes the batches of one epoch.
        fit: `fit(memory, scope) -> memory`, in place of `method`: a fold over the batches of one
            epoch in order, for prototypes, Fisher information, class statistics, closed forms. The
            carry is the state's `memory`. A batch has `where`, false where the last one is filled
            up, and networks read their parameters from `frozen`.
        every: the stage's own host functions.
        aggregate: `aggregate(state) -> state` joins the replicas after every step, see `federated`.

    A stage keeps the step it compiled: trained again, in another round, it is not compiled again.
    """

    name: str
    method: Method | None
    networks: Mapping[str, Network]
    optimisers: Mapping[str, optax.GradientTransformation]
    streams: Streams | Callable[[Any], Streams]
    steps: int | None
    init: Callable[[Any], tuple[Any, Mapping[str, Any]]]
    finish: Callable[[Any, Mapping[str, Any]], Any]
    fit: Callable[[Mapping[str, Any], Scope], Mapping[str, Any]] | None = None
    every: Sequence[Every] = ()
    aggregate: Callable[[Any], Any] | None = None
    compiled: dict[Any, Callable[..., Any]] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self):
        if (self.method is None) == (self.fit is None):
            raise ValueError(f"stage {self.name!r} needs a method or a fit, and not both")
        if (self.steps is None) == (self.fit is None):
            raise ValueError(
                f"stage {self.name!r}: a method takes steps, a fit takes one epoch and steps=None; "
                f"got {self.steps}"
            )


@dataclasses.dataclass(frozen=True)
class Repeat:
    """See `repeat`."""

    rounds: int
    stages: tuple[Stage, ...]


def repeat(rounds: int, stages: Sequence[Stage]) -> Repeat:
    """The stages in order, `rounds` times over, as one element of `run_stages`.

    A round begins with what the one before finished with, which must then be made of dicts, lists,
    None, arrays and numbers: the checkpoints keep it. Each stage has one place for its checkpoints,
    where a round replaces the one before; its steps, and with them the order of its data and its
    host functions, are numbered through the rounds. What tells rounds apart (a key, a counter, the
    task) is in what they hand on.
    """
    if rounds < 1 or not stages:
        raise ValueError(f"repeat needs a round and a stage, got {rounds} of {len(stages)} stages")
    if not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError("repeat takes stages, and no repetition inside another")
    return Repeat(rounds, tuple(stages))


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
    round: int | None = None,
    handed=None,
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
        stage: what to train; `state` and `frozen` are what its `init` gave. Arrays that lie on the
            mesh already keep their sharding, see `state_sharding`; the others are replicated.
        seeds: what the index plans are read with: one seed, or one per replica.
        mesh, how, replicas: see `place`.
        checkpoints: a `kdjax.train.checkpoints.Checkpoints`, or None to keep nothing.
        round, handed: in a repetition, its number and what it was handed; see `run_stages`.
        record: gives what is written beside a saved state.
        save_every: steps between two saves; the last step is always saved.
        on_start: called with the step that training goes on from.
        chunk_length, on_metrics, stop: see `train`.
        every: the run's host functions, after the stage's own and before a save.

    Raises:
        Stopped: `stop` said so; the state is saved if there are checkpoints.
        NonFiniteLossError: no replica has a finite loss or finite parameters; the checkpoints before
            that stay.
    """

    streams, steps = stage.streams, stage.steps
    if callable(streams):
        raise TypeError(
            f"the streams of {stage.name!r} are made by run_stages, from what came before"
        )
    if steps is None:
        steps = _batches(stage.name, streams, seeds)
    base = (round or 0) * steps
    plans: Mapping[str, Any] = streams
    if stage.fit is not None:
        plans = {name: _Epoch(stream, base) for name, stream in streams.items()}
    chunk = _compiled(stage, streams, mesh, how, replicas)
    resident = {name: dict(stream.resident) for name, stream in streams.items()}
    shared = {"frozen": frozen, "resident": resident}
    if how == "pjit":
        state, shared = settle(state, mesh), settle(shared, mesh)
    found = checkpoints.restore(state) if checkpoints else None
    if found is not None and _round_of(found) != round:
        _check_before(stage.name, found, round, base)
        found = None
    start = base if found is None else found.record["step"]
    state = state if found is None else found.state
    on_start(start)

    def save(step, state):
        if not _any_finite(state.params, replicas):
            raise NonFiniteLossError(f"step {step}: the parameters are not finite")
        if round is None:
            checkpoints.save(step, state, record())
        else:
            # Wrapped, so that a first round that was handed nothing keeps that.
            checkpoints.save(step, state, {**record(), "round": round}, {"previous": handed})

    saving = [Every(save_every, save)] if checkpoints else []
    trained = train(
        chunk, state, shared, plans,
        seeds=seeds, steps=base + steps, start=start, chunk_length=chunk_length,
        every=[*stage.every, *every, *saving], on_metrics=on_metrics, stop=stop,
    )  # fmt: skip
    if checkpoints and trained.step > start:
        save(trained.step, trained.state)
    if trained.step < base + steps:
        if checkpoints:
            checkpoints.wait()
        where = "" if round is None else f" in round {round}"
        raise Stopped(f"{stage.name} stopped{where} at step {trained.step - base} of {steps}")
    return trained


def _compiled(stage, streams, mesh, how, replicas):
    """The chunk of a stage for its devices, compiled once for all its rounds."""
    if stage.aggregate is not None and replicas is None:
        raise ValueError(f"stage {stage.name!r} has an aggregate: its clients must be replicas")
    # Of a stream only this is compiled in; its columns and the order of its examples are arguments.
    # A stage that `dataclasses.replace` made of another shares `compiled` and may differ in the rest.
    traced = ((name, type(s), s.augment, getattr(s, "memory", "")) for name, s in streams.items())
    rest = (stage.method, stage.networks, stage.optimisers, stage.fit, stage.aggregate)
    key = (mesh, how, replicas, tuple(traced), tuple(map(id, rest)))
    if key not in stage.compiled:

        def builder(axis):
            if stage.fit is not None:
                return _fit_step(stage.networks, stage.fit, axis)
            method = stage.method
            return build_train_step(
                stage.networks, method.phases, stage.optimisers, averages=method.averages, axis=axis
            )

        chunk = scanned(builder, streams, stage.aggregate)
        if stage.aggregate is None:
            stage.compiled[key] = place(chunk, mesh, how, replicas=replicas, batch_axis=1)
        else:
            stage.compiled[key] = place(chunk, mesh, how, batch_axis=2)
    return stage.compiled[key]


def _fit_step(networks, fit, axis):
    def step(state, frozen, batch):
        if axis is not None:  # a fold has no counts to sum: every device sees the whole batch
            batch = jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), batch)
        key = jax.random.fold_in(state.key, state.step)
        scope = Scope(networks, state, {}, frozen, batch, key, axis=None, micro_batches=1)
        return state.replace(step=state.step + 1, memory=fit(state.memory, scope)), {}

    return step


class _Epoch:
    """The order of one pass over a stream, whose first batch is that of step `base`."""

    def __init__(self, stream, base):
        self._stream, self._base = stream, base

    def xs(self, seeds, start, steps):
        if np.ndim(seeds) == 0:
            return self._stream.epoch(seeds, start - self._base, steps)
        each = [self._stream.epoch(seed, start - self._base, steps) for seed in seeds]
        return jax.tree.map(lambda *columns: np.stack(columns, axis=1), *each)


def _batches(name, streams, seeds):
    """The number of batches that one epoch has, in every stream and for every seed."""
    counts = {
        stream_name: -(-len(stream.plan.examples_of(seed)) // stream.plan.batch_size)
        for stream_name, stream in streams.items()
        for seed in np.atleast_1d(seeds)
    }
    if len(set(counts.values())) != 1:
        raise ValueError(f"the epochs of {name!r} must have one length, got {counts} batches")
    return next(iter(counts.values()))


def _round_of(found):
    return found.record.get("round")


def _check_before(name, found, round, base):
    """Refuses a checkpoint of another round, unless it is of one before."""
    there, step = _round_of(found), found.record["step"]
    if round is None or there is None or there > round:
        raise ValueError(
            f"the checkpoint of {name!r} is of round {there}, wanted was round {round}; "
            "give run_stages its `slots`, and every stage a name of its own"
        )
    if step > base:
        raise ValueError(f"round {there} of {name!r} had more steps than round {round} allows")


def _any_finite(tree, replicas):
    """Whether some replica's leaves are all finite."""

    def finite(leaf):
        axes = tuple(range(0 if replicas is None else 1, leaf.ndim))
        return jnp.all(jnp.isfinite(leaf), axis=axes)

    leaves = [finite(leaf) for leaf in jax.tree.leaves(tree)]
    return not leaves or bool(jnp.any(jnp.stack(leaves).all(axis=0)))


def run_stages(
    stages: Sequence[Stage | Repeat],
    run: Callable[..., Trained],
    previous=None,
    *,
    slots: Callable[[str], Any] | None = None,
):
    """Trains the stages in order and returns what the last one finished with.

    With checkpoints, a stage that is complete is restored and costs no step: the sequence resumes
    wherever it stopped, and a repetition in the round where it was.

    Args:
        stages: stages and repetitions of some.
        run: `run(stage, state, frozen)` is `train_stage` with everything else bound; in a repetition
            it also gets `round` and `handed`, with `slots` also `checkpoints`.
        previous: what the first stage gets.
        slots: `slots(name)` opens the checkpoints of a stage, which are closed after it. Without it
            `run` may open them itself, but a repetition does not resume.

    Raises:
        ValueError: two stages of one name, which would share their checkpoints.
    """
    each = [s.stages if isinstance(s, Repeat) else (s,) for s in stages]
    names = [stage.name for group in each for stage in group]
    if len(set(names)) < len(names):
        raise ValueError(f"stages need names of their own, got {names}")
    for stage in stages:
        if isinstance(stage, Repeat):
            previous = _run_rounds(stage, run, slots, previous)
        else:
            previous = _run_one(stage, run, slots, previous)
    return previous


def _run_one(stage, run, slots, previous, **options):
    if callable(stage.streams):
        stage = dataclasses.replace(stage, streams=stage.streams(previous))
    state, frozen = stage.init(previous)
    if slots is None:
        trained = run(stage, state, frozen, **options)
    else:
        checkpoints = slots(stage.name)
        try:
            trained = run(stage, state, frozen, checkpoints=checkpoints, **options)
        finally:
            checkpoints.close()
    return stage.finish(trained.state, frozen)


def _run_rounds(repetition, run, slots, previous):
    newest, handed = (0, 0), previous
    for position, stage in enumerate(repetition.stages if slots is not None else ()):
        found = _newest_round(stage, slots)
        if found is not None and (_round_of(found), position) >= newest:
            newest, handed = (_round_of(found), position), found.record["handed"]["previous"]
    if newest[0] >= repetition.rounds:
        raise ValueError(f"there is a round {newest[0]} already, of {repetition.rounds} from 0 on")
    for round in range(repetition.rounds):
        for position, stage in enumerate(repetition.stages):
            if (round, position) >= newest:
                # As a checkpoint gives it back, so that a run that went on sees the same; a copy,
                # since the arrays of a state may be donated.
                handed = jax.tree.map(np.array, fetch(handed))
                handed = _run_one(stage, run, slots, handed, round=round, handed=handed)
    return handed


def _newest_round(stage, slots):
    def template(kept):
        if kept is None:
            raise ValueError(f"the checkpoint of {stage.name!r} is not one of a repetition")
        return stage.init(kept["previous"])[0]

    checkpoints = slots(stage.name)
    try:
        return checkpoints.restore(template)
    finally:
        checkpoints.close()
