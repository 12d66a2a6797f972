"""Teachers that learn too: who minimises what, and what is held fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    FEATURES,
    FROZEN,
    LABELLED,
    assert_close,
    descended,
    divergence,
    label_loss,
    outputs,
    stepped,
)

from kdjax import methods


def entropy(logits, temperature):
    p = jax.nn.softmax(logits / temperature)
    return -jnp.sum(p * jnp.log(p), axis=-1)


def test_mutual_learning_gives_each_peer_the_other_as_a_fixed_teacher():
    before, _, after = stepped(methods.mutual_learning(temperature=2.0, weight=0.5))
    fixed = {name: outputs(name, before.params[name]).logits for name in ("student", "teacher")}

    def loss(params, name, peer):
        own = outputs(name, params).logits
        return label_loss(own) + 0.5 * jnp.mean(divergence(fixed[peer], own, 2.0))

    gradients = {
        name: jax.grad(loss)(before.params[name], name, peer)
        for name, peer in (("student", "teacher"), ("teacher", "student"))
    }
    assert_close(after.params, descended(before, gradients))


def test_bd_kd_raises_the_forward_direction_where_the_student_is_surer():
    before, _, after = stepped(methods.bd_kd(temperature=2.0, weight=0.5, raised=3.0))
    fixed = {name: outputs(name, before.params[name]).logits for name in ("student", "teacher")}
    surer = entropy(fixed["student"], 2.0) < entropy(fixed["teacher"], 2.0)
    assert 0 < int(surer.sum()) < len(surer)  # both cases are in the batch

    def student_loss(params):
        own = outputs("student", params).logits
        forward = divergence(fixed["teacher"], own, 2.0) * jnp.where(surer, 3.0, 1.0)
        reverse = divergence(own, fixed["teacher"], 2.0) * jnp.where(surer, 1.0, 3.0)
        return label_loss(own) + 0.5 * jnp.mean(forward + reverse)

    def teacher_loss(params):
        own = outputs("teacher", params).logits
        return label_loss(own) + 0.5 * jnp.mean(divergence(fixed["student"], own, 2.0))

    gradients = {
        "student": jax.jit(jax.grad(student_loss))(before.params["student"]),
        "teacher": jax.jit(jax.grad(teacher_loss))(before.params["teacher"]),
    }
    assert_close(after.params, descended(before, gradients))


def test_pesf_kd_moves_the_targets_towards_the_student_and_keeps_them_right():
    feature = FEATURES["teacher_feature"]
    method = methods.pesf_kd(teacher_feature=feature, temperature=2.0, weight=1.0, hidden=16)
    before, first, _ = stepped(method)
    taught = outputs("teacher", FROZEN["teacher"]).logits
    own = outputs("student", before.params["student"]).logits

    def adapted(state):
        features = outputs("teacher", FROZEN["teacher"]).features[feature]
        narrow = state.params["adapter_in"]["dense"]
        mlp = state.params["adapter_out"]
        x = features @ narrow["kernel"] + narrow["bias"][None]
        x = jax.nn.relu(x @ mlp["dense1"]["kernel"] + mlp["dense1"]["bias"][None])
        return taught - x @ mlp["head"]["kernel"] - mlp["head"]["bias"][None]

    np.testing.assert_allclose(
        first["kd"], jnp.mean(divergence(adapted(before), own, 2.0)), rtol=1e-4
    )
    np.testing.assert_allclose(first["adapted_labels"], label_loss(adapted(before)), rtol=1e-4)
    _, _, after = stepped(method, steps=200)
    plain_student = stepped(methods.kd(temperature=2.0, weight=0.5), steps=200)[2]
    gap = jnp.mean(divergence(adapted(after), outputs("student", after.params["student"]).logits))
    plain = jnp.mean(divergence(taught, outputs("student", plain_student.params["student"]).logits))
    assert float(gap) < 0.5 * float(plain)
    assert (adapted(after).argmax(-1) == LABELLED["label"]).mean() > (
        taught.argmax(-1) == LABELLED["label"]
    ).mean()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: methods.bd_kd(raised=0.5), "raised must be at least 1"),
        (lambda: methods.mutual_learning(weight=-1.0), "weight must be at least 0"),
        (lambda: methods.pesf_kd(teacher_feature="hidden1", temperature=0.0), "temperature"),
    ],
)
def test_hyperparameters_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
