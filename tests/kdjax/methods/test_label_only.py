"""A target that answers with a class alone: what critic and generator minimise of it."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import LABELLED, assert_close, prepared

from kdjax import networks
from kdjax.methods import label_only

CLASSES = 3
TARGET = networks.multilayer_perceptron(CLASSES, widths=(7,))
NETS = {"target": TARGET}
FROZEN = {"target": TARGET.init(jax.random.key(9), LABELLED["image"])["params"]}
BATCH = {"public": {"image": LABELLED["image"], "index": np.arange(8)}}
MADE = {"image_shape": (4, 4, 1), "image_range": (-1.0, 2.0), "latent": 5, "hidden": 6}


def stepped(frozen=FROZEN, steps=1, **changes):
    method = label_only.target_assisted_gan(classes=CLASSES, inner=2, **{**MADE, **changes})
    state, step = prepared(method, nets=NETS)
    seen = []
    for _ in range(steps):
        state, metrics = step(state, frozen, BATCH)
        seen.append({name: float(t / c) for name, (t, c) in metrics.items()})
    return state, seen


def test_target_assisted_gan_reads_only_the_targets_class():
    hot = {**FROZEN["target"], "head": jax.tree.map(lambda x: 7 * x, FROZEN["target"]["head"])}
    ends = [stepped(frozen)[0].params for frozen in (FROZEN, {"target": hot})]
    assert_close(*ends, atol=0)
    other = TARGET.init(jax.random.key(3), LABELLED["image"])["params"]
    changed = stepped({"target": other}, warmup=0)[0].params["critic"]
    same = stepped(warmup=0)[0].params["critic"]
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), changed, same)
    assert max(jax.tree.leaves(gap)) > 1e-5


def test_target_assisted_gan_lets_the_classes_wait_for_the_warm_up():
    with_classes, without = (stepped(steps=2, warmup=w)[0].params["critic"] for w in (0, 2))
    never = stepped(steps=2, weight=0.0, warmup=0)[0].params["critic"]
    assert_close(without, never, atol=0)
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), with_classes, never)
    assert max(jax.tree.leaves(gap)) > 1e-5


def test_conditional_generator_makes_what_depends_on_the_class_and_stays_in_range():
    network, shapes = label_only.conditional_generator(CLASSES, **MADE)
    params = network.init(jax.random.key(0), shapes)["params"]
    noise = 3 * jax.random.normal(jax.random.key(1), (3, 5))

    def made(label):
        inputs = {"noise": noise, "label": jnp.array(label)}
        return network.apply({"params": params}, inputs, train=False, rngs={})[0].features["image"]

    first, second = made([0, 1, 2]), made([0, 2, 2])
    assert first.shape == (3, 4, 4, 1) and -1 < float(first.min()) < float(first.max()) < 2
    moved = np.abs(first - second).max(axis=(1, 2, 3))
    assert moved[1] > 1e-3 and moved[0] == moved[2] == 0
