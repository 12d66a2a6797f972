"""Methods against their formulas on small networks, and the players they bring."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
LABELLED = {"image": RNG.normal(size=(8, 4, 4, 1)).astype(np.float32), "label": np.arange(8) % 5}
TRANSFER = {"image": RNG.normal(size=(16, 4, 4, 1)).astype(np.float32)}
FEATURES = {"student_feature": "hidden1", "teacher_feature": "embedding"}
NETS = {
    "student": networks.multilayer_perceptron(5, widths=(6,), features=("hidden1",)),
    "teacher": networks.multilayer_perceptron(5, widths=(12,), features=("embedding",)),
}
INPUTS = {name: jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32) for name in NETS}
FROZEN = {"teacher": NETS["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]}


def one_step(method, batch):
    """(state before, metrics as means, state after one SGD step of rate 0.1)."""
    shapes = {name: networks.output_shapes(net, INPUTS[name]) for name, net in NETS.items()}
    made = {name: make(shapes) for name, make in method.players.items()}
    nets = {**NETS, **{name: net for name, (net, _) in made.items()}}
    inputs = {**INPUTS, **{name: shape for name, (_, shape) in made.items()}}
    optimisers = {name: optax.sgd(0.1) for name in method.phases[0].trains}
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
    )()
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    after, metrics = step(state, FROZEN, batch)
    return state, {name: float(t / c) for name, (t, c) in metrics.items()}, after


def outputs(name, params, image):
    return NETS[name].apply({"params": params}, image, train=False, rngs={})[0]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_kd_is_the_published_sum_over_its_two_streams():
    method = methods.kd(temperature=3.0, weight=0.7)
    state, metrics, after = one_step(method, {"labelled": LABELLED, "transfer": TRANSFER})

    def loss(params):
        own = jax.nn.log_softmax(outputs("student", params, LABELLED["image"]).logits)
        labels = -jnp.mean(own[jnp.arange(8), LABELLED["label"]])
        s = outputs("student", params, TRANSFER["image"]).logits / 3
        t = outputs("teacher", FROZEN["teacher"], TRANSFER["image"]).logits / 3
        p = jax.nn.softmax(t)
        kl = 9 * jnp.mean(jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(s)), -1))
        return 0.3 * labels + 0.7 * kl, (labels, kl)

    gradient, (labels, kl) = jax.jit(jax.grad(loss, has_aux=True))(state.params["student"])
    np.testing.assert_allclose(metrics["labels"], labels, rtol=1e-5)
    np.testing.assert_allclose(metrics["kd"], kl, rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["student"], gradient)
    for a, b in zip(
        jax.tree.leaves(after.params["student"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_without_a_transfer_stream_the_labelled_images_are_transferred_on():
    _, metrics, _ = one_step(methods.kd(), {"labelled": LABELLED})
    _, same, _ = one_step(
        methods.kd(), {"labelled": LABELLED, "transfer": {"image": LABELLED["image"]}}
    )
    np.testing.assert_allclose(metrics["kd"], same["kd"], rtol=1e-5)


def test_hint_trains_its_projector_from_the_shapes_of_both_features():
    method = methods.hint(**FEATURES, weight=0.5)
    state, metrics, after = one_step(method, {"labelled": LABELLED, "transfer": TRANSFER})
    dense = state.params["projector"]["dense"]
    assert dense["kernel"].shape == (6, 12)
    f_s = outputs("student", state.params["student"], TRANSFER["image"]).features["hidden1"]
    f_t = outputs("teacher", FROZEN["teacher"], TRANSFER["image"]).features["embedding"]
    mapped = f_s @ dense["kernel"] + dense["bias"][None]
    np.testing.assert_allclose(metrics["hint"], np.mean((mapped - f_t) ** 2), rtol=1e-5)
    assert float(jnp.abs(after.params["projector"]["dense"]["kernel"] - dense["kernel"]).max()) > 0


def test_relational_compares_distances_and_not_features():
    method = methods.relational(**FEATURES)
    state, metrics, _ = one_step(method, {"labelled": LABELLED, "transfer": TRANSFER})
    f_s = outputs("student", state.params["student"], TRANSFER["image"]).features["hidden1"]
    f_t = outputs("teacher", FROZEN["teacher"], TRANSFER["image"]).features["embedding"]
    relative = []
    for f in (f_s, f_t):
        d = np.linalg.norm(f[:, None] - f[None], axis=-1)
        relative.append(d / d.sum() * (16 * 15))
    difference = np.abs(relative[0] - relative[1])
    huber = np.where(difference <= 1, difference**2 / 2, difference - 0.5)
    np.testing.assert_allclose(metrics["relational"], huber.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: methods.kd(temperature=0.0), "temperature must be above 0"),
        (lambda: methods.kd(weight=1.2), "weight must be between 0 and 1"),
        (lambda: methods.hint(**FEATURES, weight=-0.1), "weight must be between 0 and 1"),
        (lambda: methods.relational(**FEATURES, weight=-1.0), "weight must be at least 0"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_at_once(call, message):
    with pytest.raises(ValueError, match=message):
        call()
