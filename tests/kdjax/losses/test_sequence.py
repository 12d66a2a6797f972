import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.losses import sequence

RNG = np.random.default_rng(17)
B, L, V = 3, 4, 5
S, T, N = (2 * RNG.standard_normal((B, L, V)) for _ in range(3))
TOKENS = RNG.integers(0, V, (B, L))
WHERE = np.array([[True, True, False, False], [True, True, True, True], [False, True, True, False]])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def kl(p, q):
    return (p * np.log(p / q)).sum(-1)


def single(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def taken(x):
    return np.take_along_axis(np.log(softmax(x)), TOKENS[..., None], -1)[..., 0]


def test_token_likelihood_is_the_log_probability_of_the_token():
    ours = losses.token_negative_log_likelihood(*single(S), TOKENS, where=jnp.asarray(WHERE))
    np.testing.assert_allclose(ours, np.where(WHERE, -taken(S), 0), rtol=1e-5)


def test_weighted_likelihood_sums_tokens_and_drops_a_sequence_of_weight_zero():
    weights = np.array([0.5, 0.0, 2.0])
    s = np.array(S)
    s[1, 0, TOKENS[1, 0]] = -np.inf
    ours = losses.weighted_negative_log_likelihood(
        *single(s), TOKENS, *single(weights), where=jnp.asarray(WHERE)
    )
    wanted = [0.5 * -taken(S)[0, :2].sum(), 0.0, 2 * -taken(S)[2, 1:3].sum()]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def test_policy_gradient_follows_the_clipped_surrogate():
    log_b = -RNG.uniform(1, 2, 8)
    log_q = log_b + np.log([0.5, 0.5, 0.9, 0.9, 1.1, 1.1, 3.0, 3.0])
    advantages = np.array([1.0, -1.0] * 4)
    ours = losses.clipped_policy_gradient(*single(log_q, log_b, advantages))
    np.testing.assert_allclose(ours, [-0.5, 0.8, -0.9, 0.9, -1.1, 1.1, -1.2, 3.0], rtol=1e-5)
    slope = jax.grad(
        lambda q: jnp.sum(losses.clipped_policy_gradient(q, *single(log_b, advantages)))
    )(*single(log_q))
    np.testing.assert_allclose(
        slope, [-0.5, 0.0, -0.9, 0.9, -1.1, 1.1, 0.0, 3.0], rtol=1e-5, atol=1e-6
    )


def test_policy_gradient_of_the_sampling_policy_is_the_score_times_the_advantage():
    log_q, advantages = single(-RNG.uniform(0, 3, 6), RNG.standard_normal(6))
    slope = jax.grad(lambda q: jnp.sum(losses.clipped_policy_gradient(q, log_q, advantages)))(log_q)
    np.testing.assert_allclose(slope, -advantages, rtol=1e-5)


def test_policy_gradient_stays_finite_for_a_ratio_beyond_float32():
    value, slope = jax.value_and_grad(
        lambda q: jnp.sum(losses.clipped_policy_gradient(q, *single([-4e3, -4e3], [0.0, -1.0])))
    )(jnp.zeros(2))
    assert np.isfinite(value) and np.all(np.isfinite(slope))


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_are_discounted_sums_of_what_follows(discount):
    rewards = np.where(WHERE, taken(T) - taken(S), 0)
    wanted = [
        [sum(discount ** (i - k) * rewards[b, i] for i in range(k, L)) for k in range(L)]
        for b in range(B)
    ]
    ours = sequence.reverse_kl_returns(
        *single(taken(S), taken(T)), discount=discount, where=jnp.asarray(WHERE)
    )
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def test_length_normalisation_divides_by_the_tokens_that_remain():
    ours = sequence.per_remaining_token(jnp.ones((B, L)), where=jnp.asarray(WHERE))
    wanted = [[1 / 2, 1, 0, 0], [1 / 4, 1 / 3, 1 / 2, 1], [1 / 2, 1 / 2, 1, 0]]
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def test_mean_of_the_policy_gradient_over_all_tokens_is_the_reverse_kl_gradient():
    (s, t) = single(S[0, :1], T[0, :1])

    def expected(x):
        log_q, log_p = jax.nn.log_softmax(x[0]), jax.nn.log_softmax(t[0])
        sampled = jax.lax.stop_gradient(log_q)
        returns = sequence.reverse_kl_returns(sampled[:, None], log_p[:, None])
        losses_ = losses.clipped_policy_gradient(log_q[:, None], sampled[:, None], returns)
        return jnp.sum(jnp.exp(sampled) * losses_[:, 0])

    exact = jax.grad(lambda x: jnp.sum(losses.reverse_kl_divergence(x, t)))(s)
    np.testing.assert_allclose(jax.grad(expected)(s), exact, rtol=1e-4, atol=1e-6)


def test_preference_is_the_logistic_loss_of_the_relative_margin():
    s, r = RNG.standard_normal((2, 4, 2))
    margin = (s[:, 0] - s[:, 1]) - (r[:, 0] - r[:, 1])
    ours = losses.direct_preference(*single(s, r), scale=0.5)
    np.testing.assert_allclose(ours, np.log1p(np.exp(-0.5 * margin)), rtol=1e-5)
    np.testing.assert_allclose(losses.direct_preference(*single(r, r)), np.log(2), rtol=1e-6)


def test_candidate_ranking_sums_over_pairs_in_the_teachers_order():
    f, ranks = RNG.standard_normal((2, 3, 4))
    wanted = []
    for b in range(3):
        g = f[b][np.argsort(-ranks[b])]
        wanted.append(
            sum(
                max(0, g[j] - g[i] + 0.3 * np.log(2 * (j - i)))
                for i in range(4)
                for j in range(i + 1, 4)
            )
        )
    ours = losses.candidate_ranking(*single(f, ranks), margin=0.3)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    far = losses.candidate_ranking(*single(100 * ranks, ranks), margin=0.3)
    assert np.all(np.asarray(far) <= np.asarray(wanted))


def blended(a=0.5):
    return a * np.eye(V)[TOKENS] + (1 - a) * softmax(T)


def test_easy_tokens_have_the_blended_divergence_and_hard_ones_a_part_of_it():
    q, r = softmax(S), blended()
    d = kl(r, q)
    threshold = np.median(d)
    w = (d / (1 + d))[..., None]
    wanted = np.where(d > threshold, kl((1 - w) * q + w * r, q), d)
    ours = losses.self_evolution_divergence(*single(S, T), TOKENS, threshold=float(threshold))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4)
    np.testing.assert_allclose(losses.blended_divergence(*single(S, T), TOKENS), d, rtol=1e-5)
    slope = jax.grad(
        lambda x: jnp.sum(
            losses.self_evolution_divergence(x, *single(T), TOKENS, threshold=float(threshold))
        )
    )(*single(S))
    scale = np.where((d > threshold)[..., None], w, 1)
    np.testing.assert_allclose(slope, scale * (q - r), rtol=1e-4, atol=1e-6)


def test_blend_runs_from_the_teacher_to_the_label():
    plain = losses.blended_divergence(*single(S, T), TOKENS, truth_weight=0.0)
    np.testing.assert_allclose(plain, losses.softened_kl_divergence(*single(S, T)), rtol=1e-5)
    label = losses.blended_divergence(*single(S, T), TOKENS, truth_weight=1.0)
    np.testing.assert_allclose(label, -taken(S), rtol=1e-5)


def test_label_that_the_student_forbids_is_infinite_and_not_nan():
    s = np.array(S)
    s[0, 0, TOKENS[0, 0]] = -np.inf
    value = losses.self_evolution_divergence(*single(s, T), TOKENS, threshold=1.0)
    assert value[0, 0] == np.inf and np.sum(~np.isfinite(value)) == 1


def test_negative_calibration_weights_each_sequence_by_how_far_the_mistakes_are():
    heat = 2.0
    q, p, n = (softmax(x / heat) for x in (S, T, N))
    wanted = [
        heat**2 * (0.5 + np.tanh(kl(n[b], p[b])[WHERE[b]].mean())) * kl(p[b], q[b])[WHERE[b]].mean()
        for b in range(B)
    ]
    where = jnp.asarray(WHERE)
    ours = losses.negative_calibrated_divergence(*single(S, T, N), temperature=heat, where=where)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


def test_mistakes_that_the_teacher_forbids_count_fully():
    t = np.array(T)
    t[:, :, 1] = -np.inf
    s = np.where(np.isinf(t), -np.inf, S)

    def total(*logits):
        return jnp.sum(losses.negative_calibrated_divergence(*logits))

    value, slopes = jax.value_and_grad(total, argnums=(0, 1, 2))(*single(s, t, N))
    plain = jnp.sum(sequence.mean_over_tokens(losses.softened_kl_divergence(*single(s, t))))
    np.testing.assert_allclose(value, 1.5 * plain, rtol=1e-5)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)


def test_skew_adapts_to_how_far_an_answer_is_and_stays_in_its_range():
    p, q = np.array([0.5, 0.31, 0.25, 0.2]), np.full(4, 0.2)
    wanted = [0.1, 0.1, 0.01, 0.1]
    np.testing.assert_allclose(
        sequence.adaptive_skew(*single(q, p), mean_gap=0.1), wanted, rtol=1e-5
    )
    near = sequence.adaptive_skew(*single(q, q + 0.095), mean_gap=0.1)
    np.testing.assert_allclose(near, 1 - 0.9 * 0.1 / 0.095, rtol=1e-4)


def run_taid(values, **keywords):
    states = [sequence.taid_start()]
    for step, value in enumerate(values):
        states.append(sequence.taid_update(states[-1], value, step / 100, **keywords))
    return states[1:]


def test_taid_records_its_first_loss_and_then_follows_its_recurrence():
    values, t, m = [3.0, 2.0, 2.5, 1.0], 0.4, 0.0
    states = run_taid(values, rate=0.1, smoothing=0.5)
    assert float(states[0].interpolation) == pytest.approx(0.4) and float(states[0].momentum) == 0
    for step in range(1, 4):
        m = 0.5 * m + 0.5 * (values[step - 1] - values[step]) / values[step - 1]
        t = min(1.0, max(0.4 + 0.6 * step / 100, t + 0.1 / (1 + np.exp(-m)) * (1 - t)))
        np.testing.assert_allclose(states[step].interpolation, t, rtol=1e-5)
        np.testing.assert_allclose(states[step].momentum, m, rtol=1e-5)


def test_taid_is_linear_without_a_rate_and_never_passes_its_end():
    linear = run_taid([1.0] * 5, rate=0.0)
    np.testing.assert_allclose(
        [float(x.interpolation) for x in linear], 0.4 + 0.006 * np.arange(5), rtol=1e-5
    )
    fast = run_taid(2.0 ** -np.arange(20.0), rate=3.0, smoothing=0.1, end=0.9)
    assert max(float(x.interpolation) for x in fast) == pytest.approx(0.9)


def test_taid_steps_inside_a_scan():
    def step(state, inputs):
        state = sequence.taid_update(state, *inputs, rate=0.1)
        return state, state.interpolation

    values = jnp.array([3.0, 2.0, 1.0])
    _, inside = jax.lax.scan(step, sequence.taid_start(), (values, jnp.arange(3) / 100))
    outside = [x.interpolation for x in run_taid(values, rate=0.1)]
    np.testing.assert_allclose(inside, outside, rtol=1e-6)


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="student_log_likelihoods must be \\[B, 2\\]"):
        losses.direct_preference(jnp.zeros((3, 4)), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="clip must be at least 0"):
        losses.clipped_policy_gradient(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), clip=-0.1)
    with pytest.raises(TypeError, match="tokens must be integers"):
        losses.token_negative_log_likelihood(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(ValueError, match="truth_weight must be between 0 and 1"):
        losses.blended_divergence(*single(S, T), TOKENS, truth_weight=2.0)
    with pytest.raises(ValueError, match="discount must be between 0 and 1"):
        sequence.reverse_kl_returns(jnp.zeros((1, 2)), jnp.zeros((1, 2)), discount=2.0)
