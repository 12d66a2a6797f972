r"""Which token comes next: distributions made from logits.

Notation: V classes, `[..., V]` logits s or log-probabilities. What may not be drawn has -inf. All is
computed and returned in at least float32, under `jit` and `vmap`.
"""

import math

import jax
import jax.numpy as jnp


def tempered(logits, temperature):
    r"""log softmax(s / T); at T = 0 the first of the largest logits alone, its limit.

    Args:
        logits: `[..., V]`
        temperature: T >= 0, a number, traced or not.

    Returns:
        `[..., V]` log-probabilities.

    Raises:
        TypeError: logits that are not floating-point. ValueError: a temperature that is negative or
        not finite.

    >>> tempered(jnp.array([0.0, 2.0]), 2.0).round(4)
    Array([-1.3133, -0.3133], dtype=float32)
    >>> tempered(jnp.array([0.0, 2.0]), 0.0)
    Array([-inf,   0.], dtype=float32)
    """
    logits = _floating(logits)
    check_options(temperature=temperature)
    greedy = jnp.equal(temperature, 0)
    # The largest is taken off before a small temperature makes a rounding error of it large.
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    soft = jax.nn.log_softmax(below / jnp.where(greedy, 1, temperature).astype(logits.dtype))
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    is_best = jax.lax.broadcasted_iota(best.dtype, logits.shape, logits.ndim - 1) == best
    return jnp.where(greedy, jnp.where(is_best, 0.0, -jnp.inf).astype(logits.dtype), soft)


def most_probable(logits, count):
    r"""The `count` largest of the logits, all others -inf; of equal ones the first.

    Args:
        logits: `[..., V]`
        count: k >= 1, an integer, named `top_k` elsewhere; V or more keeps all.

    Returns:
        `[..., V]` logits, not normalised.

    Raises:
        TypeError: logits that are not floating-point. ValueError: a count below 1 or not an integer.

    >>> most_probable(jnp.array([1.0, 3.0, 2.0]), 2)
    Array([-inf,   3.,   2.], dtype=float32)

    Reference:
        Fan, Lewis, Dauphin, "Hierarchical Neural Story Generation", 2018, with k = 10.
    """
    logits = _floating(logits)
    check_options(top_k=count)
    if count >= logits.shape[-1]:
        return logits
    _, kept = jax.lax.top_k(logits, count)
    none = jnp.zeros(logits.shape, bool)
    return jnp.where(jnp.put_along_axis(none, kept, True, -1, inplace=False), logits, -jnp.inf)


def nucleus(logits, mass):
    r"""The smallest set of the most probable classes whose probability reaches `mass`, others -inf.

    Args:
        logits: `[..., V]`
        mass: p in (0, 1], named `top_p` elsewhere; a number, traced or not. The most probable class is always kept.

    Returns:
        `[..., V]` logits, not normalised.

    Raises:
        TypeError: logits that are not floating-point. ValueError: a mass outside (0, 1].

    >>> nucleus(jnp.log(jnp.array([0.5, 0.2, 0.3])), 0.7).round(4)
    Array([-0.6931,    -inf, -1.204 ], dtype=float32)

    Reference:
        Holtzman, Buys, Du, Forbes, Choi, "The Curious Case of Neural Text Degeneration", 2020, with
        p = 0.95.
    """
    logits = _floating(logits)
    check_options(top_p=mass)
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    probs = jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), order, axis=-1)
    kept = jnp.cumsum(probs, axis=-1) - probs < mass
    none = jnp.zeros(logits.shape, bool)
    return jnp.where(jnp.put_along_axis(none, order, kept, -1, inplace=False), logits, -jnp.inf)


def mixed(log_probs, other_log_probs, weight):
    r"""log (w p' + (1 - w) p) of two distributions: a teacher's text mixed into a student's.

    Args:
        log_probs: `[..., V]`, log p.
        other_log_probs: `[..., V]`, log p'.
        weight: w in [0, 1], a number, traced or not.

    Returns:
        `[..., V]` log-probabilities.

    Raises:
        TypeError: log-probabilities that are not floating-point. ValueError: shapes that differ, a
        weight outside [0, 1].

    >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
    >>> jnp.exp(mixed(p, q, 0.5)).round(4)
    Array([0.7, 0.3], dtype=float32)

    Reference:
        Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024, who
        drew from 0.2 of the teacher and 0.8 of the student.
    """
    log_probs, other = _floating(log_probs), _floating(other_log_probs)
    if log_probs.shape != other.shape:
        raise ValueError(
            f"two distributions of shapes {log_probs.shape} and {other.shape} do not mix: over padded "
            "vocabularies, cut the logits to the classes that both have"
        )
    check_weight(weight)
    weight = jnp.asarray(weight, log_probs.dtype)
    return jnp.logaddexp(jnp.log1p(-weight) + log_probs, jnp.log(weight) + other)


def sampling_log_probs(logits, *, temperature=1.0, top_k=None, top_p=None):
    r"""The distribution that the next token is drawn from: tempered, then top-k, then top-p.

    Args:
        logits: `[..., V]`
        temperature: as in `tempered`.
        top_k: the count of `most_probable`, or None.
        top_p: the mass of `nucleus`, or None; of what the temperature and top-k leave.

    Returns:
        `[..., V]` log-probabilities, -inf outside the support.

    Raises:
        TypeError, ValueError: as the functions named.

    >>> sampling_log_probs(jnp.array([0.0, 1.0, 1.0]), top_k=2).round(4)
    Array([   -inf, -0.6931, -0.6931], dtype=float32)
    """
    log_probs = tempered(logits, temperature)
    if top_k is not None:
        log_probs = most_probable(log_probs, top_k)
    if top_p is not None:
        log_probs = nucleus(log_probs, top_p)
    if top_k is None and top_p is None:
        return log_probs
    return jax.nn.log_softmax(log_probs, axis=-1)


def check_options(*, temperature=1.0, top_k=None, top_p=None):
    """Refuses what `sampling_log_probs` cannot do; what is traced passes."""
    if _known(temperature) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be finite and at least 0, got {temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be an integer of at least 1, got {top_k!r}")
    if top_p is not None and _known(top_p) and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p!r}")


def check_weight(weight):
    """Refuses what `mixed` cannot do; what is traced passes."""
    if _known(weight) and not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight!r}")


def _known(value):
    return not isinstance(value, jax.core.Tracer)


def _floating(logits):
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating-point, got {logits.dtype}")
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
