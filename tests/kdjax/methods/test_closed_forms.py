"""Students without training, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.losses import label_log_probability_error
from kdjax.methods import closed_forms

RNG = np.random.default_rng(0)
X = np.linspace(0, 1, 11)
KERNEL = np.exp(-80 * (X[:, None] - X[None]) ** 2)
LABELS = np.sin(2 * np.pi * X) + 0.3 * RNG.normal(size=11)


def fits(weight, generations):
    targets = closed_forms.repeated_ridge_fits(
        KERNEL, LABELS, regularisation=0.2, label_weight=weight, generations=generations
    )
    return [KERNEL @ closed_forms.ridge_weights(KERNEL, t, 0.2) for t in targets]


def test_repeated_ridge_fits_are_of_the_labels_and_of_the_fit_before():
    first, second, *_ = fits(0.35, 3)
    smoother = KERNEL @ np.linalg.inv(KERNEL + 0.2 * np.eye(11))
    np.testing.assert_allclose(first, smoother @ LABELS, atol=1e-12)
    np.testing.assert_allclose(second, smoother @ (0.35 * LABELS + 0.65 * first), atol=1e-12)


def test_repeated_ridge_fits_end_at_the_first_problem_with_more_regularisation():
    amplified = KERNEL @ closed_forms.ridge_weights(KERNEL, LABELS, 0.2 / 0.35)
    np.testing.assert_allclose(fits(0.35, 300)[-1], amplified, atol=1e-9)


def test_repeated_ridge_fits_without_labels_fall_to_zero():
    norms = [np.linalg.norm(f) for f in fits(0.0, 200)]
    assert (np.diff(norms) < 0).all() and norms[-1] < 1e-3 * norms[0]


def test_best_label_weight_is_the_minimum_of_the_error():
    y, u, v = RNG.normal(size=(3, 40))
    v = u + 0.5 * (y - u) + 0.3 * v  # somewhere between
    a = closed_forms.best_label_weight(y, u, v)
    grid = np.linspace(0, 1, 2001)
    errors = [np.square(y - (s * u + (1 - s) * v)).sum() for s in grid]
    assert a == pytest.approx(grid[np.argmin(errors)], abs=1e-3)
    ends = [closed_forms.best_label_weight(each, u, v) for each in (u, v)]
    assert ends == [1, 0]


def test_tabular_students_of_the_squared_error_end_at_the_table():
    teacher = RNG.dirichlet(np.ones(4), 3)
    counts = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    table = closed_forms.tabular_students(counts, teacher)["squared"]
    np.testing.assert_allclose(table.sum(1), 1)
    np.testing.assert_allclose(table[1], 0.25)
    np.testing.assert_allclose(table[2], teacher[2])
    inputs, labels = (jnp.asarray(x) for x in np.nonzero(counts))
    known = jnp.log(jnp.asarray(teacher, jnp.float32))[inputs, labels]

    def loss(logits):
        return jnp.sum(label_log_probability_error(logits[inputs], known, labels))

    rule = optax.adam(0.05)

    def step(_, held):
        updates, state = rule.update(jax.jit(jax.grad(loss))(held[0]), held[1])
        return optax.apply_updates(held[0], updates), state

    begun = (jnp.zeros((3, 4)), rule.init(jnp.zeros((3, 4))))
    logits, _ = jax.lax.fori_loop(0, 600, step, begun)
    np.testing.assert_allclose(jax.nn.softmax(logits), table, atol=2e-3)


def test_tabular_students_weighted_by_the_teacher_square_it():
    teacher = np.array([[0.5, 0.3, 0.2]])
    counts = np.array([[5000, 3000, 2000]])
    table = closed_forms.tabular_students(counts, teacher)["weighted"]
    np.testing.assert_allclose(table, teacher**2 / (teacher**2).sum(), atol=1e-9)
