import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.losses import sparse

RNG = np.random.default_rng(11)
ROWS, CLASSES, K = 4, 7, 3
S, T = (2 * RNG.standard_normal((ROWS, CLASSES)) for _ in range(2))
BEST = np.argsort(-T, axis=1)[:, :K]
HEAT = 2.0
DENSE = {
    "top_k_kl_divergence": "softened_kl_divergence",
    "top_k_jensen_shannon_divergence": "generalized_jensen_shannon_divergence",
    "top_k_total_variation_distance": "total_variation_distance",
}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def top(t=T, best=BEST):
    with np.errstate(divide="ignore"):
        log_p = np.log(softmax(t))
    return jnp.asarray(np.take_along_axis(log_p, best, 1), jnp.float32), jnp.asarray(best)


def compute(name, s=S, log_p=None, classes=None, **keywords):
    if log_p is None:
        log_p, classes = top()
    return getattr(losses, name)(jnp.asarray(s, jnp.float32), log_p, classes, **keywords)


def bucketed(heat, tail):
    """(q, p) `[ROWS, K + 1]` in float64, row by row."""
    q, p = [], []
    for b in range(ROWS):
        student = softmax(S[b] / heat)
        chosen = [student[c] for c in BEST[b]]
        q.append([*chosen, 1 - sum(chosen)])
        teacher = softmax(T[b])
        chosen = [teacher[c] for c in BEST[b]]
        left = 1 - sum(chosen) if tail else 0.0
        warm = np.array([*chosen, left]) ** (1 / heat)
        p.append(warm / warm.sum())
    return np.array(q), np.array(p)


def xlogy(p, ratio):
    return np.where(p > 0, p * np.log(np.where(p > 0, ratio, 1)), 0).sum(-1)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("name", DENSE)
def test_value_is_the_definition_over_buckets(name, tail):
    q, p = bucketed(HEAT, tail)
    m = (q + p) / 2
    wanted = {
        "top_k_kl_divergence": xlogy(p, p / q),
        "top_k_jensen_shannon_divergence": (xlogy(p, p / m) + xlogy(q, q / m)) / 2,
        "top_k_total_variation_distance": np.abs(p - q).sum(-1) / 2,
    }[name]
    ours = compute(name, temperature=HEAT, tail=tail)
    np.testing.assert_allclose(ours, HEAT**2 * wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("name", DENSE)
def test_all_classes_give_the_dense_divergence(name, tail):
    log_p, classes = top(best=np.argsort(-T, axis=1))
    ours = compute(name, S, log_p, classes, temperature=HEAT, tail=tail)
    dense = getattr(losses, DENSE[name])(
        jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32), temperature=HEAT
    )
    np.testing.assert_allclose(ours, dense, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_merging_the_rest_never_raises_the_divergence(name):
    dense = getattr(losses, DENSE[name])(jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32))
    ours = compute(name)
    assert np.all(ours <= dense + 1e-6) and np.any(ours < dense - 1e-3)


def test_buckets_of_both_sides_sum_to_one():
    log_p, classes = top()
    for tail in (True, False):
        sides = sparse.top_k_buckets(
            jnp.asarray(S, jnp.float32), log_p, classes, temperature=HEAT, tail=tail
        )
        for side in sides:
            np.testing.assert_allclose(jnp.sum(jnp.exp(side), -1), 1, rtol=1e-5)
    assert np.all(sides[1][:, -1] == -np.inf)


def test_gradient_reaches_the_classes_outside_through_the_tail():
    log_p, classes = top()
    slope = jax.grad(lambda s: jnp.sum(losses.top_k_kl_divergence(s, log_p, classes)))(
        jnp.asarray(S, jnp.float32)
    )
    q, (_, p) = softmax(S), bucketed(1.0, True)
    outside = np.ones((ROWS, CLASSES), bool)
    np.put_along_axis(outside, BEST, False, axis=1)
    rest = np.where(outside, q, 0)
    wanted = q - np.where(outside, p[:, -1:] * rest / rest.sum(-1, keepdims=True), 0)
    for b in range(ROWS):
        wanted[b, BEST[b]] -= p[b, :K]
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-6)


def test_rounding_of_a_full_top_meets_no_forbidden_class():
    s = np.array(S)
    outside = np.ones((ROWS, CLASSES), bool)
    np.put_along_axis(outside, BEST, False, axis=1)
    s[outside] = -np.inf
    sure = np.where(outside, -np.inf, T)
    log_p, classes = top(sure)
    log_p = log_p - 4e-7
    assert np.all(1 - np.sum(np.exp(log_p), -1) > 0)
    for name in DENSE:
        value, slope = jax.value_and_grad(
            lambda x, name=name: jnp.sum(compute(name, x, log_p, classes))
        )(jnp.asarray(s, jnp.float32))
        assert np.isfinite(value) and np.all(np.isfinite(slope)), name


def test_student_without_the_teachers_class_is_infinite_and_can_be_masked():
    s = np.array(S)
    s[1, BEST[1, 0]] = -np.inf
    value = compute("top_k_kl_divergence", s)
    assert value[1] == np.inf and np.all(np.isfinite(np.delete(value, 1)))
    where = jnp.arange(ROWS) != 1
    slope = jax.grad(lambda x: jnp.sum(compute("top_k_kl_divergence", x, where=where)))(
        jnp.asarray(s, jnp.float32)
    )
    assert np.all(np.isfinite(slope)) and np.all(slope[1] == 0)
    for name in ("top_k_jensen_shannon_divergence", "top_k_total_variation_distance"):
        assert np.all(np.isfinite(compute(name, s))), name


@pytest.mark.parametrize(
    "name", [*DENSE, "renormalized_top_k_kl_divergence", "ranking_hinge", "logistic_ranking"]
)
def test_unused_slot_carries_nothing_whatever_class_it_names(name):
    log_p, classes = top()
    padded = jnp.concatenate([log_p, jnp.full((ROWS, 1), -jnp.inf)], axis=1)
    for spare in (classes[:, :1], jnp.argmin(jnp.asarray(T), axis=1)[:, None]):
        ours = compute(name, S, padded, jnp.concatenate([classes, spare], axis=1))
        np.testing.assert_allclose(ours, compute(name), rtol=1e-5)


def test_renormalised_form_is_the_kl_of_what_was_chosen():
    q = softmax(np.take_along_axis(S, BEST, 1) / HEAT)
    p = softmax(np.take_along_axis(T, BEST, 1) / HEAT)
    wanted = HEAT**2 * xlogy(p, p / q)
    np.testing.assert_allclose(
        compute("renormalized_top_k_kl_divergence", temperature=HEAT), wanted, rtol=2e-5
    )


def pairs():
    """Per row, the (class, class) that the teacher orders."""
    return [[(k, m) for i, k in enumerate(row) for m in row[i + 1 :]] for row in BEST]


@pytest.mark.parametrize("margin", [None, 0.3])
def test_hinge_is_the_mean_of_missed_margins(margin):
    q, p = softmax(S), softmax(T)
    wanted = [
        np.mean([max(0, (margin or p[b, k] - p[b, m]) - (q[b, k] - q[b, m])) for k, m in row])
        for b, row in enumerate(pairs())
    ]
    np.testing.assert_allclose(
        compute("ranking_hinge", margin=margin), wanted, rtol=1e-5, atol=1e-6
    )


def test_logistic_ranking_is_the_mean_over_ordered_pairs():
    wanted = [
        np.mean([np.log1p(np.exp(S[b, m] - S[b, k])) for k, m in row])
        for b, row in enumerate(pairs())
    ]
    np.testing.assert_allclose(compute("logistic_ranking"), wanted, rtol=1e-5)


def test_logistic_ranking_of_two_forbidden_classes_is_not_nan():
    s = np.array(S)
    s[0, BEST[0, :2]] = -np.inf
    log_p, classes = top()
    value, slope = jax.value_and_grad(
        lambda x: jnp.sum(losses.logistic_ranking(x, log_p, classes, where=jnp.arange(ROWS) > 0))
    )(jnp.asarray(s, jnp.float32))
    assert np.isfinite(value) and np.all(np.isfinite(slope))
    assert compute("logistic_ranking", s)[0] == np.inf


def test_rankings_of_a_student_in_the_teachers_order_are_small():
    assert np.all(compute("ranking_hinge", T) < 1e-6)
    assert np.all(compute("logistic_ranking", T) < compute("logistic_ranking", -T))


def test_bad_input_is_refused_by_name():
    log_p, classes = top()
    with pytest.raises(ValueError, match="teacher_log_probs .* student_logits"):
        compute("top_k_kl_divergence", S[:, :2], log_p, classes)
    with pytest.raises(TypeError, match="classes must be integers"):
        compute("top_k_kl_divergence", S, log_p, log_p)
    with pytest.raises(ValueError, match="classes must have shape"):
        compute("ranking_hinge", S, log_p, classes[:, :1])
    with pytest.raises(ValueError, match="margin must be at least 0"):
        compute("ranking_hinge", margin=-1.0)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        compute("top_k_total_variation_distance", temperature=-1.0)
