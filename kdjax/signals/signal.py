r"""What a teacher gives for each token, and how it enters a divergence of distributions.

Notation: V classes, D a hidden width, `[..., L]` the tokens, T the temperature of the divergence. A
signal is a pytree whose arrays begin with the axes `[..., L]` (but for a head), so that a batch of it
is sliced, cached and sharded like any other array. A divergence is a core `d(log_q, log_p)` of
`kdjax.losses.divergences`, on two rows of log-probabilities, student first. Each signal says which
rows:

- `Dense` and `HiddenHead`: all V classes, softmax(logits / T) on both sides. The latter is exact and
  as narrow as the hidden state: the teacher's head is stored once.
- `TopK`: K + 1 buckets, the teacher's K classes and one for all others, on both sides. The student's
  tail is the exact mass of its other classes. Merging classes never increases an f-divergence: the
  value is a lower bound of the dense one, and equal to it for K = V.
- `Sampled`: the drawn classes alone, and only for what is linear in the target: the cross entropy,
  so the forward KL with the teacher's entropy taken off. Other divergences of a random target are
  biased and are refused.

The teacher is frozen by definition: no gradient passes into a signal.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.losses import _arrays, divergences


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """The teacher's logits.

    Attributes:
        logits: `[..., L, V]`
    """

    logits: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HiddenHead:
    r"""Logits that are not formed yet: the last hidden state and the head that reads it.

    .. math:: c \tanh\left( \frac{a (h W + b)}{c} \right)

    with a the scale and c the softcap; without a softcap, a (h W + b). The student of a chunked
    divergence is one of these as well.

    Attributes:
        hidden: `[..., L, D]`, h.
        head: `[D, V]`, W: the kernel of the last dense layer. A tied embedding goes in transposed.
        bias: `[V]`, b, or None. It is inside the softcap.
        scale: a, a number.
        softcap: c > 0, a number, or None.
    """

    hidden: jax.Array
    head: jax.Array
    bias: jax.Array | None = None
    scale: jax.Array | float = 1.0
    softcap: jax.Array | float | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopK:
    """The teacher's best classes, and the mass of all others.

    At a T other than the signal's own temperature T' the K + 1 buckets are raised to T'/T and
    normalised: exact among the K classes, while the tail is tempered as if it were one class.

    Attributes:
        log_probs: `[..., L, K]` over all V classes, at `temperature`; -inf marks an unused slot.
        classes: `[..., L, K]` integers, distinct among the used slots of a token.
        log_tail: `[..., L]` log of the mass of all other classes, -inf if there is none.
        temperature: T', a Python number: at which the distribution was formed.
    """

    log_probs: jax.Array
    classes: jax.Array
    log_tail: jax.Array
    temperature: float = dataclasses.field(default=1.0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampled:
    """Classes drawn for each token, weighted so that the mean over draws is the teacher.

    Attributes:
        classes: `[..., L, N]` integers; a class that was drawn twice is there twice.
        weights: `[..., L, N]`, such that the expectation of the sum of weight x one-hot(class) is the
            teacher's distribution at `temperature`.
        entropy: `[..., L]` of that distribution: it makes the value of the forward KL unbiased too.
            It moves no gradient; zeros leave the cross entropy.
        temperature: a Python number: at which the distribution was formed.
    """

    classes: jax.Array
    weights: jax.Array
    entropy: jax.Array
    temperature: float = dataclasses.field(default=1.0, metadata={"static": True})


def top_k(logits, k, *, temperature=1.0):
    """The `TopK` signal of dense logits: the k best classes and the exact mass of the rest.

    Args:
        logits: `[..., L, V]`
        k: how many classes to keep, at most V.
        temperature: T > 0, a Python number.

    Returns:
        A `TopK` in at least float32.

    Raises:
        TypeError: logits that are not floating-point. ValueError: k, temperature.

    >>> signal = top_k(jnp.log(jnp.array([[0.1, 0.6, 0.3]])), 2)
    >>> signal.classes, jnp.exp(signal.log_tail).round(4)
    (Array([[1, 2]], dtype=int32), Array([0.1], dtype=float32))
    """
    log_p, temperature = _log_probs(logits, temperature)
    if not 1 <= k <= log_p.shape[-1]:
        raise ValueError(f"k must be between 1 and {log_p.shape[-1]}, the classes, got {k}")
    best, classes = jax.lax.top_k(log_p, k)
    return TopK(best, classes, _arrays.log_sum_exp(_without(log_p, classes)), temperature)


def sample(key, logits, count, *, exponent=1.0, temperature=1.0):
    r"""The `Sampled` signal of dense logits: unbiased importance-sampled targets.

    .. math:: i_j \sim r = \frac{p^{\gamma}}{\sum_c p_c^{\gamma}}, \quad
        w_j = \frac{p_{i_j}}{N r_{i_j}}, \quad \mathrm{E} \sum_j w_j e_{i_j} = p

    The weights are not normalised over the draws: that would bias them. For γ = 1 all are 1/N.

    Args:
        key: a key of `jax.random`, for all tokens.
        logits: `[..., L, V]`
        count: N, how many classes to draw, with replacement.
        exponent: γ > 0 of the proposal.
        temperature: T > 0, a Python number.

    Returns:
        A `Sampled` in at least float32.

    Raises:
        TypeError: logits that are not floating-point. ValueError: count, exponent, temperature.

    >>> signal = sample(jax.random.key(0), jnp.zeros((5, 8)), 4)
    >>> signal.classes.shape, signal.weights[0]
    ((5, 4), Array([0.25, 0.25, 0.25, 0.25], dtype=float32))

    Reference:
        Anshumann, Zaidi, Kedia, Ahn, Kwon, Lee, Lee, Lee, "Sparse Logit Sampling: Accelerating
        Knowledge Distillation in LLMs", 2025. The authors drew with γ near 1.
    """
    log_p, temperature = _log_probs(logits, temperature)
    _arrays.check_positive(exponent=exponent)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    carried = jnp.isfinite(log_p)
    log_r = jnp.where(carried, exponent * jnp.where(carried, log_p, 0), -jnp.inf)
    log_r = _arrays.log_softmax(log_r)
    drawn = jax.random.categorical(key, log_r, axis=-1, shape=(count, *log_r.shape[:-1]))
    classes = jnp.moveaxis(drawn, 0, -1)
    weights = jnp.exp(_at(log_p, classes) - _at(log_r, classes)) / count
    return Sampled(classes, weights, divergences.entropy_of_log_probs(log_p), temperature)


def logits_of(signal):
    """`[..., L, V]` logits, in at least float32, of a `Dense` or a `HiddenHead`."""
    if isinstance(signal, Dense):
        return _arrays.promoted("logits", signal.logits)
    if isinstance(signal, HiddenHead):
        raw = raw_logits(signal.hidden, signal.head, signal.bias)
        return capped(raw, signal.scale, signal.softcap)
    raise TypeError(f"a {type(signal).__name__} signal has no logits: it is sparse")


def raw_logits(hidden, head, bias=None):
    """h W + b, accumulated and returned in at least float32."""
    dtype = jnp.promote_types(jnp.promote_types(hidden.dtype, head.dtype), jnp.float32)
    contracted = (((hidden.ndim - 1,), (0,)), ((), ()))
    raw = jax.lax.dot_general(hidden, head, contracted, preferred_element_type=dtype)
    return raw if bias is None else raw + bias.astype(dtype).reshape((1,) * (raw.ndim - 1) + (-1,))


def capped(raw, scale, softcap):
    """Raw logits `[..., V]`, scaled and soft-capped; None for what does not apply."""
    if scale is not None:
        carried = jnp.isfinite(raw)
        # A class at -inf stays there, and passes no nan to the gradient of the scale.
        scaled = jnp.where(carried, raw, jnp.zeros_like(raw)) * jnp.asarray(scale, raw.dtype)
        raw = jnp.where(carried, scaled, raw)
    if softcap is None:
        return raw
    softcap = jnp.asarray(softcap, raw.dtype)
    return softcap * jnp.tanh(raw / softcap)


def signal_divergence(
    divergence, student_logits, signal, *, temperature=1.0, where=None, **hyperparameters
):
    r"""T² · d(student, teacher) per token, for any core and any signal, on the student's logits.

    With `Dense(teacher_logits)` it is the function over logits that goes with the core:
    `kl_of_log_probs` gives `softened_kl_divergence`, and so on.

    Args:
        divergence: a core of `kdjax.losses.divergences`, `d(log_q, log_p, **hyperparameters)`.
        student_logits: `[..., L, V]`
        signal: `Dense`, `HiddenHead`, `TopK` or `Sampled`, frozen: no gradient passes into it.
        temperature: T > 0, a number or `[..., L]`. For `Sampled` it must be the signal's own.
        where: `[..., L]` boolean; masked tokens give zero, in value and gradient.
        **hyperparameters: of the core, numbers or `[..., L]`.

    Returns:
        `[..., L]`.

    Raises:
        TypeError: logits that are not floating-point, classes that are not integers, a signal that
        is none, a divergence that `Sampled` cannot give. ValueError: shapes, temperature, and what
        the hyperparameters' own checks refuse.

    >>> s, teacher = jnp.zeros((1, 3)), jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> signal_divergence(divergences.total_variation_of_log_probs, s, top_k(teacher, 1)).round(4)
    Array([0.1667], dtype=float32)
    """
    s = _arrays.promoted("student_logits", student_logits)
    check(divergence, s.shape[:-1], s.shape[-1], signal, temperature, where, hyperparameters)
    signal = jax.lax.stop_gradient(signal)
    return token_values(divergence, s, signal, temperature, where, hyperparameters)


def check(divergence, tokens, classes, signal, temperature, where, hyperparameters):
    """Refuses what cannot enter a divergence of students with `tokens` `[..., L]` and V classes."""
    check_signal(signal, tokens, classes)
    _arrays.check_where(where, tokens)
    _arrays.check_positive(temperature=temperature)
    for name, value in {"temperature": temperature, **hyperparameters}.items():
        if jnp.ndim(value) and jnp.shape(value) != tuple(tokens):
            raise ValueError(f"{name} must be a number or {tuple(tokens)}, got {jnp.shape(value)}")
    if getattr(divergence, "__module__", None) == divergences.__name__:
        _arrays.check_fraction(**hyperparameters)
    if isinstance(signal, Sampled):
        if divergence is not divergences.kl_of_log_probs:
            name = getattr(divergence, "__name__", repr(divergence))
            raise TypeError(
                f"divergence {name} of a Sampled signal would be biased: only what is linear in the "
                "target is not, so kl_of_log_probs"
            )
        traced = isinstance(temperature, jax.core.Tracer)
        if not traced and np.any(np.asarray(temperature) != signal.temperature):
            raise ValueError(
                f"temperature must be {signal.temperature}, that of the Sampled signal, got "
                f"{temperature}"
            )


def check_signal(signal, tokens, classes):
    """Refuses a signal whose arrays do not fit `tokens` `[..., L]` and V classes, by name."""
    tokens = tuple(tokens)
    if isinstance(signal, Dense):
        _arrays.promoted("signal.logits", signal.logits)
        _check_shape("signal.logits", signal.logits, (*tokens, classes))
    elif isinstance(signal, HiddenHead):
        check_head("signal", signal)
        _check_shape("signal.hidden", signal.hidden, (*tokens, signal.head.shape[0]))
        _check_shape("signal.head", signal.head, (signal.head.shape[0], classes))
    elif isinstance(signal, TopK):
        _arrays.floating(log_probs=signal.log_probs, log_tail=signal.log_tail)
        _check_shape("signal.log_probs", signal.log_probs, (*tokens, signal.log_probs.shape[-1]))
        _check_shape("signal.log_tail", signal.log_tail, tokens)
        _arrays.check_labels(signal.log_probs.shape, classes=signal.classes)
    elif isinstance(signal, Sampled):
        _arrays.floating(weights=signal.weights, entropy=signal.entropy)
        _check_shape("signal.weights", signal.weights, (*tokens, signal.weights.shape[-1]))
        _check_shape("signal.entropy", signal.entropy, tokens)
        _arrays.check_labels(signal.weights.shape, classes=signal.classes)
    else:
        raise TypeError(
            f"signal must be Dense, HiddenHead, TopK or Sampled, got {type(signal).__name__}"
        )


def check_head(name, signal):
    """Refuses a `HiddenHead` whose own arrays do not fit one another, by name."""
    _arrays.floating(**{f"{name}.hidden": signal.hidden, f"{name}.head": signal.head})
    _arrays.check_min_rank(2, **{f"{name}.hidden": signal.hidden})
    _arrays.check_rank(2, **{f"{name}.head": signal.head})
    width, classes = signal.head.shape
    _check_shape(f"{name}.hidden", signal.hidden, (*signal.hidden.shape[:-1], width))
    if signal.bias is not None:
        _arrays.promoted(f"{name}.bias", signal.bias)
        _check_shape(f"{name}.bias", signal.bias, (classes,))
    _check_shape(f"{name}.scale", signal.scale, ())
    if signal.softcap is not None:
        _check_shape(f"{name}.softcap", signal.softcap, ())
        _arrays.check_positive(**{f"{name}.softcap": signal.softcap})


def token_values(divergence, student_logits, signal, temperature, where, hyperparameters):
    """`[..., L]` values of `signal_divergence`, unchecked; the student's logits at least float32."""
    s, signal = _arrays.select(where, student_logits), kept(where, signal)
    squared = jnp.square(jnp.asarray(temperature, s.dtype))
    log_q = _arrays.log_softmax(s / _arrays.per_row(temperature, s))
    if isinstance(signal, Sampled):
        values = _sampled_kl(log_q, signal)
    else:
        rows = (log_q, _target(signal, temperature, s.dtype))
        if isinstance(signal, TopK):
            rows = _buckets(*rows, signal)
        values = divergence(*rows, **hyperparameters)
    return _arrays.select(where, squared * values)


def kept(where, signal):
    """The signal with the arrays of masked tokens set to zero: what they hold must not count."""
    if where is None:
        return signal
    if isinstance(signal, HiddenHead):
        return dataclasses.replace(signal, hidden=_arrays.select(where, signal.hidden))
    return jax.tree.map(lambda x: _arrays.select(where, x), signal)


def _target(signal, temperature, dtype):
    """The teacher's log-probabilities at T, of V classes or K + 1 buckets."""
    if isinstance(signal, TopK):
        log_p = jnp.concatenate([signal.log_probs, signal.log_tail[..., None]], axis=-1)
        log_p, own = log_p.astype(dtype), signal.temperature
        return _arrays.log_softmax(log_p * (own / _arrays.per_row(temperature, log_p)))
    logits = logits_of(signal).astype(dtype)
    return _arrays.log_softmax(logits / _arrays.per_row(temperature, logits))


def _buckets(log_q, log_p, signal):
    """The student's row in the teacher's buckets: its mass at an unused slot belongs to the tail."""
    used = jnp.isfinite(signal.log_probs)
    chosen = jnp.where(used, _at(log_q, signal.classes), -jnp.inf)
    others = _without(log_q, jnp.where(used, signal.classes, log_q.shape[-1]))
    return jnp.concatenate([chosen, _arrays.log_sum_exp(others)[..., None]], axis=-1), log_p


def _sampled_kl(log_q, signal):
    weights, entropy = (x.astype(log_q.dtype) for x in (signal.weights, signal.entropy))
    drawn = weights > 0
    surprise = jnp.where(drawn, -_at(log_q, signal.classes), jnp.zeros_like(weights))
    return jnp.sum(weights * surprise, axis=-1) - entropy


def _at(rows, classes):
    return jnp.take_along_axis(rows, classes, axis=-1, mode="clip")


def _without(log_x, classes):
    """log_x with -inf at `classes`; a class beyond the last one removes nothing."""
    nothing = jnp.full(classes.shape, -jnp.inf, log_x.dtype)
    return jnp.put_along_axis(log_x, classes, nothing, axis=-1, inplace=False, mode="drop")


def _log_probs(logits, temperature):
    logits = _arrays.promoted("logits", logits)
    _arrays.check_min_rank(1, logits=logits)
    if isinstance(temperature, jax.core.Tracer):
        raise TypeError("temperature must be a Python number: a signal is formed at a known one")
    temperature = float(temperature)
    _arrays.check_positive(temperature=temperature)
    return _arrays.log_softmax(logits / temperature), temperature


def _check_shape(name, x, wanted):
    if jnp.shape(x) != tuple(wanted):
        raise ValueError(f"{name} must have shape {tuple(wanted)}, got {jnp.shape(x)}")
