"""How the suites compare programs: in one run, in turn, again and again."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """{name: seconds `[rounds]`}: every round calls each once, in turn and then the other way round.

    Each is called once before, so that nothing is compiled under the clock.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in reversed(list(runs)) if number % 2 else runs:
            start = time.perf_counter()
            jax.block_until_ready(runs[name]())
            taken[name].append(time.perf_counter() - start)
    return {name: np.asarray(seconds) for name, seconds in taken.items()}


def compared(seconds, reference) -> dict[str, float]:
    """`ratio`, the median over rounds of seconds / reference, and `spread` between its quartiles."""
    low, middle, high = np.quantile(np.asarray(seconds) / np.asarray(reference), [0.25, 0.5, 0.75])
    return {"ratio": float(middle), "spread": float(high - low)}


class Carried:
    """`function(state, *arguments) -> (state, result)` as a call that goes on from its last state."""

    def __init__(self, function, state, *arguments):
        self.state = state
        self._function, self._arguments = function, arguments

    def __call__(self):
        self.state, result = self._function(self.state, *self._arguments)
        return self.state, result

    def cost(self) -> tuple[float, float]:
        """(FLOPs, bytes) that XLA counts for the compiled program; the body of a loop counts once."""
        program = jax.jit(self._function).lower(self.state, *self._arguments).compile()
        analysis = program.cost_analysis() or {}
        return float(analysis["flops"]), float(analysis["bytes accessed"])
