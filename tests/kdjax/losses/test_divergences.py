import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.losses import divergences

RNG = np.random.default_rng(7)
S, T = (2 * RNG.standard_normal((5, 6)) for _ in range(2))
HEAT = 2.0
INF = np.inf


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def kl(p, q):
    """KL(p ‖ q) in float64, class by class."""
    rows = zip(np.atleast_2d(p), np.atleast_2d(q), strict=True)
    return np.array(
        [sum(a * np.log(a / b) for a, b in zip(*row, strict=True) if a) for row in rows]
    )


def adaptive(q, p, head_mass):
    values = []
    for b in range(len(p)):
        order = sorted(range(p.shape[1]), key=lambda c: -p[b, c])
        head = [c for k, c in enumerate(order) if k == 0 or p[b, order[: k + 1]].sum() <= head_mass]
        gap = np.abs(p[b] - q[b])
        share = gap[head].sum() / gap.sum()
        values.append(share * kl(p[b], q[b]) + (1 - share) * kl(q[b], p[b]))
    return np.concatenate(values)


def jensen_shannon(q, p, beta):
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def interpolated(t):
    """The target of TAID from logits, which the loss forms from log-probabilities."""
    return softmax(((1 - t) * S + t * T) / HEAT)


# name -> (hyperparameters, value of the softened distributions q and p).
DEFINITIONS = {
    "softened_kl_divergence": ({}, lambda q, p: kl(p, q)),
    "reverse_kl_divergence": ({}, lambda q, p: kl(q, p)),
    "symmetric_kl_divergence": (
        {"weight": 0.3},
        lambda q, p: 0.7 * kl(p, q) + 0.3 * kl(q, p),
    ),
    "skew_kl_divergence": ({"skew": 0.2}, lambda q, p: kl(p, 0.2 * p + 0.8 * q)),
    "skew_reverse_kl_divergence": ({"skew": 0.2}, lambda q, p: kl(q, 0.2 * q + 0.8 * p)),
    "generalized_jensen_shannon_divergence": (
        {"beta": 0.3},
        lambda q, p: jensen_shannon(q, p, 0.3),
    ),
    "total_variation_distance": ({}, lambda q, p: np.maximum(p - q, 0).sum(-1)),
    "adaptive_kl_divergence": ({"head_mass": 0.6}, lambda q, p: adaptive(q, p, 0.6)),
    "interpolated_kl_divergence": (
        {"interpolation": 0.3},
        lambda q, p: kl(interpolated(0.3), q),
    ),
}
# The hyperparameters at which a divergence is the forward KL, and at which it is the reverse KL.
FORWARD = {
    "symmetric_kl_divergence": {"weight": 0.0},
    "skew_kl_divergence": {"skew": 0.0},
    "generalized_jensen_shannon_divergence": {"beta": 0.0},
    "interpolated_kl_divergence": {"interpolation": 1.0},
}
REVERSE = {
    "symmetric_kl_divergence": {"weight": 1.0},
    "skew_reverse_kl_divergence": {"skew": 0.0},
    "generalized_jensen_shannon_divergence": {"beta": 1.0},
}
BOUNDED = {
    "total_variation_distance": {},
    "generalized_jensen_shannon_divergence": {"beta": 0.5},
    "skew_kl_divergence": {"skew": 0.1},
    "skew_reverse_kl_divergence": {"skew": 0.1},
}


def compute(name, s, t, **keywords):
    s, t = jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32)
    return getattr(losses, name)(s, t, **keywords)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_value_is_the_definition_times_the_squared_temperature(name):
    keywords, definition = DEFINITIONS[name]
    wanted = HEAT**2 * definition(softmax(S / HEAT), softmax(T / HEAT))
    ours = compute(name, S, T, temperature=HEAT, **keywords)
    np.testing.assert_allclose(ours, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_numbers_traced_numbers_and_numbers_of_each_row_agree(name):
    keywords, _ = DEFINITIONS[name]
    plain = compute(name, S, T, temperature=HEAT, **keywords)
    traced = jax.jit(lambda k: compute(name, S, T, **k))({"temperature": HEAT, **keywords})
    rows = {k: jnp.full(5, v) for k, v in {"temperature": HEAT, **keywords}.items()}
    np.testing.assert_allclose(traced, plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compute(name, S, T, **rows), plain, rtol=1e-5, atol=1e-6)


def gradient(name, s, t, **keywords):
    s, t = jnp.asarray(s, jnp.float32), jnp.asarray(t, jnp.float32)
    return jax.grad(lambda x: jnp.sum(getattr(losses, name)(x, t, **keywords)))(s)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("ends", "limit"), [(FORWARD, "softened_kl_divergence"), (REVERSE, "reverse_kl_divergence")]
)
def test_ends_of_a_family_are_the_two_directions(ends, limit, traced):
    for name, keywords in ends.items():
        if traced:
            keywords = {k: jnp.asarray(v) for k, v in keywords.items()}
        ours = compute(name, S, T, **keywords)
        np.testing.assert_allclose(ours, compute(limit, S, T), rtol=1e-5, err_msg=name)
        ours, wanted = gradient(name, S, T, **keywords), gradient(limit, S, T)
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("traced", [False, True])
def test_an_end_that_does_not_apply_brings_no_infinity(traced):
    alone = np.array(T)
    alone[:, 2] = -INF
    cast = jnp.asarray if traced else float
    for name, keyword, at in [
        ("symmetric_kl_divergence", "weight", 0.0),
        ("generalized_jensen_shannon_divergence", "beta", 0.0),
        ("generalized_jensen_shannon_divergence", "beta", 0.4),
    ]:
        value = compute(name, S, alone, **{keyword: cast(at)})
        slope = gradient(name, S, alone, **{keyword: cast(at)})
        assert np.all(np.isfinite(value)), name
        assert np.all(np.isfinite(slope)), name


def test_jensen_shannon_over_its_weight_tends_to_the_kl_of_that_end():
    beta = 1e-3
    near = compute("generalized_jensen_shannon_divergence", S / 4, T / 4, beta=beta) / beta
    np.testing.assert_allclose(near, compute("softened_kl_divergence", S / 4, T / 4), rtol=2e-2)
    near = compute("generalized_jensen_shannon_divergence", S / 4, T / 4, beta=1 - beta) / beta
    np.testing.assert_allclose(near, compute("reverse_kl_divergence", S / 4, T / 4), rtol=2e-2)


def test_exchanging_the_models_exchanges_beta_and_direction():
    ours = compute("generalized_jensen_shannon_divergence", S, T, beta=0.2)
    other = compute("generalized_jensen_shannon_divergence", T, S, beta=0.8)
    np.testing.assert_allclose(ours, other, rtol=1e-5)
    ours = compute("skew_kl_divergence", S, T, skew=0.3)
    np.testing.assert_allclose(
        ours, compute("skew_reverse_kl_divergence", T, S, skew=0.3), rtol=1e-5
    )


@pytest.mark.parametrize("name", BOUNDED)
def test_disjoint_distributions_are_at_the_finite_bound(name):
    bounds = {
        "total_variation_distance": 1.0,
        "generalized_jensen_shannon_divergence": np.log(2),
    }
    s, t = np.array([[0.0, -INF, -INF]]), np.array([[-INF, 0.0, 1.0]])
    value = compute(name, s, t, **BOUNDED[name])
    np.testing.assert_allclose(value, bounds.get(name, np.log(10)), rtol=1e-5)
    assert np.all(np.isfinite(gradient(name, s, t, **BOUNDED[name])))


@pytest.mark.parametrize("name", DEFINITIONS)
def test_class_that_neither_side_has_can_be_left_out(name):
    keywords, _ = DEFINITIONS[name]
    s, t = np.insert(S, 3, -INF, axis=1), np.insert(T, 3, -INF, axis=1)
    with_it, without = compute(name, s, t, **keywords), compute(name, S, T, **keywords)
    np.testing.assert_allclose(with_it, without, rtol=1e-5, atol=1e-6)
    slope = gradient(name, s, t, **keywords)
    assert np.all(slope[:, 3] == 0)
    np.testing.assert_allclose(
        np.delete(slope, 3, axis=1), gradient(name, S, T, **keywords), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", ["softened_kl_divergence", "symmetric_kl_divergence"])
def test_only_the_student_without_a_class_is_infinite_and_can_be_masked(name):
    s = np.array(S)
    s[1, 4] = -INF
    value = compute(name, s, T)
    assert value[1] == INF and np.all(np.isfinite(np.delete(value, 1)))
    where = jnp.arange(5) != 1
    slope = gradient(name, s, T, where=where)
    assert compute(name, s, T, where=where)[1] == 0
    assert np.all(np.isfinite(slope)) and np.all(slope[1] == 0)


@pytest.mark.parametrize("name", ["reverse_kl_divergence", "total_variation_distance"])
def test_student_without_a_class_stays_finite_where_the_definition_does(name):
    s = np.array(S)
    s[1, 4] = -INF
    assert np.all(np.isfinite(compute(name, s, T)))
    assert np.all(np.isfinite(gradient(name, s, T)))


def test_weights_of_the_adaptive_kl_are_constants_for_the_gradient():
    s, t = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32)
    log_q, log_p = jax.nn.log_softmax(s), jax.nn.log_softmax(t)
    share = divergences.head_gap_share(log_q, log_p, head_mass=0.5)
    ours = gradient("adaptive_kl_divergence", S, T)
    forward = gradient("softened_kl_divergence", S, T)
    reverse = gradient("reverse_kl_divergence", S, T)
    wanted = share[:, None] * forward + (1 - share)[:, None] * reverse
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def test_head_of_the_adaptive_kl_always_has_the_top_class():
    log_p, log_q = np.log([[0.9, 0.06, 0.04]]), np.log([[0.5, 0.3, 0.2]])
    share = divergences.head_gap_share(jnp.asarray(log_q), jnp.asarray(log_p), head_mass=0.5)
    np.testing.assert_allclose(share, [0.4 / 0.8], rtol=1e-5)


def test_interpolation_at_zero_teaches_nothing_and_inside_pulls_by_its_share():
    assert np.all(np.abs(compute("interpolated_kl_divergence", S, T, interpolation=0.0)) < 1e-6)
    slope = gradient("interpolated_kl_divergence", S, T, interpolation=0.0)
    assert np.max(np.abs(slope)) < 1e-6
    inside = gradient("interpolated_kl_divergence", S, T, interpolation=0.3, temperature=HEAT)
    wanted = HEAT * (softmax(S / HEAT) - interpolated(0.3))
    np.testing.assert_allclose(inside, wanted, rtol=1e-4, atol=1e-6)


def corrected(p, label, threshold):
    """The teacher's distribution in which the label leads by the threshold, by hand."""
    top = int(np.argmax(p))
    if top != label:
        share = (p[top] - p[label] + threshold) / (1 + p[top] - p[label])
    else:
        share = (min(1, p[label] + threshold) - p[label]) / (1 - p[label])
    result = (1 - share) * p
    result[label] += share
    return result


def test_corrected_teacher_leads_by_the_threshold_and_gives_the_divergence():
    labels = np.array([0, 1, 2, 3, 4])
    labels[0] = np.argmax(T[0])
    p = np.stack([corrected(p, y, 0.2) for p, y in zip(softmax(T / HEAT), labels, strict=True)])
    wrong = np.argmax(T, -1) != labels
    others = p.copy()
    others[np.arange(5), labels] = 0
    lead = p[np.arange(5), labels] - others.max(-1)
    np.testing.assert_allclose(lead[wrong], 0.2, rtol=1e-6)
    assert np.any(wrong) and not np.all(wrong)
    ours = losses.minifinetuning_divergence(
        jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32), labels, temperature=HEAT
    )
    np.testing.assert_allclose(ours, HEAT**2 * kl(p, softmax(S / HEAT)), rtol=2e-5)


def test_corrected_teacher_that_is_sure_of_the_label_becomes_the_label():
    s, t = jnp.array([[0.0, 1.0, 2.0]]), jnp.array([[40.0, 0.0, 0.0]])
    ours = losses.minifinetuning_divergence(s, t, jnp.array([0]))
    np.testing.assert_allclose(ours, -jax.nn.log_softmax(s)[:, 0], rtol=1e-5)
    slope = jax.grad(lambda x: losses.minifinetuning_divergence(s, x, jnp.array([0]))[0])(t)
    assert np.all(np.isfinite(slope))


def test_cosine_of_logits_knows_no_scale():
    ours = compute("logit_cosine_distance", S, T)
    cosine = (S * T).sum(-1) / np.sqrt((S**2).sum(-1) * (T**2).sum(-1))
    np.testing.assert_allclose(ours, 1 - cosine, rtol=1e-5)
    np.testing.assert_allclose(compute("logit_cosine_distance", 5 * S, T / 3), ours, rtol=1e-5)
    np.testing.assert_allclose(compute("logit_cosine_distance", -T, T), 2.0, rtol=1e-6)


def test_mixture_holds_for_weights_at_and_near_the_ends():
    log_a, log_b = jnp.array([-2.0, -INF, -300.0]), jnp.array([-1.0, -3.0, -0.5])
    for weight in (0.0, 1e-30, 0.25, 1.0):
        a, b = np.exp(np.float64(log_a)), np.exp(np.float64(log_b))
        with np.errstate(divide="ignore"):
            wanted = np.log(weight * a + (1 - weight) * b)
        ours = divergences.log_mixture(log_a, log_b, weight=weight)
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "keywords", "said"),
    [
        ("reverse_kl_divergence", {"temperature": 0.0}, "temperature must be above 0"),
        ("symmetric_kl_divergence", {"weight": 1.5}, "weight must be between 0 and 1"),
        ("skew_kl_divergence", {"skew": -0.1}, "skew must be between 0 and 1"),
        ("skew_reverse_kl_divergence", {"skew": 2.0}, "skew must be between 0 and 1"),
        ("generalized_jensen_shannon_divergence", {"beta": 1.1}, "beta must be between 0 and 1"),
        ("adaptive_kl_divergence", {"head_mass": -1.0}, "head_mass must be between 0 and 1"),
        ("interpolated_kl_divergence", {"interpolation": 2.0}, "interpolation must be between"),
    ],
)
def test_hyperparameter_out_of_range_is_refused_by_name(name, keywords, said):
    with pytest.raises(ValueError, match=said):
        compute(name, S, T, **keywords)


def test_shapes_that_differ_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="student_logits .* and teacher_logits .* one shape"):
        compute("reverse_kl_divergence", S, T[:, :-1])
    with pytest.raises(ValueError, match="labels must have shape"):
        compute("minifinetuning_divergence", S, T, labels=jnp.zeros(4, int))
