"""What each loss costs beside a plain KL divergence on as many numbers per example.

Value and gradient by the student are compiled together. `flops` and `bytes` are XLA's own count for
that program; `ratio` is its time over the time of the KL on `[batch, D]`, D being the size of one
example of the student's first array. Both run many times inside one program, each run fed by the one
before, so that the time is the loss's and not the dispatch's. Where `loops` is true, XLA counts the
body of a loop once: flops and bytes are then too low, the time is not.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.losses import softened_kl_divergence
from tools.references import registry, stress

BATCH = 128
ROUNDS = 11
REPEATS = 10


def rows(only=""):
    """One row a public loss that has an example and whose name contains `only`."""
    _, examples = registry.discover()
    losses = registry.public_losses()
    return [
        measure(name, loss, examples[name])
        for name, loss in losses.items()
        if name in examples and only in name
    ]


def measure(name, loss, example):
    """`ratio` (the median over rounds), `spread` (between its quartiles), flops and bytes of a loss."""
    call, frame = stress.pose(example, batch=BATCH)
    first = next(i for i, fact in enumerate(frame.facts) if fact.side == "student")
    run, reference = _Timed(loss, frame, call), plain(call.arrays[first].size // BATCH)
    ratios = []
    for _ in range(ROUNDS):
        beside = reference.seconds()
        ratios.append(run.seconds() / beside)
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {
        "name": name,
        "ratio": float(middle),
        "spread": float(high - low),
        "flops": run.flops,
        "bytes": run.bytes,
        "flops_ratio": run.flops / reference.flops,
        "bytes_ratio": run.bytes / reference.bytes,
        "loops": run.loops,
    }


@functools.cache
def plain(width):
    """The compiled KL divergence on `[BATCH, width]`."""

    def build(rng, batch):
        return tuple(rng.normal(size=(2, batch, width)).astype(np.float32)), {}

    call, frame = stress.pose(registry.Example(build), batch=BATCH)
    return _Timed(softened_kl_divergence, frame, call)


class _Timed:
    """A loss with its gradient by the student's arrays: its cost, and the time of one evaluation."""

    def __init__(self, loss, frame, call):
        arrays = [jnp.asarray(x) for x in call.arrays]
        trained = [i for i, f in enumerate(frame.facts) if f.side == "student" and f.floating]
        self._students = [arrays[i] for i in trained]
        self._arrays = arrays

        def total(students, arrays):
            chosen = list(arrays)
            for i, x in zip(trained, students, strict=True):
                chosen[i] = x
            arguments, keywords = frame.rebuild(chosen)
            return jnp.sum(loss(*arguments, **keywords))

        both = jax.value_and_grad(total)
        compiled = jax.jit(both).lower(self._students, arrays).compile()
        self.loops = " while(" in compiled.as_text()
        cost = compiled.cost_analysis()
        self.flops, self.bytes = float(cost["flops"]), float(cost["bytes accessed"])

        def many(students, arrays):
            def once(_, carried):
                _, gradients = both(carried, arrays)
                # A step too small to change anything, that the compiler cannot leave out.
                return jax.tree.map(lambda x, g: x + 1e-20 * g, carried, gradients)

            return jax.lax.fori_loop(0, REPEATS, once, students)

        self._many = jax.jit(many).lower(self._students, arrays).compile()
        self.seconds()

    def seconds(self):
        start = time.perf_counter()
        jax.block_until_ready(self._many(self._students, self._arrays))
        return (time.perf_counter() - start) / REPEATS
