"""What a language model is measured by on held-out text, per example: totals over its tokens.

Notation: `logits` are `[B, L, V]`, `targets` the tokens that follow `[B, L]`, `where` `[B, L]` keeps
those that count. Every function sums over the kept tokens of a row and gives `[B]` (or `[B, bins]`), so
that totals over batches and devices are exact; `count` is what the sums are divided by, once, at the
end: a mean over tokens, not over rows.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences, sequence
from kdjax.metrics import classification


def count(where):
    """How many tokens of each row are kept. `[B]`.

    >>> count(jnp.array([[True, True], [False, True]]))
    Array([2., 1.], dtype=float32)
    """
    return jnp.sum(where, axis=-1, dtype=jnp.float32)


def negative_log_likelihood(logits, targets, where):
    """-log q of the targets in nats, summed over a row. `[B]`."""
    values = sequence.token_negative_log_likelihood(logits, targets, where=where)
    return jnp.sum(values, axis=-1)


def perplexity(total, tokens):
    """exp of the mean of `negative_log_likelihood`.

    >>> perplexity(3 * jnp.log(4.0), 3).round(3).item()
    4.0
    """
    return jnp.exp(total / tokens)


def teacher_divergence(student_logits, teacher_logits, where):
    """KL(teacher ‖ student) at temperature 1, summed over a row. `[B]`."""
    log_q, log_p, _ = divergences.softened(student_logits, teacher_logits, 1.0, where)
    values = divergences.kl_of_log_probs(log_q, log_p)
    return jnp.sum(_arrays.select(where, values), axis=-1)


def correct(logits, targets, where):
    """How many of a row's targets have the largest logit. `[B]`."""
    return jnp.sum(classification.correct(logits, targets) * where, axis=-1)


def agreement(student_logits, teacher_logits, where):
    """At how many tokens of a row student and teacher have the same best class. `[B]`."""
    return jnp.sum(classification.agreement(student_logits, teacher_logits) * where, axis=-1)


def acceptance(student_logits, teacher_logits, where):
    r"""Expected number of a row's tokens that speculative decoding would accept of the student. `[B]`.

    .. math:: \sum_l \sum_v \min(q_{lv}, p_{lv}) = \sum_l 1 - \operatorname{TV}(q_l, p_l)

    over the contexts at hand: Leviathan, Kalman, Matias, "Fast Inference from Transformers via
    Speculative Decoding", 2023, draw a token from the student and accept it with probability
    min(1, p / q), so that the output is the teacher's.
    """
    log_q, log_p, _ = divergences.softened(student_logits, teacher_logits, 1.0, where)
    both = jnp.sum(jnp.minimum(jnp.exp(log_q), jnp.exp(log_p)), axis=-1)
    return jnp.sum(both * where, axis=-1)


def calibration_gaps(logits, targets, where, *, bins: int = 15):
    """Confidence minus correctness of a row's tokens, summed in the bins of confidence. `[B, bins]`.

    For `kdjax.metrics.classification.expected_calibration_error`, over the count of tokens.
    """
    rows = jax.vmap(lambda s, y: classification.calibration_gaps(s, y, bins=bins))(logits, targets)
    return jnp.sum(rows * where[..., None], axis=1)
