import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded import RNG, SIZE, TAU, WHERE, S, T, U, V, cos, double, kl, softmax, unit

from kdjax import losses
from kdjax.losses import contrastive

LABELS = np.array([0, 1, 0, 2, 1, 0])
OWNERS = np.array([0, 0, 1, 1, 2, 2])
PROBABILITIES = RNG.dirichlet(np.ones(3), SIZE)


# Restatements in float64 NumPy, one anchor at a time.


def info_nce(s, t):
    chances = [softmax(np.array([cos(a, b) for b in t]) / TAU) for a in s]
    return np.array([-np.log(p[i]) for i, p in enumerate(chances)])


def symmetric_info_nce(s, t):
    return (info_nce(s, t) + info_nce(t, s)) / 2


def two_view_contrast(s, t):
    views, size = np.concatenate([s, t]), len(s)

    def one(a, b):
        others = [c for c in range(2 * size) if c != a]
        chances = softmax(np.array([cos(views[a], views[c]) for c in others]) / TAU)
        return -np.log(chances[others.index(b)])

    return np.array([(one(i, i + size) + one(i + size, i)) / 2 for i in range(size)])


def weighted(s, weight):
    values = np.zeros(len(s))
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        chances = softmax(np.array([cos(s[i], s[j]) for j in others]) / TAU)
        weights = np.array([weight(i, j) for j in others], float)
        if weights.sum() > 0:
            values[i] = -np.sum(weights * np.log(chances)) / weights.sum()
    return values


def supervised_contrast(s, labels):
    return weighted(s, lambda i, j: labels[i] == labels[j])


def soft_supervised_contrast(s, y):
    return weighted(s, lambda i, j: y[i] @ y[j])


def categorised_contrast(s, t, categories, owners):
    values = []
    for a in range(len(s)):
        negatives = [
            b for b in range(len(s)) if categories[b] == categories[a] and owners[b] != owners[a]
        ]
        chances = softmax(np.array([cos(s[a], t[b]) for b in [a, *negatives]]) / TAU)
        values.append(-np.log(chances[0]))
    return np.array(values)


def neighbour_similarity(s, t):
    values = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        q, p = (softmax(np.array([cos(x[i], x[j]) for j in others]) / TAU) for x in (s, t))
        values.append(kl(p, q))
    return np.array(values)


def cross_modal_affinity(u_s, u_t, v_s, v_t):
    def both(u, v):
        cosines = unit(u) @ unit(v).T / TAU
        return softmax(cosines), softmax(cosines.T)

    (q, q_back), (p, p_back) = both(u_s, v_s), both(u_t, v_t)
    return (kl(p, q) + kl(p_back, q_back)) / 2


TWO_TEMPERATURES = {"student_temperature": TAU, "teacher_temperature": TAU}
IN_BATCH = [
    (losses.info_nce, (S, T), {"temperature": TAU}),
    (losses.symmetric_info_nce, (S, T), {"temperature": TAU}),
    (losses.two_view_contrast, (S, T), {"temperature": TAU}),
    (losses.supervised_contrast, (S, LABELS), {"temperature": TAU}),
    (losses.soft_supervised_contrast, (S, PROBABILITIES), {"temperature": TAU}),
    (losses.categorised_contrast, (S, T, LABELS % 2, OWNERS), {"temperature": TAU}),
    (losses.neighbour_similarity, (S, T), TWO_TEMPERATURES),
    (losses.cross_modal_affinity, (S, T, U, V), TWO_TEMPERATURES),
]
NAMES = [loss.__name__ for loss, _, _ in IN_BATCH]


@pytest.mark.parametrize(("loss", "arrays", "keywords"), IN_BATCH, ids=NAMES)
def test_value_is_the_definitions(loss, arrays, keywords):
    wanted = globals()[loss.__name__](*arrays)
    np.testing.assert_allclose(double(loss, *arrays, **keywords), wanted, rtol=1e-10)


@pytest.mark.parametrize(("loss", "arrays", "keywords"), IN_BATCH, ids=NAMES)
def test_masked_batch_is_the_smaller_batch_in_value_and_gradient(loss, arrays, keywords):
    def value_and_gradient(where, *chosen):
        def total(s):
            values = loss(s, *chosen[1:], **keywords, where=where)
            return jnp.sum(values), values

        gradient, values = jax.grad(total, has_aux=True)(chosen[0])
        return jnp.concatenate([values[:, None], gradient], axis=1)

    masked = double(value_and_gradient, WHERE, *arrays)
    kept = double(functools.partial(value_and_gradient, None), *(x[WHERE] for x in arrays))
    wanted = np.zeros((SIZE, 5))
    wanted[WHERE] = kept
    np.testing.assert_allclose(masked, wanted, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("loss", "arrays", "keywords"), IN_BATCH, ids=NAMES)
def test_length_of_the_embeddings_does_not_matter(loss, arrays, keywords):
    lengths = RNG.uniform(0.1, 10, (SIZE, 1))
    np.testing.assert_allclose(
        double(loss, arrays[0] * lengths, *arrays[1:], **keywords),
        double(loss, *arrays, **keywords),
        rtol=1e-10,
    )


def test_info_nce_of_uninformed_embeddings_is_the_log_of_the_batch_size():
    np.testing.assert_allclose(double(losses.info_nce, np.zeros((5, 3)), T[:5, :3]), np.log(5))


def test_info_nce_is_least_at_its_own_teacher():
    own = double(losses.info_nce, T, T)
    assert np.all(own < double(losses.info_nce, np.roll(T, 1, axis=0), T))
    assert np.all(double(losses.info_nce, T, T, temperature=1e-3) < 1e-12)


def test_symmetric_info_nce_does_not_know_the_sides():
    np.testing.assert_allclose(
        double(losses.symmetric_info_nce, S, T), double(losses.symmetric_info_nce, T, S)
    )


def test_soft_classes_that_are_certain_are_classes():
    np.testing.assert_allclose(
        double(losses.soft_supervised_contrast, S, np.eye(3)[LABELS]),
        double(losses.supervised_contrast, S, LABELS),
    )


def test_one_category_and_own_examples_are_info_nce():
    np.testing.assert_allclose(
        double(losses.categorised_contrast, S, T, 0 * LABELS, np.arange(SIZE), temperature=TAU),
        double(losses.info_nce, S, T, temperature=TAU),
    )


def test_candidate_contrast_is_the_definitions():
    candidates, positives = U[:3], LABELS
    chances = [softmax(np.array([cos(a, c) for c in candidates]) / TAU) for a in S]
    wanted = [-np.log(p[k]) for p, k in zip(chances, positives, strict=True)]
    ours = double(losses.candidate_contrast, S, candidates, positives, temperature=TAU)
    np.testing.assert_allclose(ours, wanted)


def test_noise_contrastive_estimation_is_the_definitions():
    anchors, candidates = unit(S), unit(RNG.standard_normal((SIZE, 4, 4)))
    population, normaliser, negatives = 20, 30.0, 3
    p = np.exp(np.einsum("bd,bkd->bk", anchors, candidates) / TAU) / normaliser
    noise = negatives / population
    wanted = -np.log(p[:, 0] / (p[:, 0] + noise))
    wanted -= np.sum(np.log(noise / (p[:, 1:] + noise)), axis=1)
    ours = double(
        losses.noise_contrastive_estimation,
        anchors,
        candidates,
        population=population,
        log_normaliser=np.log(normaliser),
        temperature=TAU,
    )
    np.testing.assert_allclose(ours, wanted)


def test_noise_contrastive_estimation_pulls_to_its_own_and_pushes_from_the_drawn():
    candidates = jnp.eye(3)[None]
    gradient = jax.grad(
        lambda s: jnp.sum(
            losses.noise_contrastive_estimation(s, candidates, population=9, log_normaliser=1.0)
        )
    )(jnp.full((1, 3), 0.1))
    assert gradient[0, 0] < 0 < gradient[0, 1] == gradient[0, 2]


def test_transport_of_separated_batches_finds_the_matching():
    order = np.array([2, 0, 1, 3])
    rows = np.eye(4)
    near = double(losses.transported_cost, rows, rows[order], epsilon=0.02)
    assert np.all(near < 1e-12)
    wanted = double(losses.transported_cost, rows, -rows[order], epsilon=0.02)
    # Every row is orthogonal to three and opposite to one, which no plan needs to use.
    np.testing.assert_allclose(wanted, 1, atol=1e-12)


def test_transport_plan_has_uniform_marginals_and_a_cost_between_the_extremes():
    cost = 1 - unit(S) @ unit(T).T
    plan = double(lambda c: contrastive._transport_plan(c, jnp.ones(SIZE, bool), 0.3, 200), cost)
    np.testing.assert_allclose(np.sum(plan, axis=0), 1, rtol=1e-9)
    np.testing.assert_allclose(np.sum(plan, axis=1), 1, rtol=1e-9)
    value = np.mean(double(losses.transported_cost, S, T, epsilon=0.3, iterations=200))
    np.testing.assert_allclose(value, np.sum(plan * cost) / SIZE)
    loose = np.mean(double(losses.transported_cost, S, T, epsilon=1e4))
    np.testing.assert_allclose(loose, np.mean(cost), rtol=1e-3)
    assert value < loose


def test_transport_of_a_masked_batch_is_that_of_the_smaller_batch():
    masked = double(losses.transported_cost, S, T, where=WHERE)
    wanted = np.zeros(SIZE)
    wanted[WHERE] = double(losses.transported_cost, S[WHERE], T[WHERE])
    np.testing.assert_allclose(masked, wanted, rtol=1e-9)


def test_gradient_of_transport_holds_the_plan():
    cost = 1 - unit(S) @ unit(T).T
    plan = double(lambda c: contrastive._transport_plan(c, jnp.ones(SIZE, bool), 0.1, 50), cost)

    def with_plan(s):
        cosines = (s / jnp.linalg.norm(s, axis=1, keepdims=True)) @ unit(T).T
        return jnp.sum(plan * (1 - cosines))

    ours = double(jax.grad(lambda s, t: jnp.sum(losses.transported_cost(s, t))), S, T)
    np.testing.assert_allclose(ours, double(jax.grad(with_plan), S), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "keywords"),
    [
        (losses.info_nce, {"temperature": 0.0}),
        (losses.symmetric_info_nce, {"temperature": -1.0}),
        (losses.two_view_contrast, {"temperature": 0.0}),
        (losses.transported_cost, {"epsilon": 0.0}),
        (losses.transported_cost, {"iterations": 0}),
        (losses.neighbour_similarity, {"student_temperature": 0.0}),
        (losses.neighbour_similarity, {"teacher_temperature": 0.0}),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(loss, keywords):
    with pytest.raises(ValueError, match=next(iter(keywords))):
        loss(jnp.asarray(S), jnp.asarray(T), **keywords)


def test_widths_that_differ_are_refused_by_name():
    with pytest.raises(ValueError, match="teacher_candidates"):
        losses.noise_contrastive_estimation(
            jnp.ones((2, 3)), jnp.ones((2, 5, 2)), population=9, log_normaliser=0.0
        )
    with pytest.raises(TypeError, match="labels must be integers"):
        losses.supervised_contrast(jnp.ones((2, 3)), jnp.ones(2))
