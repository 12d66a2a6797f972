"""Embeddings, and what their losses are restated with in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

SIZE = 6
RNG = np.random.default_rng(5)
S, T = RNG.standard_normal((SIZE, 4)), RNG.standard_normal((SIZE, 4))
U, V = RNG.standard_normal((SIZE, 4)), RNG.standard_normal((SIZE, 4))
WHERE = np.array([True, False, True, True, True, False])
TAU = 0.4
COMPILER = {"xla_backend_optimization_level": 0}


def double(loss, *arrays, **keywords):
    """The loss in float64, compiled without optimisation: compiling is what these tests cost."""
    run = jax.jit(lambda *chosen: loss(*chosen, **keywords), compiler_options=COMPILER)
    with jax.enable_x64(True):
        return np.asarray(run(*(jnp.asarray(x) for x in arrays)))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cos(a, b):
    return unit(a) @ unit(b)


def softmax(x):
    return np.exp(x) / np.sum(np.exp(x), axis=-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)
