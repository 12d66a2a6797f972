import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

SIZE = 7
COMPILER = {"xla_backend_optimization_level": 0}
RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.standard_normal((SIZE, 5)), RNG.standard_normal((SIZE, 6))
WHERE = np.array([True, False, True, True, False, True, True])
ROTATION = np.linalg.qr(RNG.standard_normal((5, 5)))[0]
OVER_PAIRS = [
    losses.relational_distance,
    losses.relational_angle,
    losses.similarity_preserving,
    losses.probabilistic_affinity,
    losses.correlation_congruence,
    losses.instance_graph_edges,
    losses.instance_graph_transformation,
    losses.neighbour_graph_divergence,
]


def by_name(function):
    return function.__name__


def double(loss, *arrays, **keywords):
    """The loss in float64, compiled without optimisation: compiling is what these tests cost."""
    run = jax.jit(lambda *chosen: loss(*chosen, **keywords), compiler_options=COMPILER)
    with jax.enable_x64(True):
        return np.asarray(run(*(jnp.asarray(x) for x in arrays)))


def huber(x):
    return 0.5 * x**2 if abs(x) <= 1 else abs(x) - 0.5


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def distances(x):
    return np.linalg.norm(x[:, None] - x[None, :], axis=-1)


def with_duplicates(x):
    return np.concatenate([x[:2], x[1:2], x[3:]])


# Restatements in float64 NumPy, by the definitions: loops, differences of rows, no Gram matrix.


def relational_distance(s, t):
    def relative(x):
        d = distances(x)
        return d / np.mean(d[~np.eye(len(x), dtype=bool)])

    differences = relative(s) - relative(t)
    return np.mean(np.vectorize(huber)(differences), axis=1)


def relational_angle(s, t):
    def direction(x, i, j):
        length = np.linalg.norm(x[j] - x[i])
        return (x[j] - x[i]) / length if length > 0 else np.zeros_like(x[i])

    def cosine(x, i, j, k):
        return direction(x, i, j) @ direction(x, i, k)

    values = np.zeros(len(s))
    for i, j, k in itertools.product(range(len(s)), repeat=3):
        values[i] += huber(cosine(s, i, j, k) - cosine(t, i, j, k)) / len(s) ** 2
    return values


def similarity_preserving(s, t):
    return np.mean((unit(s @ s.T) - unit(t @ t.T)) ** 2, axis=1)


def probabilistic_affinity(s, t, epsilon=1e-7):
    def probabilities(x):
        affinities = (1 + unit(x) @ unit(x).T) / 2
        return affinities / affinities.sum(axis=1, keepdims=True)

    q, p = probabilities(s), probabilities(t)
    return np.mean(p * np.log((p + epsilon) / (q + epsilon)), axis=1)


def correlation_congruence(s, t, gamma=0.4, order=2):
    def kernel(x):
        terms = [(2 * gamma) ** p / math.factorial(p) * (x @ x.T) ** p for p in range(order + 1)]
        return np.exp(-2 * gamma) * sum(terms)

    return np.mean((kernel(s) - kernel(t)) ** 2, axis=1)


def instance_graph_edges(s, t):
    d_s, d_t = distances(s) ** 2, distances(t) ** 2
    return np.mean((d_s / d_s.max() - d_t / d_t.max()) ** 2, axis=1)


def instance_graph_transformation(s, t):
    m_s, m_t = np.sum(s**2, axis=1), np.sum(t**2, axis=1)
    return (m_s / m_s.max() - m_t / m_t.max()) ** 2


def neighbour_graph_divergence(s, t, neighbours=8):
    def probabilities(x):
        d, size = distances(x) ** 2, len(x)
        weights = np.zeros((size, size))
        for j in range(size):
            for i in [i for i in np.argsort(d[j]) if i != j][:neighbours]:
                weights[i, j] = np.exp(-d[i, j] / (2 * d.sum() / (size * (size - 1))))
        return np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)

    q, p = probabilities(s), probabilities(t)
    return np.sum(q * np.log(q / p), axis=1)


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_value_is_the_definitions(loss):
    wanted = globals()[loss.__name__](STUDENT, TEACHER)
    np.testing.assert_allclose(double(loss, STUDENT, TEACHER), wanted, rtol=1e-9)


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_masked_batch_is_the_smaller_batch_in_value_and_gradient(loss):
    def value_and_gradient(s, t, where):
        def total(s):
            values = loss(s, t, where=where)
            return jnp.sum(values), values

        gradient, values = jax.grad(total, has_aux=True)(s)
        return jnp.concatenate([values[:, None], gradient], axis=1)

    masked = double(value_and_gradient, STUDENT, TEACHER, WHERE)
    kept = double(functools.partial(value_and_gradient, where=None), STUDENT[WHERE], TEACHER[WHERE])
    wanted = np.zeros((SIZE, 6))
    wanted[WHERE] = kept
    np.testing.assert_allclose(masked, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_rotated_student_has_the_same_relations(loss):
    np.testing.assert_allclose(
        double(loss, STUDENT @ ROTATION, TEACHER), double(loss, STUDENT, TEACHER), rtol=1e-8
    )


SHAPES_ONLY = [f for f in OVER_PAIRS if f is not losses.correlation_congruence]


@pytest.mark.parametrize("loss", SHAPES_ONLY, ids=by_name)
def test_scale_of_the_student_does_not_matter(loss):
    np.testing.assert_allclose(
        double(loss, 30 * STUDENT, TEACHER), double(loss, STUDENT, TEACHER), rtol=1e-8
    )


MOVES_FREELY = [
    losses.relational_distance,
    losses.relational_angle,
    losses.instance_graph_edges,
    losses.neighbour_graph_divergence,
]


@pytest.mark.parametrize("loss", MOVES_FREELY, ids=by_name)
def test_translation_of_the_student_does_not_matter(loss):
    np.testing.assert_allclose(
        double(loss, STUDENT + 3, TEACHER), double(loss, STUDENT, TEACHER), rtol=1e-8
    )


@pytest.mark.parametrize("loss", MOVES_FREELY, ids=by_name)
def test_far_from_the_origin_float32_keeps_the_relations(loss):
    run = jax.jit(loss)
    near = run(jnp.asarray(STUDENT, jnp.float32), jnp.asarray(TEACHER, jnp.float32))
    far = run(jnp.asarray(STUDENT + 100, jnp.float32), jnp.asarray(TEACHER, jnp.float32))
    np.testing.assert_allclose(far, near, atol=2e-4)


@pytest.mark.parametrize("loss", [losses.relational_distance, losses.relational_angle], ids=by_name)
def test_duplicate_rows_have_the_definitions_value_and_a_moderate_gradient(loss):
    student = with_duplicates(STUDENT)
    wanted = globals()[loss.__name__](student, TEACHER)
    np.testing.assert_allclose(double(loss, student, TEACHER), wanted, rtol=1e-9)
    arrays = jnp.asarray(student, jnp.float32), jnp.asarray(TEACHER, jnp.float32)
    gradient = jax.jit(jax.grad(lambda s, t: jnp.mean(loss(s, t))))(*arrays)
    # Implementations that divide by a clamped length give 1e9 and more here.
    assert np.max(np.abs(gradient)) < 0.1


def test_duplicate_rows_count_in_the_mean_distance():
    student = jnp.array([[0.0], [0.0], [1.0]])
    teacher = jnp.array([[0.0], [1.0], [2.0]])
    # Distances 0, 1, 1 over their mean 2/3 against 1, 2, 1 over their mean 4/3.
    pairs = {(0, 1): 0 - 0.75, (0, 2): 1.5 - 1.5, (1, 2): 1.5 - 0.75}
    anchors = [[pairs[tuple(sorted((i, j)))] for j in range(3) if j != i] for i in range(3)]
    wanted = [sum(map(huber, anchor)) / 3 for anchor in anchors]
    np.testing.assert_allclose(losses.relational_distance(student, teacher), wanted, rtol=1e-6)


def test_relational_distance_is_linear_far_from_the_teacher():
    student = np.concatenate([np.zeros((9, 1)), np.ones((1, 1))])
    teacher = RNG.standard_normal((10, 4))
    wanted = relational_distance(student, teacher)
    assert wanted[-1] > 9 * 2 / 10
    np.testing.assert_allclose(double(losses.relational_distance, student, teacher), wanted)


def test_relational_distance_gradient_pulls_the_outlier_back():
    teacher = jnp.asarray(TEACHER[:, :5], jnp.float32)
    outlier = teacher.at[0].multiply(1.5)

    @jax.jit
    def value_and_slope(s):
        return jax.value_and_grad(lambda s: jnp.sum(losses.relational_distance(s, teacher)))(s)

    before, slope = value_and_slope(outlier)
    after, _ = value_and_slope(outlier - 0.05 * slope)
    assert after < before


def test_relational_angle_is_per_vertex():
    # A right angle at the first example only; the teacher's triangle is equilateral.
    student = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    gaps = [0.0 - 0.5, math.sqrt(0.5) - 0.5, math.sqrt(0.5) - 0.5]
    wanted = [2 * huber(gap) / 9 for gap in gaps]
    np.testing.assert_allclose(losses.relational_angle(student, teacher), wanted, rtol=1e-5)


def shapes_inside(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_inside(inner)


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_no_tensor_of_pairwise_difference_vectors(loss):
    def value(s, t):
        return jnp.sum(loss(s, t))

    run = jax.make_jaxpr(jax.value_and_grad(value))(jnp.ones((11, 13)), jnp.ones((11, 13)))
    assert not [shape for shape in shapes_inside(run.jaxpr) if shape == (11, 11, 13)]


def test_similarity_preserving_flattens_maps():
    maps = STUDENT[:6].reshape(6, 1, 5, 1)
    np.testing.assert_allclose(
        double(losses.similarity_preserving, maps, TEACHER[:6]),
        double(losses.similarity_preserving, STUDENT[:6], TEACHER[:6]),
    )


def test_probabilistic_affinity_is_a_divergence():
    assert np.all(double(losses.probabilistic_affinity, STUDENT, TEACHER, epsilon=0.0) > 0)


def test_probabilistic_affinity_without_epsilon_is_infinite_where_the_student_has_none():
    student, teacher = jnp.array([[1.0], [-1.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.all(np.isposinf(losses.probabilistic_affinity(student, teacher, epsilon=0.0)))

    def masked(s):
        where = jnp.array([False, False])
        return jnp.sum(losses.probabilistic_affinity(s, teacher, epsilon=0.0, where=where))

    assert np.all(jax.jit(jax.grad(masked))(student) == 0)


def test_correlation_congruence_tends_to_the_gaussian_kernel():
    s, t = unit(STUDENT), unit(TEACHER)
    gaussian = [np.exp(-0.4 * distances(x) ** 2) for x in (s, t)]
    wanted = np.mean((gaussian[0] - gaussian[1]) ** 2, axis=1)
    far = double(losses.correlation_congruence, s, t, order=12)
    np.testing.assert_allclose(far, wanted, rtol=1e-6)


def test_consecutive_discrepancy_is_the_definitions():
    s, t = STUDENT, TEACHER[:, :5]
    wanted = [sum(abs(s[i] - t[i]) * abs(s[i + 1] - t[i + 1])) for i in range(SIZE - 1)]
    np.testing.assert_allclose(double(losses.consecutive_discrepancy, s, t), wanted)
    alternating = np.where(np.arange(SIZE)[:, None] % 2 == 0, s, t)
    assert np.all(double(losses.consecutive_discrepancy, alternating, t) == 0)


def test_consecutive_discrepancy_masks_pairs():
    s, t = STUDENT, TEACHER[:, :5]
    where = np.arange(SIZE - 1) != 2
    plain = double(losses.consecutive_discrepancy, s, t)
    masked = double(losses.consecutive_discrepancy, s, t, where=where)
    np.testing.assert_array_equal(masked, np.where(where, plain, 0))


def test_neighbour_graph_takes_only_the_nearest():
    wanted = neighbour_graph_divergence(STUDENT, TEACHER, neighbours=2)
    ours = double(losses.neighbour_graph_divergence, STUDENT, TEACHER, neighbours=2)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)
    everyone = neighbour_graph_divergence(STUDENT, TEACHER)
    assert np.max(np.abs(wanted - everyone)) > 1e-3


def tokens(rng, width):
    return rng.standard_normal((3, 4, width))


def test_relation_cosine_is_the_definitions():
    s, t = tokens(RNG, 5), tokens(RNG, 6)
    gram = [np.stack([each @ each.T for each in x]) for x in (s, t)]
    inner = np.sum(gram[0] * gram[1], axis=(1, 2))
    lengths = [np.sqrt(np.sum(each**2, axis=(1, 2))) for each in gram]
    wanted = 1 - inner / (lengths[0] * lengths[1])
    np.testing.assert_allclose(double(losses.relation_cosine, s, t), wanted, rtol=1e-10)
    np.testing.assert_allclose(double(losses.relation_cosine, 9 * s, t), wanted, rtol=1e-10)


def test_contextual_similarity_is_the_definitions():
    s, t = tokens(RNG, 5), tokens(RNG, 6)

    def context(x):
        scores = np.exp(x @ np.swapaxes(x, 1, 2) / np.sqrt(x.shape[-1]))
        return scores / scores.sum(axis=-1, keepdims=True)

    wanted = np.mean((context(s) - context(t)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(double(losses.contextual_similarity, s, t), wanted, rtol=1e-10)


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_batches_that_differ_are_refused(loss):
    with pytest.raises(ValueError, match="student_.* and teacher_.* must agree"):
        loss(jnp.ones((3, 2)), jnp.ones((4, 2)))


@pytest.mark.parametrize("loss", OVER_PAIRS, ids=by_name)
def test_mask_of_another_shape_is_refused(loss):
    with pytest.raises(ValueError, match="where"):
        loss(jnp.ones((3, 2)), jnp.ones((3, 2)), where=jnp.ones(4, bool))


@pytest.mark.parametrize(
    ("loss", "keywords"),
    [
        (losses.probabilistic_affinity, {"epsilon": -1e-3}),
        (losses.correlation_congruence, {"gamma": 0.0}),
        (losses.correlation_congruence, {"order": 0}),
        (losses.correlation_congruence, {"order": 1.5}),
        (losses.neighbour_graph_divergence, {"neighbours": 0}),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(loss, keywords):
    with pytest.raises(ValueError, match=next(iter(keywords))):
        loss(jnp.ones((3, 2)), jnp.ones((3, 2)), **keywords)
