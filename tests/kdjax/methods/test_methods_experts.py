"""Experts: the joint target of wrong classes, balanced labels, heads of unit vectors."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import CLASSES, LABELLED, SHAPE, label_loss, prepared, stepped

from kdjax import methods, networks

NETS = {"student": networks.fused_experts(CLASSES, width=6, features=("experts", "embeddings"))}
Y = LABELLED["label"]


def logits(params):
    given = NETS["student"].apply({"params": params}, LABELLED["image"], train=False, rngs={})[0]
    np.testing.assert_allclose(given.logits, given.features["experts"].mean(1), atol=1e-6)
    return np.asarray(given.features["experts"], float)


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def test_shike_holds_the_hardest_wrong_class_to_the_mean_of_the_experts():
    before, terms, _ = stepped(methods.shike(), nets=NETS, frozen={})
    z = logits(before.params["student"])
    peers = sum(
        kl(softmax(z[:, j]), softmax(z[:, i])).mean() for i in range(3) for j in range(3) if i != j
    )
    classes = z.shape[-1]
    np.testing.assert_allclose(terms["peers"], peers / classes, rtol=1e-4, atol=1e-6)
    negatives = 0.0
    for row, label in zip(z, Y, strict=True):
        wrong = np.delete(row, label, axis=1)
        target = wrong.max(0)
        hardest = wrong.mean(0).argmax()
        target[hardest] = wrong.mean(0)[hardest]
        negatives += sum(kl(softmax(target), softmax(own)) for own in wrong) / len(z)
    np.testing.assert_allclose(terms["negatives"], negatives / classes, rtol=1e-4)
    np.testing.assert_allclose(
        terms["labels"], sum(label_loss(z[:, i]) for i in range(3)), rtol=1e-5
    )


def test_balanced_labels_add_the_logarithm_of_the_counts():
    counts = (100, 50, 10, 5, 1)
    before, terms, _ = stepped(methods.expert_labels(counts=counts), nets=NETS, frozen={})
    z = logits(before.params["student"]) + np.log(counts)
    np.testing.assert_allclose(
        terms["labels"], sum(label_loss(z[:, i]) for i in range(3)), rtol=1e-5
    )


def test_balanced_heads_train_nothing_but_unit_classifiers():
    experts = NETS["student"].init(jax.random.key(3), LABELLED["image"])["params"]
    method = methods.balanced_heads(counts=(1,) * CLASSES, scale=30.0)
    method = method._replace(memory={"experts": experts})
    state, step = prepared(method, nets=NETS)
    after, _ = step(state, {}, {"labelled": LABELLED})
    assert set(after.params) == {"heads"}
    jax.tree.map(np.testing.assert_array_equal, after.memory["experts"], experts)
    heads = networks.cosine_heads(CLASSES, scale=30.0)
    rows = jax.random.normal(jax.random.key(1), (4, 3, 6))

    def given(params, rows):
        return heads.apply({"params": params}, rows, train=False, rngs={})[0].features["experts"]

    found = given(state.params["heads"], rows)
    vectors = state.params["heads"]["vectors"]
    np.testing.assert_allclose(
        found[1, 2, 0],
        30 * rows[1, 2] @ vectors[2, :, 0]
        / jnp.linalg.norm(rows[1, 2]) / jnp.linalg.norm(vectors[2, :, 0]),
        rtol=1e-4,
    )  # fmt: skip
    np.testing.assert_allclose(found, given(state.params["heads"], 7 * rows), rtol=1e-4)


def test_fused_experts_multiply_another_depth_each():
    params = NETS["student"].init(jax.random.key(0), SHAPE)["params"]
    cut = {**params, "fusion2": jax.tree.map(jnp.zeros_like, params["fusion2"])}
    found = [
        NETS["student"].apply({"params": p}, LABELLED["image"], train=False, rngs={})[0]
        for p in (params, cut)
    ]
    rows = [x.features["embeddings"] for x in found]
    assert np.all(rows[1][:, 1] == 0) and np.any(rows[0][:, 1] > 0)
    np.testing.assert_array_equal(rows[0][:, [0, 2]], rows[1][:, [0, 2]])
