"""Rotations as labels and as teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import (
    CLASSES,
    FEATURES,
    FROZEN,
    LABELLED,
    NETS,
    SHAPE,
    assert_close,
    descended,
    divergence,
    label_loss,
    outputs,
    stepped,
)

from kdjax import methods, networks
from kdjax.methods import augmentation
from kdjax.methods.augmentation import shifted
from kdjax.train import build_train_step, init_state

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

    def parts(params):
        head, joint, aggregate = params["joint"]["dense"], 0.0, 0.0
        for k in range(4):
            view = np.rot90(IMAGE, k, axes=(1, 2))
            features = outputs("student", params["student"], view).features[FEATURE]
            logits = features @ head["kernel"] + head["bias"][None]
            joint = joint + label_loss(logits, k * 5 + LABEL) / 4
            aggregate = aggregate + logits[:, 5 * k : 5 * k + 5] / 4
        own = outputs("student", params["student"]).logits
        taught = divergence(jax.lax.stop_gradient(aggregate), own, 2.0)
        return joint, jnp.mean(taught), label_loss(own)

    def loss(params):
        joint, taught, labels = parts(params)
        return joint + labels + 0.5 * taught

    joint, taught, _ = parts(before.params)
    np.testing.assert_allclose(metrics["joint_labels"], joint, rtol=1e-5)
    np.testing.assert_allclose(metrics["aggregate"], taught, rtol=1e-4)
    gradients = jax.jit(jax.grad(loss))(dict(before.params))
    assert_close(after.params, descended(before, gradients))


def test_shifts_wrap_around_and_stand_between_pixels():
    image = np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype(np.float32)
    moved = shifted(image, jnp.array([[1.0, -2.0], [0.5, 0.0]]))
    np.testing.assert_allclose(moved[0], np.roll(image[0], (1, -2), (0, 1)), atol=1e-6)
    np.testing.assert_allclose(moved[1], (image[1] + np.roll(image[1], 1, 0)) / 2, atol=1e-6)


def test_hard_moves_the_augmentor_and_the_student_in_opposite_directions():
    batch = {**LABELLED, "index": np.arange(8)}
    method = methods.hard(reach=1.5, steady_weight=0.0, size_weight=0.0, disagree_weight=1.0)

    def trained(player):
        (phase,) = [p for p in method.phases if p.trains == (player,)]
        own = method._replace(phases=(phase,))
        nets = {**NETS, "augmentor": method.players["augmentor"]({})[0]}
        inputs = {"student": SHAPE, "augmentor": jax.ShapeDtypeStruct((1, 2), jnp.float32)}
        optimisers = dict.fromkeys(("student", "augmentor"), optax.sgd(0.05))
        state = jax.jit(
            lambda: init_state(jax.random.key(0), nets, inputs, optimisers, hyper=own.hyper)
        )()
        step = jax.jit(build_train_step(nets, own.phases, optimisers))
        name, values = {"augmentor": "disagreement", "student": "moved"}[player], []
        for _ in range(60):
            state, terms = step(state, FROZEN, {"labelled": batch})
            values.append(float(terms[name][0] / terms[name][1]))
        return values

    raised, lowered = trained("augmentor"), trained("student")
    assert np.mean(raised[-10:]) > 1.02 * np.mean(raised[:10])
    assert np.mean(lowered[-10:]) < 0.9 * np.mean(lowered[:10])


def test_a_circular_teacher_is_indifferent_to_whole_shifts():
    net = networks.unfolded_cnn(CLASSES, widths=(3, 4), strides=(1, 2), circular=True)
    params = net.init(jax.random.key(0), SHAPE)["params"]

    def logits(image):
        return net.apply({"params": params}, image, train=False, rngs={})[0].logits

    moved = shifted(LABELLED["image"], jnp.tile(jnp.array([[2.0, -1.0]]), (8, 1)))
    np.testing.assert_allclose(logits(moved), logits(LABELLED["image"]), atol=1e-5)


def test_an_unfolded_convolution_is_a_convolution():
    net = networks.unfolded_cnn(CLASSES, widths=(3,), strides=(2,), features=("stage1",))
    params = net.init(jax.random.key(0), SHAPE)["params"]
    given = net.apply({"params": params}, IMAGE, train=False, rngs={})[0].features["stage1"]
    kernel = params["conv1"]["kernel"].reshape(3, 3, 1, 3)
    convolved = jax.lax.conv_general_dilated(
        jnp.asarray(IMAGE), kernel, (1, 1), [(2, 2), (2, 2)], rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose(given, jnp.maximum(convolved, 0), atol=1e-5)
