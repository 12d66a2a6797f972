"""Softmax regression in kdjax and in float64 NumPy: steps whose every gradient has a formula."""

import jax
import jax.numpy as jnp
import numpy as np
import small

from kdjax.networks.network import Network
from kdjax.train import build_train_step, init_state


def network(weight):
    """x -> x W, starting at `weight` `[I, O]`."""

    def init(key, inputs):
        return {"params": {"w0": jnp.asarray(weight)}, "model": {}}

    return Network(init, small.dense(*weight.shape).apply)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(networks, phases, optimisers, batch, *, frozen=None, steps=1, averages=None, **initial):
    """The state after every one of `steps` on one batch, and the last metrics."""
    step = jax.jit(build_train_step(networks, phases, optimisers, averages=averages))
    inputs = dict.fromkeys(optimisers, jnp.zeros((1, 1)))
    averaged = tuple(averages or ())
    state = init_state(
        jax.random.key(0), networks, inputs, optimisers, averages=averaged, **initial
    )
    states = [state]
    for _ in range(steps):
        state, metrics = step(states[-1], frozen or {}, batch)
        states.append(state)
    return states[1:], metrics


def weight(state, player):
    return np.asarray(state.params[player]["w0"], np.float64)


def softmax(z):
    z = np.exp(z - z.max(-1, keepdims=True))
    return z / z.sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), -1)


def pulled(x, w, p, *, temperature=1.0, weight=1.0):
    """dL/dW of the mean over rows of weight · T² KL(p ‖ softmax(x W / T))."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    q = softmax(x @ w / temperature)
    rows = np.broadcast_to(weight, len(x))[:, None]
    return x.T @ (rows * temperature * (q - p)) / len(x)


def close(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
