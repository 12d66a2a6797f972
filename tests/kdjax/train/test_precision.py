"""Precision is a setting of the network: bfloat16 passes, float32 parameters and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(32, 8, 8, 1)).astype(np.float32)
BATCH = {"labelled": {"image": IMAGES, "label": (np.arange(32) % 5).astype(np.int32)}}
MODELS = {
    "mlp": lambda **options: networks.multilayer_perceptron(5, widths=(32,), **options),
    "vit": lambda **options: networks.vision_transformer(
        5, width=16, depth=2, heads=2, patch=4, **options
    ),
    "resnet": lambda **options: networks.resnet8(5, **options),
}


def trained(make, *, steps, student=None, teacher=None):
    """(state before, state after SGD steps by distillation, metrics of every step)."""
    nets = {"student": make(**(student or {})), "teacher": make(**(teacher or {}))}
    taught = teacher_of(make)
    method, optimisers = methods.kd(), {"student": optax.sgd(0.05)}
    inputs = {"student": jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)}
    state = init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    before, history = state, []
    for _ in range(steps):
        state, metrics = step(state, taught, BATCH)
        history.append(metrics)
    return before, state, history


def teacher_of(make):
    variables = make().init(jax.random.key(7), IMAGES)
    return {"teacher": variables["params"], "teacher/model": variables["model"]}


def moved(before, after):
    leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return np.concatenate([np.ravel(b - a) for a, b in leaves])


@pytest.mark.parametrize(
    "name, after_one, after_twenty",
    # Twice what was measured.
    [
        ("mlp", 0.007, 0.012),
        pytest.param("vit", 0.032, 0.038, marks=pytest.mark.full),
        pytest.param("resnet", 0.2, 0.11, marks=pytest.mark.full),
    ],
)
def test_bfloat16_passes_train_float32_parameters_like_float32_passes(
    name, after_one, after_twenty
):
    """How far off the movement of the parameters is, in the 2-norm, after one SGD step and 20."""
    half = {"dtype": jnp.bfloat16}
    for steps, tolerance in ((1, after_one), (20, after_twenty)):
        start, exact, losses = trained(MODELS[name], steps=steps)
        _, rough, rough_losses = trained(MODELS[name], steps=steps, student=half, teacher=half)
        for tree in (rough.params, rough.model, rough_losses):
            assert {x.dtype for x in jax.tree.leaves(tree)} <= {jnp.dtype(jnp.float32)}
        a = moved(start.params["student"], exact.params["student"])
        b = moved(start.params["student"], rough.params["student"])
        assert 0 < np.linalg.norm(a - b) <= tolerance * np.linalg.norm(a)
        for mine, theirs in zip(rough_losses, losses, strict=True):
            for term, (total, count) in mine.items():
                np.testing.assert_allclose(
                    total / count, theirs[term][0] / theirs[term][1], rtol=0.02, err_msg=term
                )


@pytest.mark.full
def test_rematerialised_blocks_have_the_same_gradient():
    """One SGD step of a transformer whose blocks are computed again in the backward pass."""
    start, plain, _ = trained(MODELS["vit"], steps=1)
    _, again, _ = trained(MODELS["vit"], steps=1, student={"remat": True})
    a = moved(start.params["student"], plain.params["student"])
    b = moved(start.params["student"], again.params["student"])
    assert np.abs(a).max() > 1e-3
    np.testing.assert_allclose(b, a, atol=1e-7)

    def jaxpr(**options):
        network = MODELS["vit"](**options)
        variables = network.init(jax.random.key(0), IMAGES)

        def loss(params):
            whole = {**variables, "params": params}
            return network.apply(whole, IMAGES, train=True, rngs={})[0].logits.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(variables["params"]))

    assert [("remat" in text or "checkpoint" in text) for text in (jaxpr(), jaxpr(remat=True))] == [
        False,
        True,
    ]
