import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, signals
from kdjax.losses import divergences
from tests.kdjax.signals.cores import CORES

TOKENS, CLASSES = 4, 9
# Those whose value a merging of classes cannot increase.
F_DIVERGENCES = ("kl", "reverse", "symmetric", "skew", "jensen shannon", "total variation")


def logits(seed, shape=(TOKENS, CLASSES)):
    return 2 * jax.random.normal(jax.random.key(seed), shape)


def softmax(x, temperature=1.0):
    x = np.asarray(x, np.float64) / temperature
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sum(np.where(p > 0, p * np.log(p / q), 0), axis=-1)


def value_and_gradient(function, s):
    values = function(s)
    return values, jax.grad(lambda s: jnp.sum(function(s)))(s)


@pytest.mark.parametrize("name", CORES)
def test_a_dense_signal_gives_the_public_function(name):
    core, hyper, dense = CORES[name]
    s, t = logits(0), logits(1)
    where = jnp.array([True, True, False, True])
    temperature = jnp.array([1.0, 2.0, 3.0, 0.5])
    ours = signals.signal_divergence(
        core, s, signals.Dense(t), temperature=temperature, where=where, **hyper
    )
    wanted = dense(s, t, temperature=temperature, where=where, **hyper)
    np.testing.assert_array_equal(ours, wanted)


def test_hidden_head_logits_follow_the_formula():
    rng = np.random.default_rng(0)
    h, w, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 5)), rng.normal(size=5)
    signal = signals.HiddenHead(
        *(jnp.asarray(x, jnp.float32) for x in (h, w, b)), scale=1.5, softcap=2.0
    )
    wanted = 2 * np.tanh(1.5 * (h @ w + b) / 2)
    np.testing.assert_allclose(signals.logits_of(signal), wanted, rtol=1e-5)
    plain = signals.HiddenHead(signal.hidden, signal.head)
    np.testing.assert_allclose(signals.logits_of(plain), h @ w, rtol=1e-5, atol=1e-6)


def test_top_k_keeps_the_best_and_the_exact_tail():
    t = logits(1)
    signal = signals.top_k(t, 3, temperature=2.0)
    p = softmax(t, 2.0)
    order = np.argsort(-p, axis=-1)
    np.testing.assert_array_equal(signal.classes, order[:, :3])
    best = np.take_along_axis(p, order[:, :3], axis=-1)
    np.testing.assert_allclose(signal.log_probs, np.log(best), rtol=1e-5)
    np.testing.assert_allclose(signal.log_tail, np.log(1 - best.sum(-1)), rtol=1e-5)
    # A tail far below the rounding of 1 is still there.
    peaked = signals.top_k(jnp.array([[0.0, -40.0, -41.0]]), 1)
    np.testing.assert_allclose(peaked.log_tail, np.log(np.exp(-40) + np.exp(-41)), rtol=1e-6)


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_all_classes_kept_is_the_dense_divergence(name, temperature):
    core, hyper, dense = CORES[name]
    s, t = logits(0), logits(1)
    for t in (logits(1), logits(1).at[:, 2].set(-jnp.inf)):
        signal = signals.top_k(t, CLASSES)
        s = jnp.where(jnp.isfinite(t), s, -jnp.inf)

        def sparse(s, signal=signal):
            return signals.signal_divergence(core, s, signal, temperature=temperature, **hyper)

        ours = value_and_gradient(sparse, s)
        wanted = value_and_gradient(lambda s, t=t: dense(s, t, temperature=temperature, **hyper), s)
        np.testing.assert_allclose(ours[0], wanted[0], rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(ours[1], wanted[1], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", F_DIVERGENCES)
def test_buckets_follow_the_definition_and_bound_the_dense_value(name):
    core, hyper, dense = CORES[name]
    s, t = logits(0), logits(1)
    signal = signals.top_k(t, 3)
    q, p = softmax(s), softmax(t)
    classes = np.asarray(signal.classes)

    def bucketed(x):
        kept = np.take_along_axis(x, classes, axis=-1)
        return np.concatenate([kept, 1 - kept.sum(-1, keepdims=True)], axis=-1)

    wanted = core(*(jnp.asarray(np.log(bucketed(x)), jnp.float32) for x in (q, p)), **hyper)
    ours = signals.signal_divergence(core, s, signal, **hyper)
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(ours) <= np.asarray(dense(s, t, **hyper)) + 1e-6)
    if name == "kl":
        np.testing.assert_allclose(ours, kl(bucketed(p), bucketed(q)), rtol=1e-4)


def test_another_temperature_tempers_the_tail_as_one_class():
    s, t = logits(0), logits(1)
    signal = signals.top_k(t, 3, temperature=2.0)
    buckets = np.concatenate([np.exp(signal.log_probs), np.exp(signal.log_tail)[:, None]], -1)
    p = buckets ** (2.0 / 5.0)
    p /= p.sum(-1, keepdims=True)
    q = softmax(s, 5.0)
    kept = np.take_along_axis(q, np.asarray(signal.classes), axis=-1)
    q = np.concatenate([kept, 1 - kept.sum(-1, keepdims=True)], -1)
    ours = signals.signal_divergence(
        divergences.kl_of_log_probs, s, signal, temperature=jnp.asarray(5.0)
    )
    np.testing.assert_allclose(ours, 25 * kl(p, q), rtol=1e-4)


def test_top_k_signal_agrees_with_the_sparse_losses():
    s, t = logits(0), logits(1)
    signal = signals.top_k(t, 4)
    for temperature in (1.0, 3.0):
        ours = signals.signal_divergence(
            divergences.kl_of_log_probs, s, signal, temperature=temperature
        )
        wanted = losses.top_k_kl_divergence(
            s, signal.log_probs, signal.classes, temperature=temperature
        )
        np.testing.assert_allclose(ours, wanted, rtol=1e-4)


def test_an_unused_slot_is_a_part_of_the_tail_whatever_class_it_names():
    s, t = logits(0), logits(1)
    full = signals.top_k(t, 2)
    padded = signals.TopK(
        jnp.pad(full.log_probs, ((0, 0), (0, 2)), constant_values=-jnp.inf),
        jnp.pad(full.classes, ((0, 0), (0, 2)), constant_values=int(full.classes[0, 0])),
        full.log_tail,
    )

    def values(signal):
        return value_and_gradient(
            lambda s: signals.signal_divergence(CORES["jensen shannon"][0], s, signal, beta=0.5), s
        )

    for ours, wanted in zip(values(padded), values(full), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_sampled_targets_are_unbiased(exponent):
    s, t = logits(0, (CLASSES,)), logits(1, (CLASSES,))
    draws = 20_000
    many = jnp.broadcast_to(t, (draws, CLASSES))
    signal = signals.sample(jax.random.key(2), many, 3, exponent=exponent, temperature=2.0)
    p = softmax(t, 2.0)
    onehot = np.asarray(jax.nn.one_hot(signal.classes, CLASSES))
    targets = np.sum(onehot * np.asarray(signal.weights)[..., None], axis=1)
    error = targets.std(axis=0) / np.sqrt(draws)
    assert np.all(np.abs(targets.mean(axis=0) - p) < 4.5 * error)

    def forward(s):
        rows = jnp.broadcast_to(s, (draws, CLASSES))
        return signals.signal_divergence(divergences.kl_of_log_probs, rows, signal, temperature=2.0)

    values = np.asarray(forward(s))
    wanted = 4 * kl(p, softmax(s, 2.0))
    assert abs(values.mean() - wanted) < 4.5 * values.std() / np.sqrt(draws)
    # The gradient is T (q - target) for a target of mass one: linear in it, so its mean is dense.
    gradient = jax.grad(lambda s: jnp.mean(forward(s)))(s)
    dense = jax.grad(lambda s: losses.softened_kl_divergence(s, t, temperature=2.0))(s)
    mass = targets.sum(axis=1, keepdims=True)
    per_draw = 2 * (softmax(s, 2.0) * mass - targets)
    assert np.all(np.abs(gradient - dense) < 4.5 * per_draw.std(axis=0) / np.sqrt(draws) + 1e-6)


def test_sampled_is_a_weighted_cross_entropy_less_the_entropy():
    s = logits(0)
    signal = signals.Sampled(
        jnp.array([[1, 1], [0, 8], [2, 3], [4, 5]]),
        jnp.array([[0.5, 0.5], [0.9, 0.3], [1.0, 0.0], [0.2, 0.7]]),
        jnp.array([0.0, 0.1, 0.2, 0.3]),
    )
    q = np.take_along_axis(softmax(s), np.asarray(signal.classes), axis=-1)
    wanted = -np.sum(np.asarray(signal.weights) * np.log(q), axis=-1) - np.asarray(signal.entropy)
    ours = signals.signal_divergence(divergences.kl_of_log_probs, s, signal)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


SIGNALS = {
    "dense": signals.Dense,
    "top k": lambda t: signals.top_k(t, 3),
    "sampled": lambda t: signals.sample(jax.random.key(0), t, 4),
    "hidden head": lambda t: signals.HiddenHead(
        jnp.where(jnp.isfinite(t), t, 0),
        jnp.eye(CLASSES),
        bias=jnp.where(jnp.isfinite(t[0]), 0, -jnp.inf),
    ),
}


@pytest.mark.parametrize("kind", SIGNALS)
def test_classes_without_mass_and_masked_tokens_never_give_nan(kind):
    core = divergences.kl_of_log_probs
    gone = jnp.arange(CLASSES) < 3
    t = jnp.where(gone[None, :], -jnp.inf, logits(1))
    signal = SIGNALS[kind](t)

    def function(s, where=None):
        return signals.signal_divergence(core, s, signal, where=where)

    both = jnp.where(gone[None, :], -jnp.inf, logits(0))
    values, gradient = value_and_gradient(function, both)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(gradient))
    assert not np.any(np.asarray(gradient)[:, :3])
    # Where the student alone has no mass the value is +inf, and nothing once it is masked.
    alone = both.at[0].set(jnp.where(t[0] == jnp.max(t[0]), -jnp.inf, both[0]))
    alone = alone.at[1].set(jnp.nan)
    if kind == "sampled":
        alone = alone.at[0, signal.classes[0, 0]].set(-jnp.inf)
    assert np.isposinf(function(alone)[0])
    where = jnp.array([False, False, True, True])
    values, gradient = value_and_gradient(lambda s: function(s, where), alone)
    assert not np.any(values[:2]) and not np.any(gradient[:2])
    np.testing.assert_array_equal(values[2:], function(both)[2:])
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("kind", SIGNALS)
def test_what_a_masked_token_holds_counts_for_nothing(kind):
    signal = SIGNALS[kind](logits(1))
    where = jnp.array([True, False, True, True])
    spoilt = jax.tree.map(
        lambda x: (
            x.at[1].set(jnp.nan)
            if jnp.ndim(x) and x.shape[0] == TOKENS and jnp.issubdtype(x.dtype, jnp.floating)
            else x
        ),
        signal,
    )

    def function(s, signal):
        return signals.signal_divergence(divergences.kl_of_log_probs, s, signal, where=where)

    ours = value_and_gradient(lambda s: function(s, spoilt), logits(0))
    wanted = value_and_gradient(lambda s: function(s, signal), logits(0))
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", SIGNALS)
def test_the_teacher_is_frozen(kind):
    def total(t):
        return jnp.sum(
            signals.signal_divergence(divergences.kl_of_log_probs, logits(0), SIGNALS[kind](t))
        )

    assert not np.any(jax.grad(total)(logits(1)))


def test_a_signal_is_cut_like_any_batch():
    whole = signals.top_k(logits(1), 3, temperature=2.0)
    part = jax.tree.map(lambda x: x[:2], whole)
    values = signals.signal_divergence(divergences.kl_of_log_probs, logits(0)[:2], part)
    wanted = signals.signal_divergence(divergences.kl_of_log_probs, logits(0), whole)
    np.testing.assert_allclose(values, wanted[:2], rtol=1e-6)
    assert part.temperature == 2.0


KL = divergences.kl_of_log_probs


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            TypeError,
            "total_variation_of_log_probs of a Sampled",
            lambda s, t: signals.signal_divergence(
                divergences.total_variation_of_log_probs, s, SIGNALS["sampled"](t)
            ),
        ),
        (
            ValueError,
            "temperature must be 1.0",
            lambda s, t: signals.signal_divergence(KL, s, SIGNALS["sampled"](t), temperature=2.0),
        ),
        (TypeError, "signal must be Dense", lambda s, t: signals.signal_divergence(KL, s, t)),
        (
            ValueError,
            r"signal.logits must have shape \(4, 9\), got \(4, 8\)",
            lambda s, t: signals.signal_divergence(KL, s, signals.Dense(t[:, :8])),
        ),
        (
            TypeError,
            "signal.logits must be a floating-point",
            lambda s, t: signals.signal_divergence(KL, s, signals.Dense(t.astype(int))),
        ),
        (
            ValueError,
            "signal.log_tail",
            lambda s, t: signals.signal_divergence(
                KL, s, signals.TopK(t[:, :2], jnp.zeros((4, 2), int), t[:, :1])
            ),
        ),
        (
            TypeError,
            "classes must be integers",
            lambda s, t: signals.signal_divergence(
                KL, s, signals.TopK(t[:, :2], t[:, :2], t[:, 0])
            ),
        ),
        (
            ValueError,
            "signal.hidden must have shape",
            lambda s, t: signals.signal_divergence(
                KL, s, signals.HiddenHead(t, jnp.zeros((8, CLASSES)))
            ),
        ),
        (
            ValueError,
            "temperature must be above 0",
            lambda s, t: signals.signal_divergence(KL, s, signals.Dense(t), temperature=0.0),
        ),
        (
            ValueError,
            "beta must be between 0 and 1",
            lambda s, t: signals.signal_divergence(
                CORES["jensen shannon"][0], s, signals.Dense(t), beta=2.0
            ),
        ),
        (
            ValueError,
            r"beta must be a number or \(4,\)",
            lambda s, t: signals.signal_divergence(
                CORES["jensen shannon"][0], s, signals.Dense(t), beta=jnp.full((3,), 0.5)
            ),
        ),
        (ValueError, "k must be between 1 and 9", lambda s, t: signals.top_k(t, 10)),
        (TypeError, "logits must be", lambda s, t: signals.top_k(t.astype(int), 2)),
        (ValueError, "temperature", lambda s, t: signals.top_k(t, 2, temperature=-1.0)),
        (ValueError, "count", lambda s, t: signals.sample(jax.random.key(0), t, 0)),
        (
            TypeError,
            "TopK signal has no logits",
            lambda s, t: signals.logits_of(SIGNALS["top k"](t)),
        ),
        (
            TypeError,
            "temperature must be a Python number",
            lambda s, t: jax.jit(lambda T: signals.top_k(t, 2, temperature=T))(2.0),
        ),
    ],
)
def test_bad_input_is_refused_by_name(error, message, call):
    with pytest.raises(error, match=message):
        call(logits(0), logits(1))
