"""The step builder: every method of kdjax trains through `build_train_step`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.networks.network import Network
from kdjax.train.method import Phase, Term
from kdjax.train.scope import Scope, stream_number

Step = Callable[..., tuple["State", dict[str, tuple[jax.Array, jax.Array]]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Everything that a step changes; dicts by player. Under vmap every leaf has a seed axis."""

    step: jax.Array
    key: jax.Array
    params: Mapping[str, Any]
    model: Mapping[str, Any]
    opt: Mapping[str, Any]
    average: Mapping[str, Any]
    memory: Mapping[str, Any]
    hyper: Mapping[str, Any]

    def replace(self, **changes) -> "State":
        return dataclasses.replace(self, **changes)


def init_state(key, networks, inputs, optimisers, *, averages=(), memory=None, hyper=None) -> State:
    """The state before the first step.

    Args:
        key: a typed PRNG key; with `jax.vmap` over keys the state gets its seed axis.
        networks: `{name: Network}`; those with an optimiser are initialised.
        inputs: `{player: array or tree}`, what each player is initialised with.
        optimisers: `{player: optax.GradientTransformation}`.
        averages: the players that keep a moving average of their parameters.
        memory: `{name: tree}` and hyper: `{name: number}`, their initial values; a memory shaped like
            parameters is given as a function of the initial `{player: params}`.
    """
    params, model = {}, {}
    for name in optimisers:
        if name not in networks:
            raise ValueError(f"player {name!r} has an optimiser and no network: {sorted(networks)}")
        variables = networks[name].init(jax.random.fold_in(key, stream_number(name)), inputs[name])
        params[name], model[name] = variables["params"], variables.get("model", {})
    memory = {name: x(params) if callable(x) else x for name, x in dict(memory or {}).items()}
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.fold_in(
            key, 0
        ),  # a fresh buffer: the state is donated, the caller's key not
        params=params,
        model=model,
        opt={name: tx.init(params[name]) for name, tx in optimisers.items()},
        average={name: jax.tree.map(jnp.copy, params[name]) for name in averages},
        memory=jax.tree.map(jnp.array, memory),
        hyper=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), dict(hyper or {})),
    )


def build_train_step(
    networks: Mapping[str, Network],
    phases: Sequence[Phase],
    optimisers: Mapping[str, optax.GradientTransformation],
    *,
    averages: Mapping[str, Callable[..., Any]] | None = None,
    axis: str | None = None,
) -> Step:
    """One training step of any method.

    Returns `step(state, frozen, batch) -> (state, metrics)`: `frozen = {name: tree}` is every array
    that is not trained (teachers, frozen leaves of a student, and `NAME/model` for the batch
    statistics of NAME), `batch = {stream: arrays}`, `metrics = {term: (total, count)}` over the
    global batch. The step is pure; `place` compiles it.

    Args:
        networks: `{name: Network}`, players and teachers.
        phases: run in order on one batch.
        optimisers: `{player: optax.GradientTransformation}`.
        averages: `{player: decay(step)}`; an average follows its player after every step.
        axis: the mapped axis under pmap.

    Raises:
        ValueError, at build: a phase that trains a player without an optimiser or network, an
        average of no player. At the first trace: a step under pmap that was built without its axis,
        terms of two phases under one name, a coupling term or network that would see a part of the
        batch, a rule without terms.
    """
    averages = dict(averages or {})
    for number, phase in enumerate(phases):
        unknown = [name for name in phase.trains if name not in optimisers or name not in networks]
        if unknown:
            raise ValueError(
                f"phase {number} trains {unknown}; optimisers has {sorted(optimisers)}, "
                f"networks has {sorted(networks)}"
            )
        if phase.micro_batches < 1 or phase.repeats < 1:
            raise ValueError(f"phase {number}: micro_batches and repeats must be at least 1")
    unknown = sorted(set(averages) - set(optimisers))
    if unknown:
        raise ValueError(f"averages of {unknown}, which are no players: {sorted(optimisers)}")

    def step(state: State, frozen, batch):
        mapped = jax.sharding.get_abstract_mesh().manual_axes
        if axis is None and mapped:
            raise ValueError(
                f"the step runs under pmap over {mapped} and was built without an axis: every device "
                "would train, and apply its rules, on its own part; build it with axis=..."
            )
        metrics: dict[str, tuple[jax.Array, jax.Array]] = {}
        for number, phase in enumerate(phases):
            key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), number)
            state, seen, batch = _run_phase(
                networks, phase, optimisers, axis, state, frozen, batch, key
            )
            twice = sorted(set(metrics) & set(seen))
            if twice:
                raise ValueError(f"two phases have terms named {twice}: rename one of them")
            metrics.update(seen)
        average = dict(state.average)
        for name, decay in averages.items():
            kept = decay(state.step)
            average[name] = jax.tree.map(
                lambda a, p, kept=kept: (kept * a + (1 - kept) * p).astype(a.dtype),
                average[name],
                state.params[name],
            )
        return state.replace(step=state.step + 1, average=average), metrics

    return step


def _run_phase(networks, phase, optimisers, axis, state, frozen, batch, key):
    def once(state, key):
        grads, seen, updates = _gradients(networks, phase, axis, state, frozen, batch, key)
        deltas, params, opt = {}, dict(state.params), dict(state.opt)
        for name in phase.trains:
            deltas[name], opt[name] = optimisers[name].update(grads[name], opt[name], params[name])
        if phase.project is not None:
            deltas = phase.project(deltas, updates["memory"])
        for name in phase.trains:
            params[name] = optax.apply_updates(params[name], deltas[name])
        state = state.replace(
            params=params, opt=opt, model=updates["model"], memory=updates["memory"]
        )
        return state, (seen, updates["batch"])

    if phase.repeats == 1:
        state, (seen, new) = once(state, jax.random.fold_in(key, 0))
    else:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(phase.repeats))
        state, stacked = jax.lax.scan(once, state, keys)
        seen, new = jax.tree.map(lambda x: x[-1], stacked)
    return state, seen, {**batch, **new}


def _gradients(networks, phase, axis, state, frozen, batch, key):
    """(grads {player: tree}, metrics, updates), all over the global batch."""

    def psum(tree):
        return tree if axis is None else jax.lax.psum(tree, axis)

    def totals(live, micro_batch):
        scope = Scope(
            networks, state, live, frozen, micro_batch, key,
            axis=axis, micro_batches=phase.micro_batches,
        )  # fmt: skip
        terms, updates = phase.objective(scope)
        _check_terms(phase, terms, updates, axis)
        _check_model(phase, scope.trained, state.model, updates)
        total, count, weight = (
            {name: _real(getattr(t, field)) for name, t in terms.items()}
            for field in ("total", "count", "weight")
        )
        return total, jax.lax.stop_gradient((count, weight, updates))

    def backward(micro_batch, counts):
        """`counts` are the global ones, or None where this batch is everything there is."""
        live = {name: state.params[name] for name in phase.trains}
        total, vjp, (count, weight, updates) = jax.vjp(
            lambda live: totals(live, micro_batch), live, has_aux=True
        )
        counts = psum(count) if counts is None else counts
        scale = {name: weight[name] / _nonzero(counts[name]) for name in total}
        if phase.rule is None:
            (grads,) = vjp(scale)
        else:
            zero = jax.tree.map(jnp.zeros_like, scale)
            grads = {name: vjp({**zero, name: scale[name]})[0] for name in total}
        return (grads, total, count), updates

    if phase.micro_batches == 1:
        (grads, total, count), updates = backward(batch, None)
    else:
        grads, total, count = _accumulated(phase, batch, totals, backward, psum, state)
        updates = {}
    grads, total, count = psum((grads, total, count))
    memory = {**state.memory, **updates.get("memory", {})}
    if phase.rule is not None:
        values = {name: total[name] / _nonzero(count[name]) for name in total}
        grads, memory = phase.rule(grads, values, memory)
    model = {**state.model, **updates.get("model", {})}
    metrics = {name: (total[name], count[name]) for name in total}
    return grads, metrics, {"model": model, "memory": memory, "batch": updates.get("batch", {})}


def _accumulated(phase, batch, totals, backward, psum, state):
    """Sums over micro-batches, each scaled by the counts of the whole batch."""
    parts = phase.micro_batches
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % parts:
            raise ValueError(f"micro_batches={parts} does not divide the batch of {leaf.shape[0]}")
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)
    live = {name: state.params[name] for name in phase.trains}
    counts = jax.lax.map(lambda part: totals(live, part)[1][0], split)
    counts = psum(jax.tree.map(lambda c: c.sum(0), counts))
    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(lambda part: backward(part, counts)[0], first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, backward(part, counts)[0]), None

    return jax.lax.scan(add, zeros, split)[0]


def _check_terms(phase: Phase, terms: Mapping[str, Term], updates, axis):
    # A phase that trains nobody may have nothing to minimise: it makes data or fills a memory.
    if not terms and (phase.trains or phase.rule):
        raise ValueError("an objective gave no terms" + (" for its rule" if phase.rule else ""))
    coupling = sorted(name for name, t in terms.items() if t.couples)
    if coupling and phase.micro_batches > 1:
        raise ValueError(
            f"terms {coupling} couple the examples of a batch: micro_batches must be 1"
        )
    loose = sorted(name for name, t in terms.items() if t.couples and not t.gathered)
    if loose and axis is not None:
        raise ValueError(
            f"terms {loose} couple the examples of a batch: under pmap hand them scope.gather(...) "
            "and say gathered=True, or use pjit"
        )
    if phase.micro_batches > 1 and jax.tree.leaves(dict(updates)):
        raise ValueError(
            f"an objective with micro_batches={phase.micro_batches} updates {sorted(updates)}: "
            "only the last part would count; use micro_batches=1"
        )
    unknown = sorted(set(updates) - {"model", "memory", "batch"})
    if unknown:
        raise ValueError(f"updates of {unknown}: there are model, memory and batch")


def _check_model(phase: Phase, applied, model, updates):
    lost = sorted(
        name
        for name in applied.intersection(phase.trains)
        if jax.tree.leaves(model.get(name, {})) and name not in updates.get("model", {})
    )
    if lost:
        raise ValueError(
            f"the networks of {lost} have a model state (batch statistics) that an objective trained "
            'and did not give back: return it under updates["model"]'
        )


def _real(x):
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _nonzero(count):
    return jnp.where(count > 0, count, jnp.ones_like(count))
