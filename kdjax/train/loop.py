"""The one training loop: chunks of steps in `lax.scan`, whatever is trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax.data.streams import Stream
from kdjax.train.scope import stream_number


class Every(NamedTuple):
    """`function(step, state)` on the host after every `steps` steps, and not after the last one."""

    steps: int
    function: Callable[[int, Any], None]


class Trained(NamedTuple):
    """How training ended: `failures` is `{replica: (step, terms)}` of losses that were not finite."""

    state: Any
    step: int
    failures: Mapping[int, tuple[int, list[str]]]


class NonFiniteLossError(FloatingPointError):
    """Every replica's loss is nan or inf; says from which step on and which terms."""


def scanned(builder, streams: Mapping[str, Stream]):
    """The builder of a chunk of steps from the builder of a step, for `place(..., batch_axis=1)`.

    The chunk is `f(state, {"frozen", "resident"}, xs) -> (state, metrics)`; every leaf of `xs` and of
    the metrics leads with the steps. A chunk of one step runs through the same scan, so that any
    chunking gives the same bits.
    """

    def build(axis):
        step = builder(axis)

        def chunk(state, shared, xs):
            def body(state, x):
                batch = {}
                for name, stream in streams.items():
                    key = jax.random.fold_in(state.key, stream_number(f"data/{name}"))
                    key = jax.random.fold_in(key, state.step)
                    batch[name] = stream.batch(shared["resident"][name], x[name], key)
                return step(state, shared["frozen"], batch)

            return jax.lax.scan(body, state, xs)

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
        every: host functions; the chunk length divides their cadence.
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
            first, metrics = pending
            pending = None
            values = {name: _mean(*jax.device_get(pair)) for name, pair in metrics.items()}
            on_metrics(first + len(next(iter(values.values()))), values)
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
        pending, step = (step, metrics), step + count
        due = [each for each in every if step % each.steps == 0 and step < steps]
        stopping = stop()
        if due or stopping:
            deliver()
        for each in due:
            each.function(step, state)
        if stopping:
            break
    deliver()
    return Trained(state, step, failures)


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
