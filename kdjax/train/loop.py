"""The one training loop: chunks of steps in `lax.scan`, whatever is trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.streams import Stream
from kdjax.train.placement import put
from kdjax.train.pool import Pool
from kdjax.train.scope import stream_number


class Every(NamedTuple):
    """`function(step, state)` on the host after every `steps` steps, and not after the last one.

    It looks, and returns None, or changes something (an index, centroids, a pool) and returns the
    state to go on with, of the same names, shapes and dtypes. What it must remember belongs in that
    state (`memory`): nothing else is there when a run goes on from a checkpoint.
    """

    steps: int
    function: Callable[[int, Any], Any]


class Trained(NamedTuple):
    """How training ended: `failures` is `{replica: (step, terms)}` of losses that were not finite."""

    state: Any
    step: int
    failures: Mapping[int, tuple[int, list[str]]]


class NonFiniteLossError(FloatingPointError):
    """Every replica's loss is nan or inf; says from which step on and which terms."""


def scanned(builder, streams: Mapping[str, Stream], aggregate: Callable[..., Any] | None = None):
    """The builder of a chunk of steps from the builder of a step, for `place(..., batch_axis=1)`.

    The chunk is `f(state, {"frozen", "resident"}, xs) -> (state, metrics)`; every leaf of `xs` and of
    the metrics leads with the steps. A chunk of one step runs through the same scan, so that any
    chunking gives the same bits.

    With `aggregate(state) -> state` the replicas are mapped inside the scan, and it joins them after
    every step (federated clients): state, `xs` and metrics then have the axis of replicas, and
    `place` takes `batch_axis=2` and no `replicas`.
    """

    def build(axis):
        step = builder(axis)

        def chunk(state, shared, xs):
            def body(state, x):
                batch = {}
                for name, stream in streams.items():
                    key = jax.random.fold_in(state.key, stream_number(f"data/{name}"))
                    key = jax.random.fold_in(key, state.step)
                    held = shared["resident"][name]
                    if isinstance(stream, Pool):
                        held = state.memory[stream.memory]
                    batch[name] = stream.batch(held, x[name], key)
                return step(state, shared["frozen"], batch)

            def joined(state, x):
                state, metrics = jax.vmap(body)(state, x)
                return aggregate(state), metrics

            return jax.lax.scan(body if aggregate is None else joined, state, xs)

        return chunk

    return build


def train(
    chunk: Callable[..., Any],
    state,
    shared: Mapping[str, Any],
    streams: Mapping[str, Stream],
    *,
    seeds: int | Sequence[int],
    steps: int,
    start: int = 0,
    chunk_length: int = 100,
    every: Sequence[Every] = (),
    on_metrics: Callable[[int, Mapping[str, np.ndarray]], None] = lambda step, values: None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Runs steps `start` to `steps`, or until `stop`.

    Args:
        chunk: a placed `scanned` step.
        state: the state at step `start`; donated.
        shared: `{"frozen": ..., "resident": {stream: its arrays}}`, never donated.
        streams: `{name: Stream}`.
        seeds: what the index plans are read with: one seed, or one per replica.
        steps: the step to stop at.
        chunk_length: at most this many steps between two looks at the host.
        every: host functions, run in this order; the chunk length divides their cadence.
        on_metrics: called with the last step of a chunk and `{term: mean per step [steps, ...]}`, a
            chunk late so that the device does not wait.
        stop: asked after every chunk; true ends the run early.

    Raises:
        NonFiniteLossError: once no replica has a finite loss. A replica that fails alone is reported
            in the result, the others go on.
    """
    failures: dict[int, tuple[int, list[str]]] = {}
    length = math.gcd(chunk_length, *(each.steps for each in every))
    pending = None

    def deliver():
        nonlocal pending
        if pending is not None:
            first, last, metrics = pending
            pending = None
            values = {name: _mean(*jax.device_get(pair)) for name, pair in metrics.items()}
            on_metrics(last, values)
            if not values:
                return
            for replica, failure in first_failures(values, first).items():
                failures.setdefault(replica, failure)
            if len(failures) == next(iter(values.values()))[0].size:
                at, terms = min(failures.values())
                raise NonFiniteLossError(
                    f"step {at}: the loss is not finite in term {', '.join(terms)}"
                )

    step = start
    while step < steps:
        count = min(length - step % length, steps - step)
        xs = {name: stream.xs(seeds, step, count) for name, stream in streams.items()}
        state, metrics = chunk(state, shared, xs)
        deliver()
        pending, step = (step, step + count, metrics), step + count
        due = [each for each in every if step % each.steps == 0 and step < steps]
        stopping = stop()
        if due or stopping:
            deliver()
        for each in due:
            changed = each.function(step, state)
            state = state if changed is None else _like(state, changed)
        if stopping:
            break
    deliver()
    return Trained(state, step, failures)


def _like(state, changed):
    """What a host function made of a state, where and as the compiled chunk expects it."""
    if jax.tree.structure(state) != jax.tree.structure(changed):
        raise ValueError(
            f"a host function returned {jax.tree.structure(changed)} for the state "
            f"{jax.tree.structure(state)}"
        )

    def one(path, old, new):
        if new is old:
            return old
        if not jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            new = jnp.asarray(new)
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"a host function returned {new.dtype} {new.shape} for "
                f"{jax.tree_util.keystr(path)}, which is {old.dtype} {old.shape}"
            )
        return put(new, old.sharding)

    return jax.tree.map_with_path(one, state, changed)


def first_failures(
    values: Mapping[str, np.ndarray], first: int
) -> dict[int, tuple[int, list[str]]]:
    """{replica: (step, terms)} of the first loss that is not finite, for `values` `[steps, ...]`."""
    failures: dict[int, tuple[int, list[str]]] = {}
    flat = {name: np.reshape(v, (len(v), -1)) for name, v in values.items()}
    for replica in range(next(iter(flat.values())).shape[1]):
        bad = {name: ~np.isfinite(v[:, replica]) for name, v in flat.items()}
        any_bad = np.logical_or.reduce(list(bad.values()))
        if any_bad.any():
            at = int(any_bad.argmax())
            failures[replica] = (first + at + 1, sorted(name for name in bad if bad[name][at]))
    return failures


def _mean(total, count):
    return total / np.where(count > 0, count, 1)
