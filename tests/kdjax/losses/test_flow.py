"""Flow between layers: values against NumPy in float64, invariances, and derivatives that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from kdjax import losses

RNG = np.random.default_rng(13)
A_S, A_T = (RNG.standard_normal((3, 4, 4, 5)).astype(np.float32) for _ in range(2))
B_S, B_T = (RNG.standard_normal((3, 4, 4, 6)).astype(np.float32) for _ in range(2))
SMALL_S, SMALL_T = (RNG.standard_normal((3, 2, 3, 6)).astype(np.float32) for _ in range(2))


def close(ours, wanted, **tolerance):
    np.testing.assert_allclose(ours, wanted, **({"rtol": 2e-5, "atol": 1e-7} | tolerance))


def test_solution_flow_is_the_squared_distance_of_flow_matrices():
    def flow(a, b):
        return np.einsum("bhwc,bhwd->bcd", a.astype(np.float64), b.astype(np.float64)) / 16

    wanted = ((flow(A_S, B_S) - flow(A_T, B_T)) ** 2).sum((1, 2))
    close(losses.solution_flow(A_S, A_T, B_S, B_T), wanted)


def test_solution_flow_ignores_one_order_of_the_positions_for_both_layers():
    order = RNG.permutation(4)
    close(losses.solution_flow(A_S[:, order], A_S, B_S[:, order], B_S), np.zeros(3), atol=1e-9)


def test_solution_flow_refuses_layers_of_two_sizes():
    with pytest.raises(ValueError, match="student_later_maps"):
        losses.solution_flow(A_S, A_T, SMALL_S, SMALL_T)


def vectors(maps, rank):
    matrix = maps.astype(np.float64).reshape(-1, maps.shape[-1])
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    return rows[:rank], values[:rank] / np.linalg.norm(values[:rank])


@pytest.mark.parametrize("rank", [1, 2])
def test_singular_vector_flow_compares_relations_of_aligned_vectors(rank):
    wanted = []
    for i in range(3):
        sides = []
        for student, teacher in ((A_S, A_T), (SMALL_S, SMALL_T)):
            v_t, scale = vectors(teacher[i], rank)
            v_t = v_t * np.where(v_t.sum(1) < 0, -1, 1)[:, None]
            v_s, _ = vectors(student[i], rank + 3)
            cosines = v_s @ v_t.T
            best = np.abs(cosines).argmax(0)
            v_s = v_s[best] * np.sign(cosines[best, range(rank)])[:, None]
            sides.append((v_s * scale[:, None], v_t * scale[:, None]))
        relations = [
            np.exp(-((sides[1][k][:, :, None] - sides[0][k][:, None, :]) ** 2) / 8) for k in (0, 1)
        ]
        wanted.append(((relations[0] - relations[1]) ** 2).sum())
    close(losses.singular_vector_flow(A_S, A_T, SMALL_S, SMALL_T, rank=rank), wanted, rtol=1e-4)


def test_singular_vector_flow_ignores_sign_and_scale_of_every_map():
    ours = losses.singular_vector_flow(-3 * A_S, 1e3 * A_T, 1e-3 * SMALL_S, -SMALL_T)
    close(ours, losses.singular_vector_flow(A_S, A_T, SMALL_S, SMALL_T), rtol=1e-4)


def test_map_of_zeros_has_no_singular_vectors():
    def first(maps):
        v = vectors(maps, 1)[0][0]
        return v * (-1 if v.sum() < 0 else 1)

    # The student equals the teacher at the later layer and is zero at the earlier one.
    value = losses.singular_vector_flow(0 * A_S, A_T, SMALL_T, SMALL_T)
    later, earlier = np.stack([first(x) for x in SMALL_T]), np.stack([first(x) for x in A_T])
    relations = [
        np.exp(-((later[:, :, None] - x[:, None, :]) ** 2) / 8) for x in (0 * earlier, earlier)
    ]
    close(value, ((relations[0] - relations[1]) ** 2).sum((1, 2)), rtol=1e-4)


def test_derivative_of_singular_vectors_is_the_derivative():
    with jax.enable_x64(True):
        maps = [jnp.asarray(x[:1], jnp.float64) for x in (A_S, A_T, SMALL_S, SMALL_T)]

        @jax.jit
        def total(*maps):
            return losses.singular_vector_flow(*maps, rank=2).sum()

        test_util.check_grads(total, maps, order=1, modes="rev", rtol=1e-5, atol=1e-7)


def test_equal_singular_values_give_a_finite_gradient():
    orthogonal = np.linalg.qr(RNG.standard_normal((16, 5)))[0].reshape(1, 4, 4, 5)
    orthogonal = orthogonal.astype(np.float32)

    def total(s):
        return losses.singular_vector_flow(s, A_T[:1], B_S[:1], B_T[:1], rank=2).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.asarray(orthogonal))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_rank_beyond_the_channels_is_refused():
    with pytest.raises(ValueError, match="rank must be between 1 and 5"):
        losses.singular_vector_flow(A_S, A_T, B_S, B_T, rank=6)
    with pytest.raises(ValueError, match="one batch size"):
        losses.singular_vector_flow(A_S, A_T, B_S[:2], B_T[:2])
