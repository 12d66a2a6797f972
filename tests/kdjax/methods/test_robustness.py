"""Three heads: who learns from which view, how sure the teacher is, and which head is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import CLASSES, LABELLED, assert_close, divergence, label_loss

from kdjax import methods, networks
from kdjax.methods.robustness import certainty, choose_head
from kdjax.train import build_train_step, init_state
from kdjax.train.method import Method

TOP = ("embedding",)
NETS = {
    "trunk": networks.multilayer_perceptron(CLASSES, widths=(6,), features=TOP),
    "student": networks.multilayer_perceptron(CLASSES, widths=(6,), features=TOP),
    "teacher": networks.multilayer_perceptron(CLASSES, widths=(4,)),
}
BATCH = {**LABELLED, "perturbed": LABELLED["image"][:, ::-1] * 2}
FROZEN = {
    name: NETS[name].init(jax.random.key(i), LABELLED["image"])["params"]
    for i, name in enumerate(("trunk", "teacher"))
}
STATES = jax.ShapeDtypeStruct((1, 6), jnp.float32)


def stepped(method: Method):
    shapes = {"student": networks.output_shapes(NETS["student"], STATES)}
    made = {name: make(shapes) for name, make in method.players.items()}
    every = {**NETS, **{name: net for name, (net, _) in made.items()}}
    inputs = {"student": STATES, **{name: shape for name, (_, shape) in made.items()}}
    optimisers = dict.fromkeys(("student", *made), optax.sgd(0.1))
    state = jax.jit(
        lambda: init_state(jax.random.key(0), every, inputs, optimisers, hyper=method.hyper)
    )()
    step = jax.jit(build_train_step(every, method.phases, optimisers))
    after, metrics = step(state, FROZEN, {"labelled": BATCH})
    return state, {name: float(t / c) for name, (t, c) in metrics.items()}, after


def outputs(name, params, x):
    return NETS[name].apply({"params": params}, x, train=False, rngs={})[0]


def test_every_head_learns_from_its_view_and_the_existing_one_from_both():
    method = methods.three_heads(temperature=2.0, weight=0.5)
    before, metrics, after = stepped(method)

    def loss(params):
        total, found = 0.0, {}
        for view, player in (("image", "clean_head"), ("perturbed", "robust_head")):
            below = outputs("trunk", FROZEN["trunk"], BATCH[view]).features["embedding"]
            own = outputs("student", params["student"], below)
            taught = outputs("teacher", FROZEN["teacher"], BATCH[view]).logits
            p = jax.nn.softmax(taught)
            sure = 1 + jnp.sum(p * jnp.log(p), axis=-1) / np.log(CLASSES)
            head = params[player]["head"]
            heads = {
                player: (own.features["embedding"] @ head["kernel"] + head["bias"][None], 1.0),
                "student": (own.logits, 0.5),
            }
            for name, (logits, share) in heads.items():
                kd = jnp.mean(sure * divergence(taught, logits, 2.0))
                found[name] = {"labels": label_loss(logits), "kd": kd}
                total += share * (found[name]["labels"] + 0.5 * kd)
        return total, found

    gradients, found = jax.jit(jax.grad(loss, has_aux=True))(dict(before.params))
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, dict(before.params), gradients)
    assert_close(dict(after.params), expected, atol=1e-5)
    np.testing.assert_allclose(metrics["robust_head_kd"], found["robust_head"]["kd"], rtol=1e-4)
    np.testing.assert_allclose(
        metrics["clean_head_labels"], found["clean_head"]["labels"], rtol=1e-5
    )


def test_a_single_head_sees_perturbed_images_only():
    before, metrics, after = stepped(methods.three_heads(single=True, weight=0.0))
    below = outputs("trunk", FROZEN["trunk"], BATCH["perturbed"]).features["embedding"]

    def loss(params):
        return label_loss(outputs("student", params, below).logits)

    start = before.params["student"]
    np.testing.assert_allclose(metrics["perturbed_labels"], loss(start), rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.jit(jax.grad(loss))(start))
    assert_close(after.params["student"], expected)
    assert set(before.params) == {"student"}


def test_choose_head_takes_the_surer_one_where_the_heads_disagree():
    existing = jnp.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    clean = jnp.array([[2.0, 0.0], [5.0, 0.0], [0.5, 0.0]])
    robust = jnp.array([[2.0, 0.1], [0.0, 1.0], [0.0, 5.0]])
    chosen = choose_head(existing, clean, robust, threshold=0.1)
    np.testing.assert_array_equal(chosen, jnp.stack([existing[0], clean[1], robust[2]]))
    everywhere = choose_head(existing, clean, robust, threshold=1e9)
    np.testing.assert_array_equal(everywhere, existing)
    assert float(certainty(jnp.zeros((1, 3)))[0]) < 1e-6
