"""Rotations as labels and as teachers."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import FEATURES, LABELLED, assert_close, divergence, label_loss, outputs, stepped

from kdjax import methods
from kdjax.methods import augmentation

IMAGE, LABEL = LABELLED["image"], LABELLED["label"]
FEATURE = FEATURES["student_feature"]


def test_rotations_are_the_four_quarter_turns_of_each_image_in_turn():
    turned = augmentation.rotations(jnp.asarray(IMAGE))
    assert turned.shape == (32, 4, 4, 1)
    for k in range(4):
        np.testing.assert_array_equal(turned[4 * 3 + k, ..., 0], np.rot90(IMAGE[3, ..., 0], k))


def test_rotated_labels_keep_the_class():
    before, metrics, _ = stepped(methods.rotated_labels())
    logits = outputs("student", before.params["student"], augmentation.rotations(IMAGE)).logits
    np.testing.assert_allclose(
        metrics["labels"], label_loss(logits, np.repeat(LABEL, 4)), rtol=1e-5
    )


def test_sla_teaches_the_plain_head_by_the_matching_views_of_the_joint_head():
    method = methods.sla(student_feature=FEATURE, temperature=2.0, weight=0.5)
    before, metrics, after = stepped(method)
    head = before.params["joint"]["dense"]
    views = [np.rot90(IMAGE, k, axes=(1, 2)) for k in range(4)]

    def parts(params, head):
        joint, aggregate = 0.0, 0.0
        for k, view in enumerate(views):
            features = outputs("student", params, view).features[FEATURE]
            logits = features @ head["kernel"] + head["bias"][None]
            joint = joint + label_loss(logits, k * 5 + LABEL) / 4
            aggregate = aggregate + logits[:, 5 * k : 5 * k + 5] / 4
        return joint, aggregate

    def loss(params, head):
        own = outputs("student", params).logits
        joint, aggregate = parts(params, head)
        taught = divergence(jax.lax.stop_gradient(aggregate), own, 2.0)
        return joint + label_loss(own) + 0.5 * jnp.mean(taught)

    joint, aggregate = parts(before.params["student"], head)
    own = outputs("student", before.params["student"]).logits
    np.testing.assert_allclose(metrics["joint_labels"], joint, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["aggregate"], jnp.mean(divergence(aggregate, own, 2.0)), rtol=1e-4
    )
    gradients = jax.grad(loss, (0, 1))(before.params["student"], head)
    for player, old, gradient in (
        ("student", before.params["student"], gradients[0]),
        ("joint", {"dense": head}, {"dense": gradients[1]}),
    ):
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, old, gradient)
        assert_close(after.params[player], expected)
