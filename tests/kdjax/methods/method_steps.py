"""Small networks and a batch that the tests of methods share, and a step of any method on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import networks
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
CLASSES = 5
LABELLED = {
    "image": RNG.normal(size=(8, 4, 4, 1)).astype(np.float32),
    "label": (np.arange(8) % CLASSES).astype(np.int32),
}
FEATURES = {"student_feature": "hidden1", "teacher_feature": "hidden1"}
NETS = {
    "student": networks.multilayer_perceptron(CLASSES, widths=(6,), features=("hidden1",)),
    "teacher": networks.multilayer_perceptron(CLASSES, widths=(12,), features=("hidden1",)),
}
SHAPE = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
FROZEN = {"teacher": NETS["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]}


def prepared(method, optimiser=None, nets=NETS):
    """(state, step) of a method; every player under the same optimiser, SGD of rate 0.1."""
    shapes = {name: networks.output_shapes(net, SHAPE) for name, net in nets.items()}
    made = {name: make(shapes) for name, make in method.players.items()}
    every = {**nets, **{name: net for name, (net, _) in made.items()}}
    inputs = {**dict.fromkeys(nets, SHAPE), **{name: shape for name, (_, shape) in made.items()}}
    players = dict.fromkeys(player for phase in method.phases for player in phase.trains)
    optimisers = dict.fromkeys(players, optimiser or optax.sgd(0.1))
    state = jax.jit(
        lambda: init_state(
            jax.random.key(0), every, inputs, optimisers, hyper=method.hyper, memory=method.memory
        )
    )()
    return state, jax.jit(build_train_step(every, method.phases, optimisers))


def stepped(method, steps=1, batch=LABELLED, frozen=FROZEN, **options):
    """(state before, metrics of the last step as means, state after)."""
    before, step = prepared(method, **options)
    state = before
    for _ in range(steps):
        state, metrics = step(state, frozen, {"labelled": batch})
    return before, {name: float(t / c) for name, (t, c) in metrics.items()}, state


def outputs(name, params, image=LABELLED["image"], nets=NETS):
    return nets[name].apply({"params": params}, image, train=False, rngs={})[0]


def label_loss(logits, labels=LABELLED["label"]):
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels])


def divergence(p_logits, q_logits, temperature=1.0):
    """T² KL(p ‖ q) per example, written out."""
    log_p, log_q = (jax.nn.log_softmax(x / temperature) for x in (p_logits, q_logits))
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def descended(before, gradients, rate=0.1):
    """The parameters after one SGD step down `gradients`, of the players that they have."""
    return {
        name: jax.tree.map(lambda p, g: p - rate * g, before.params[name], gradients[name])
        for name in gradients
    }


def assert_close(actual, expected, atol=2e-6):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)
