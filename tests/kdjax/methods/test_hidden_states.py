"""Transfer layer by layer: which losses are on when, and which layers move how fast."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_steps import assert_close

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

KEPT = ("hidden1", "hidden2", "scores1", "scores2")
SHAPE = {"width": 8, "depth": 2, "heads": 2, "positions": 6, "kinds": 0, "features": KEPT}
NETS = {
    "student": networks.encoder_transformer(11, hidden=8, bottleneck=4, **SHAPE),
    "teacher": networks.encoder_transformer(11, hidden=16, **SHAPE),
}
RNG = np.random.default_rng(0)
TARGET = RNG.integers(1, 11, size=(4, 6)).astype(np.int32)
MASKED = RNG.random((4, 6)) < 0.4
BATCH = {"target": TARGET, "tokens": np.where(MASKED, 0, TARGET), "masked": MASKED}
# Drawn wide, so that attention and states differ from the start.
WIDE = jax.tree.map(
    lambda x: 10 * x if x.ndim > 1 else x,
    NETS["teacher"].init(jax.random.key(5), TARGET)["params"],
)


def steps_of(method, number):
    """[(state, metrics)] of the first steps."""
    state = jax.jit(lambda: init_state(
        jax.random.key(0), NETS, {"student": TARGET}, {"student": optax.sgd(0.1)},
        hyper=method.hyper, memory=method.memory,
    ))()  # fmt: skip
    step = jax.jit(build_train_step(NETS, method.phases, {"student": optax.sgd(0.1)}))
    found = [(state, {})]
    for _ in range(number):
        state, metrics = step(state, {"teacher": WIDE}, {"labelled": BATCH})
        found.append((state, {name: float(t / c) for name, (t, c) in metrics.items()}))
    return found


def moved(before, after, name):
    pairs = zip(*(jax.tree.leaves(s.params["student"][name]) for s in (before, after)), strict=True)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs)


def test_progressive_transfer_trains_one_layer_after_the_other():
    (start, _), (one, _), (two, _), (three, _) = steps_of(
        methods.progressive_transfer(layers=2, transfer_steps=2, lower=0.0), 3
    )
    assert moved(start, one, "layer1") > 0 and moved(start, one, "embedding") > 0
    assert moved(start, one, "layer2") == moved(start, one, "transform") == 0
    assert moved(one, two, "layer2") > 0, "its turn"
    assert moved(one, two, "layer1") == moved(one, two, "embedding") == 0, "frozen below"
    assert moved(one, two, "transform") == 0
    for name in ("layer1", "layer2", "embedding", "transform"):
        assert moved(two, three, name) > 0, "words train all of it"


def test_progressive_transfer_slows_what_lies_below():
    def second(lower):
        method = methods.progressive_transfer(layers=2, transfer_steps=2, lower=lower)
        _, (one, _), (two, _) = steps_of(method, 2)
        return jax.tree.map(lambda a, b: b - a, one.params["student"], two.params["student"])

    slow, full = second(0.25), second(1.0)
    assert_close(slow["layer1"], jax.tree.map(lambda x: x / 4, full["layer1"]), atol=1e-6)
    assert_close(slow["layer2"], full["layer2"], atol=1e-6)


@pytest.mark.parametrize("progressive", [True, False])
def test_progressive_transfer_is_the_distance_of_states_and_attention_then_words(progressive):
    method = methods.progressive_transfer(
        layers=2, transfer_steps=2, progressive=progressive, labels=0.25
    )
    found = steps_of(method, 3)

    def outputs(name, params):
        variables = {"params": params, "model": {}, "frozen": {}}
        return NETS[name].apply(variables, BATCH["tokens"], train=False, rngs={})[0]

    taught = outputs("teacher", WIDE)

    def transferred(params):
        own, total = outputs("student", params), 0.0
        for number, share in ((1, 1.0 if progressive else 0.5), (2, 0.0 if progressive else 0.5)):
            h_s, h_t = (
                jax.nn.standardize(x.features[f"hidden{number}"], epsilon=0.0)
                for x in (own, taught)
            )
            log_s, log_t = (
                jax.nn.log_softmax(x.features[f"scores{number}"]) for x in (own, taught)
            )
            divergence = jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
            total += share * (jnp.mean(jnp.square(h_s - h_t)) + jnp.mean(divergence))
        return total

    def words(params):
        log_q = jax.nn.log_softmax(outputs("student", params).logits)
        log_p = jax.nn.log_softmax(taught.logits)
        right = -jnp.take_along_axis(log_q, TARGET[..., None], axis=-1)[..., 0]
        soft = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        return jnp.sum(jnp.where(MASKED, 0.25 * right + 0.75 * soft, 0)) / MASKED.sum()

    for loss, (before, _), (after, _) in (
        (transferred, found[0], found[1]), (words, found[2], found[3])
    ):  # fmt: skip
        start = before.params["student"]
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, start, jax.jit(jax.grad(loss))(start))
        assert_close(after.params["student"], expected, atol=2e-5)
    assert set(found[1][1]) == {"states1", "states2", "attention1", "attention2", "labels", "kd"}
