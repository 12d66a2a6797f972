"""Methods on vision transformers: logits of the patches, and the schedule of what they learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    CLASSES,
    LABELLED,
    NETS,
    assert_close,
    descended,
    divergence,
    label_loss,
    stepped,
)

from kdjax import methods, networks
from kdjax.methods.vision import averaged_positions

STUDENT = networks.vision_transformer(
    CLASSES, width=4, depth=1, heads=1, patch=1, distillation=True, distillation_head=True,
    features=("tokens", "class_logits", "distillation_logits"),
)  # fmt: skip
DENSE = np.random.default_rng(1).normal(size=(8, 2, 2, CLASSES)).astype(np.float32)
TAUGHT = {"teacher/logits": DENSE.mean((1, 2)), "teacher/dense": DENSE}


def stepped_vit(method, steps=1):
    nets = {**NETS, "student": STUDENT}
    return stepped(method, nets=nets, batch={**LABELLED, **TAUGHT}, steps=steps)


def features(params):
    variables = {"params": params, "model": {}, "frozen": {}}
    return STUDENT.apply(variables, LABELLED["image"], train=False, rngs={})[0].features


def test_cumulative_spatial_moves_from_places_to_the_whole():
    options = {"teacher_feature": "dense", "temperature": 2.0, "weight": 0.25}
    for steps, done, share in ((4, 1, 1.0), (4, 2, 0.75), (4, 9, 0.0), (0, 2, 1.0)):
        before, _, _ = stepped_vit(methods.cumulative_spatial(**options, steps=steps))
        if done > 1:
            _, _, before = stepped_vit(
                methods.cumulative_spatial(**options, steps=steps), steps=done - 1
            )
        _, metrics, _ = stepped_vit(methods.cumulative_spatial(**options, steps=steps), steps=done)
        given, head = features(before.params["student"]), before.params["dense_head"]["dense"]
        kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
        dense = np.asarray(given["tokens"])[:, 2:] @ kernel + bias
        # Row by row: four by four patches, averaged over squares of two by two.
        own = dense.reshape(8, 4, 4, CLASSES).reshape(8, 2, 2, 2, 2, CLASSES).mean((2, 4))
        target = share * DENSE + (1 - share) * DENSE.mean((1, 2), keepdims=True)
        np.testing.assert_allclose(
            metrics["spatial"], jnp.mean(divergence(target, own, 2.0)), rtol=1e-4
        )
        taught = divergence(TAUGHT["teacher/logits"], given["distillation_logits"], 2.0)
        np.testing.assert_allclose(metrics["kd"], jnp.mean(taught), rtol=1e-4)
        np.testing.assert_allclose(metrics["labels"], label_loss(given["class_logits"]), rtol=1e-4)


def test_cumulative_spatial_of_no_weight_is_deit():
    method = methods.cumulative_spatial(teacher_feature="dense", spatial=0.0)
    one, other = (stepped_vit(each, steps=3)[2] for each in (method, methods.deit()))
    for a, b in zip(*(jax.tree.leaves(s.params["student"]) for s in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_averaged_positions_refuses_patches_that_do_not_fit():
    with pytest.raises(ValueError, match="9 patches"):
        averaged_positions(jnp.zeros((1, 9, 2)), (2, 2))
    with pytest.raises(ValueError, match="8 patches"):
        averaged_positions(jnp.zeros((1, 8, 2)), (2, 2))


PATHS = {
    "student": networks.path_ensemble(
        CLASSES, width=4, depth=2, heads=1, patch=2, features=("paths", "exits")
    )
}


def path_outputs(params):
    variables = {"params": params, "model": {}, "frozen": {}}
    return PATHS["student"].apply(variables, LABELLED["image"], train=False, rngs={})[0]


def test_path_distillation_teaches_the_short_sum_and_leaves_the_long_one_to_the_labels():
    method = methods.path_distillation(temperature=2.0, weight=0.5)
    before, metrics, after = stepped(method, nets=PATHS, frozen={})
    start = before.params["student"]
    given = path_outputs(start)
    short, long = given.features["exits"][:, 0], given.logits
    np.testing.assert_allclose(metrics["exits"], jnp.mean(divergence(long, short, 2.0)), rtol=1e-4)

    def loss(params):
        given = path_outputs(params)
        values = divergence(long, given.features["exits"][:, 0], 2.0)
        return label_loss(given.logits) + 0.5 * jnp.mean(values)

    expected = descended(before, {"student": jax.jit(jax.grad(loss))(start)})
    assert_close(after.params["student"], expected["student"], atol=1e-5)


def test_path_distillation_with_labels_is_deep_supervision():
    before, metrics, _ = stepped(methods.path_distillation(soft=False), nets=PATHS, frozen={})
    exits = path_outputs(before.params["student"]).features["exits"]
    np.testing.assert_allclose(metrics["exits"], label_loss(exits[:, 0]), rtol=1e-4)
