"""Methods on logits: two momenta, and generations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import (
    FROZEN,
    LABELLED,
    assert_close,
    descended,
    divergence,
    label_loss,
    outputs,
    prepared,
    stepped,
)

from kdjax import methods


def logits(params, name="student"):
    return outputs(name, params).logits


def test_dot_keeps_a_longer_momentum_for_the_distillation_gradient():
    method = methods.dot(temperature=2.0, weight=0.3, momentum=0.9, difference=0.05)
    before, _, after = stepped(method, steps=3)
    teacher = logits(FROZEN["teacher"], "teacher")
    losses = (
        lambda p: 0.7 * label_loss(logits(p)),
        lambda p: 0.3 * jnp.mean(divergence(teacher, logits(p), 2.0)),
    )
    params = before.params["student"]
    momenta = [jax.tree.map(jnp.zeros_like, params) for _ in losses]
    for _ in range(3):
        momenta = [
            jax.tree.map(lambda v, g, m=m: m * v + g, v, jax.jit(jax.grad(loss))(params))
            for v, loss, m in zip(momenta, losses, (0.85, 0.95), strict=True)
        ]
        params = jax.tree.map(lambda p, a, b: p - 0.1 * (a + b), params, *momenta)
    assert_close(after.params["student"], params)


def test_dot_without_a_difference_is_one_momentum():
    plain = stepped(methods.kd(), steps=4, optimiser=optax.sgd(0.1, momentum=0.9))[2]
    same = stepped(methods.dot(weight=0.9, difference=0.0), steps=4)[2]
    other = stepped(methods.dot(weight=0.9), steps=4)[2]
    assert_close(same.params["student"], plain.params["student"])
    kernel = [s.params["student"]["dense1"]["kernel"] for s in (same, other)]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 1e-3


def test_born_again_learns_from_the_student_before_it_and_leaves_that_one_alone():
    method = methods.born_again(temperature=2.0, weight=0.25)
    state, step = prepared(method)
    # Another initialisation stands for the generation before.
    previous = jax.tree.map(lambda x: x[::-1] * 2, state.params["student"])
    state = state.replace(memory={"previous": previous})
    after, metrics = step(state, FROZEN, {"labelled": LABELLED})

    def loss(params):
        values = divergence(logits(previous), logits(params), 2.0)
        return 0.75 * label_loss(logits(params)) + 0.25 * jnp.mean(values)

    gradients = {"student": jax.jit(jax.grad(loss))(state.params["student"])}
    assert_close(after.params["student"], descended(state, gradients)["student"])
    assert_close(after.memory["previous"], previous, atol=0)
    total, count = metrics["previous"]
    expected = jnp.mean(divergence(logits(previous), logits(state.params["student"]), 2.0))
    np.testing.assert_allclose(total / count, expected, rtol=1e-5)


def generations(method, batch=LABELLED):
    """(state, state after a step, metrics, logits of a generation before) of a method on a batch."""
    state, step = prepared(method)
    previous = jax.tree.map(lambda x: x[::-1] * 2, state.params["student"])
    state = state.replace(memory={"previous": previous})
    after, metrics = step(state, FROZEN, {"labelled": batch})
    return state, after, {n: float(t / c) for n, (t, c) in metrics.items()}, logits(previous)


def test_data_partition_follows_the_teacher_only_where_it_is_surer_of_the_label():
    state, after, metrics, before = generations(methods.data_partition(temperature=2.0))
    teacher = logits(FROZEN["teacher"], "teacher")
    rows = jnp.arange(8), LABELLED["label"]
    surer = jax.nn.softmax(teacher)[rows] > jax.nn.softmax(before)[rows]
    assert 0 < int(surer.sum()) < 8  # both cases are in the batch
    target = jnp.where(surer[:, None], teacher, before)

    def loss(params):
        return jnp.mean(divergence(target, logits(params), 2.0))

    np.testing.assert_allclose(metrics["kd"], loss(state.params["student"]), rtol=1e-5)
    gradients = {"student": jax.jit(jax.grad(loss))(state.params["student"])}
    assert_close(after.params["student"], descended(state, gradients)["student"])


def test_data_partition_of_a_student_that_always_knew_better_changes_nothing():
    method = methods.data_partition()
    state, step = prepared(method)
    wrong = jax.tree.map(lambda x: -50 * x, FROZEN["teacher"])
    label = np.asarray(logits(wrong, "teacher").argmin(-1), np.int32)
    after, _ = step(state, {"teacher": wrong}, {"labelled": {**LABELLED, "label": label}})
    assert_close(after.params["student"], state.params["student"], atol=1e-6)


def test_reliable_generation_weighs_by_the_average_precision_of_the_one_before():
    method = methods.reliable_generation(temperature=2.0, weight=0.5, k=2)
    state, _, metrics, before = generations(method)
    ranks = (
        np.asarray(before) > np.asarray(before)[jnp.arange(8), LABELLED["label"]][:, None]
    ).sum(1)
    precision = np.where(ranks == 0, 1.0, np.where(ranks == 1, 0.5, 0.0)).mean()
    own = logits(state.params["student"])
    np.testing.assert_allclose(
        metrics["previous"], precision * jnp.mean(divergence(before, own, 2.0)), rtol=1e-4
    )
