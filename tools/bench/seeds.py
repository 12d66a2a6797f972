"""Seeds and trials of hyperparameters: all in one vmapped program, or one after the other.

`ratio` is the time of the one program over that of the runs in turn, compilation left out;
`compile_ratio` that of compiling the one over compiling the other, which all runs in turn share; and
`ratio_with_compilation` that of both together for a run of `steps` steps. `faster` says which way to
set `seeds_together` in a config: nothing decides it by itself, and a table never mixes the two.
The trials differ in the temperature and in the optimiser's learning rate (`with_trials`).
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.networks.cnn import CNN
from kdjax.train import place
from kdjax.train.trials import with_trials
from tools.bench import _pairs, _timing

ROUNDS = 9
REPLICAS = 5


def small_convolutional():
    """The demo's teacher as a student of its own kind."""
    pair = _pairs.demo()
    return pair._replace(student=CNN(10, (8, 16), 32))


def tried():
    """The demo's student under an optimiser whose learning rate is a number of the state."""
    return _pairs.demo()._replace(optimiser=optax.inject_hyperparams(optax.adamw)(1e-2))


# The pair, the steps in one reading, and those of a whole run of that kind.
CASES = {
    "mlp_seeds": (_pairs.demo, 100, 1500),
    "mlp_trials": (tried, 100, 1500),
    "cnn_seeds": (small_convolutional, 20, 1500),
    "resnet8_seeds": (lambda: _pairs.resnets(8, 14, 8), 1, 1500),
}


def rows(only=""):
    """One row a case whose name contains `only`."""
    return [
        {"name": name, **measure(make(), chunk, steps, ROUNDS, trials="trials" in name)}
        for name, (make, chunk, steps) in CASES.items()
        if only in name
    ]


def measure(pair, chunk, steps, rounds, *, trials=False, replicas=REPLICAS):
    runs, compilation = {}, {}
    for name, n in (("together", replicas), ("in turn", None)):
        run = _timing.Carried(*program(pair, n, trials), pair.frozen(), batches(pair, chunk, n))
        start = time.perf_counter()
        jax.block_until_ready(run())
        first = time.perf_counter() - start
        start = time.perf_counter()
        jax.block_until_ready(run())
        compilation[name], runs[name] = first - (time.perf_counter() - start), run
    alone = runs["in turn"]
    runs["in turn"] = lambda: [alone() for _ in range(replicas)][-1]
    seconds = _timing.interleaved(runs, rounds)
    whole = {name: compilation[name] + np.median(s) * steps / chunk for name, s in seconds.items()}
    found = _timing.compared(seconds["together"], seconds["in turn"])
    total = whole["together"] / whole["in turn"]
    return {
        **found,
        "compile_ratio": compilation["together"] / compilation["in turn"],
        "ratio_with_compilation": float(total),
        "replicas": replicas,
        "steps": steps,
        "faster": "together" if total < 1 else "in turn",
    }


def program(pair, replicas, trials):
    """(chunk, state): of all replicas, or of one where `replicas` is None."""
    state = pair.state(0 if replicas is None else list(range(replicas)))
    if trials and replicas is not None:
        state = with_trials(
            state,
            {"temperature": np.linspace(1, 8, replicas)},
            {"student": {"learning_rate": np.geomspace(1e-3, 3e-2, replicas)}},
        )
    axis = None if replicas is None else ("seed", replicas)
    chunk = place(
        lambda axis: _pairs.scan(pair.build(axis)),
        _pairs.one_device(),
        replicas=axis,
        batch_axis=1,
    )
    return chunk, state


def batches(pair, chunk, replicas):
    """[chunk, replicas, B, ...], every replica in an order of its own."""
    if replicas is None:
        return _pairs.repeated(pair, chunk)
    return jax.tree.map(jnp.array, _pairs.repeated(pair, chunk, replicas))
