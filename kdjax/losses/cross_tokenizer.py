"""Distances between a student and a teacher that have different vocabularies.

Notation: `s` `[..., V_s]` and `t` `[..., V_t]` are logits, q and p their probabilities. Ids of one
vocabulary mean nothing in the other, so that probabilities are compared by rank: sorted, the
shorter row padded with zeros. There is no factor T² in this file: each side has a temperature of
its own.

Where the tokens themselves differ, `byte_segments` cuts both sequences at the byte positions at
which both tokenizers end a token, and `merged_log_probs` gives one distribution per segment.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def universal_logit_distance(
    student_logits, teacher_logits, *, student_temperature=1.0, teacher_temperature=1.0, where=None
):
    r"""L1 distance of the sorted probabilities of two vocabularies: universal logit distillation.

    .. math:: \sum_r |q_{(r)} - p_{(r)}|, \quad q_{(1)} \ge q_{(2)} \ge \dots

    It is the Wasserstein distance for a cost that is the same for every pair of classes. At most 2.

    Args:
        student_logits: `[..., V_s]`
        teacher_logits: `[..., V_t]` with the same leading axes.
        student_temperature: > 0, a number or `[...]`.
        teacher_temperature: > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`, finite for classes at -inf on either side.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperatures.

    >>> s, t = jnp.log(jnp.array([[0.7, 0.3]])), jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
    >>> round(universal_logit_distance(s, t).item(), 4)
    0.4

    Reference:
        Boizard, El Haddad, Hudelot, Colombo, "Towards Cross-Tokenizer Distillation: the Universal
        Logit Distillation Loss for LLMs", 2024. The authors added it to the cross entropy with
        weight 1.5 and temperature 1.
    """
    log_q, log_p = _log_probs(
        student_logits, teacher_logits, student_temperature, teacher_temperature, where
    )
    return _arrays.select(where, sorted_distance(jnp.exp(log_q), jnp.exp(log_p)))


def hybrid_logit_distance(
    student_logits,
    teacher_logits,
    student_matched,
    teacher_matched,
    *,
    beta=0.5,
    matched_weight=None,
    unmatched_weight=None,
    student_temperature=1.0,
    teacher_temperature=1.0,
    where=None,
):
    r"""Generalised Jensen-Shannon over ids that both vocabularies have, sorted L1 over the rest.

    .. math:: w \left( \beta \sum_{m} p_m \log\frac{p_m}{r_m}
        + (1-\beta) \sum_{m} q_m \log\frac{q_m}{r_m} \right)
        + u \sum_r |q^-_{(r)} - p^-_{(r)}|, \quad r = \beta p + (1 - \beta) q

    with m over the matched pairs of ids and q⁻, p⁻ the probabilities of all others. The matched
    probabilities are not renormalised, so that the first term alone may be negative. At β = 0 it is
    the forward KL, KL(teacher ‖ student), at β = 1 the reverse, KL(student ‖ teacher).

    Args:
        student_logits: `[..., V_s]`
        teacher_logits: `[..., V_t]` with the same leading axes.
        student_matched: `[M]` integer ids, distinct.
        teacher_matched: `[M]` integer ids of the same tokens in the teacher's vocabulary.
        beta: β in [0, 1], a number or `[...]`.
        matched_weight: w; None for M / V_t, the matched share of the teacher's vocabulary.
        unmatched_weight: u; None for 1 - w.
        student_temperature: > 0, a number or `[...]`.
        teacher_temperature: > 0, a number or `[...]`.
        where: `[...]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[...]`. A matched id at -inf on one side alone gives +inf at β = 0 or 1 if the other side
        has mass there.

    Raises:
        TypeError: logits that are not floating-point, ids that are not integers. ValueError:
        shapes, temperatures, beta.

    >>> s, t = jnp.log(jnp.array([[0.7, 0.3]])), jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
    >>> hybrid_logit_distance(s, t, jnp.array([1]), jnp.array([1])).round(4)
    Array([0.2667], dtype=float32)

    Reference:
        Patiño, Rasul, Gallouédec, Burtenshaw, Paniego, Srivastav, Frere, Beeching, Tunstall, von
        Werra, Wolf, "Unlocking On-Policy Distillation for Any Model Family" (GOLD), 2025.
    """
    log_q, log_p = _log_probs(
        student_logits, teacher_logits, student_temperature, teacher_temperature, where
    )
    _arrays.check_fraction(beta=beta)
    values = hybrid_distance_of_log_probs(
        log_q,
        log_p,
        student_matched,
        teacher_matched,
        beta=beta,
        matched_weight=matched_weight,
        unmatched_weight=unmatched_weight,
    )
    return _arrays.select(where, values)


def hybrid_distance_of_log_probs(
    log_q,
    log_p,
    student_matched,
    teacher_matched,
    *,
    beta,
    matched_weight=None,
    unmatched_weight=None,
):
    """The hybrid distance of log-probabilities `[..., V_s]` and `[..., V_t]`, merged ones too."""
    student_matched, teacher_matched = jnp.asarray(student_matched), jnp.asarray(teacher_matched)
    _arrays.check_rank(1, student_matched=student_matched, teacher_matched=teacher_matched)
    _arrays.check_labels(student_matched.shape, student_matched=student_matched)
    _arrays.check_labels(student_matched.shape, teacher_matched=teacher_matched)
    if matched_weight is None:
        matched_weight = teacher_matched.size / log_p.shape[-1]
    if unmatched_weight is None:
        unmatched_weight = 1 - matched_weight
    matched = divergences.generalized_jensen_shannon_of_log_probs(
        log_q[..., student_matched], log_p[..., teacher_matched], beta=beta
    )
    # A probability of zero sorts where the padding is, which is how the matched ids drop out.
    unmatched = sorted_distance(
        jnp.exp(log_q).at[..., student_matched].set(0),
        jnp.exp(log_p).at[..., teacher_matched].set(0),
    )
    return matched_weight * matched + unmatched_weight * unmatched


def merged_universal_logit_distance(
    student_logits,
    teacher_logits,
    student_tokens,
    teacher_tokens,
    student_segments,
    teacher_segments,
    *,
    student_temperature=1.0,
    teacher_temperature=1.0,
    where=None,
):
    r"""L1 distance of sorted probabilities, one per stretch of text that both tokenizers delimit.

    .. math:: \sum_r |\tilde q_{g,(r)} - \tilde p_{g,(r)}|, \quad
        \tilde q_{g,v} = q_{i_1, v} \prod_{i_1 > i \in g} q_{i, x_i}

    A segment g ends with token i₁; the tokens x before it multiply what its row is worth. So the
    row is the joint probability of those tokens and any last one, and that of the text itself is
    kept.

    Args:
        student_logits: `[B, L_s, V_s]`, at each token the logits that predict it.
        teacher_logits: `[B, L_t, V_t]`
        student_tokens: `[B, L_s]` integer ids.
        teacher_tokens: `[B, L_t]` integer ids.
        student_segments: `[B, L_s]` integers from `byte_segments`, -1 for no segment.
        teacher_segments: `[B, L_t]` likewise.
        student_temperature: > 0.
        teacher_temperature: > 0.
        where: `[B, G]` boolean over segments, G = min(L_s, L_t); masked ones give zero.

    Returns:
        `[B, G]`, zero where a segment is not on both sides (`shared_segments` counts them).

    Raises:
        TypeError: logits that are not floating-point, tokens or segments that are not integers.
        ValueError: shapes, temperatures.

    >>> s, t = jnp.zeros((1, 2, 2)), jnp.zeros((1, 1, 4))
    >>> tokens, segments = jnp.array([[0, 1]]), jnp.array([[0, 0]])
    >>> merged_universal_logit_distance(s, t, tokens, tokens[:, :1], segments, segments[:, :1])
    Array([[0.5]], dtype=float32)

    Reference:
        Patiño, Rasul, Gallouédec, Burtenshaw, Paniego, Srivastav, Frere, Beeching, Tunstall, von
        Werra, Wolf, "Unlocking On-Policy Distillation for Any Model Family" (GOLD), 2025.
    """
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_rank(3, student_logits=s, teacher_logits=t)
    _arrays.check_same_batch(student_logits=s, teacher_logits=t)
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    segments = min(s.shape[1], t.shape[1])
    kept = shared_segments(student_segments, teacher_segments)
    if where is not None:
        _arrays.check_where(where, kept.shape)
        kept = kept & where
    merged = []
    for x, tokens, ids, temperature in (
        (s, student_tokens, student_segments, student_temperature),
        (t, teacher_tokens, teacher_segments, teacher_temperature),
    ):
        ids = jnp.asarray(ids)
        used = (ids >= 0) & (ids < segments)
        used = used & jnp.take_along_axis(kept, jnp.clip(ids, 0, segments - 1), axis=1)
        x = _arrays.select(used, x)
        merged.append(merged_log_probs(_arrays.log_softmax(x / temperature), tokens, ids, segments))
    values = sorted_distance(*(jnp.exp(_arrays.select(kept, x)) for x in merged))
    return _arrays.select(kept, values)


def merged_log_probs(log_probs, tokens, segments, count):
    """One row `[B, count, V]` per segment: that of its last token times the tokens before it.

    `log_probs` `[B, L, V]`, `tokens` and `segments` `[B, L]`. A row sums to the probability of the
    tokens before the last. A segment that is absent repeats some other row.
    """
    tokens, segments = jnp.asarray(tokens), jnp.asarray(segments)
    _arrays.check_labels(log_probs.shape[:-1], tokens=tokens)
    _arrays.check_labels(log_probs.shape[:-1], segments=segments)
    member = segments[:, None, :] == jnp.arange(count)[None, :, None]
    last = segments.shape[1] - 1 - jnp.argmax(member[..., ::-1], axis=-1)
    of_token = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
    position = jnp.arange(segments.shape[1])[None, None, :]
    earlier = member & (position < last[..., None])
    worth = jnp.sum(jnp.where(earlier, of_token[:, None, :], 0), axis=-1)
    return jnp.take_along_axis(log_probs, last[..., None], axis=1) + worth[..., None]


def shared_segments(student_segments, teacher_segments):
    """[B, min(L_s, L_t)] boolean: the segment has a token on both sides."""
    _arrays.check_labels(jnp.shape(student_segments), student_segments=student_segments)
    _arrays.check_labels(jnp.shape(teacher_segments), teacher_segments=teacher_segments)
    sides = (jnp.asarray(student_segments), jnp.asarray(teacher_segments))
    _arrays.check_rank(2, student_segments=sides[0], teacher_segments=sides[1])
    ids = jnp.arange(min(x.shape[1] for x in sides))[None, :, None]
    student, teacher = (jnp.any(x[:, None, :] == ids, axis=-1) for x in sides)
    return student & teacher


def byte_segments(student_ends, teacher_ends, student_kept, teacher_kept):
    """Numbers, per sequence, the stretches between byte positions at which both sides end a token.

    Works under jit: the number of segments is data, the shapes are not. Two tokens of one side that
    end at one byte (the second is empty) take two boundaries if the other side has two as well.

    Args:
        student_ends: `[B, L_s]` integers, the byte after each token, never decreasing among kept
            ones.
        teacher_ends: `[B, L_t]` likewise, in the bytes of the same text.
        student_kept: `[B, L_s]` boolean, the tokens of the text.
        teacher_kept: `[B, L_t]` boolean.

    Returns:
        Two integer arrays of the shapes of the ends; -1 where a token is not kept.

    >>> kept = jnp.ones((1, 3), bool)
    >>> byte_segments(jnp.array([[2, 4, 6]]), jnp.array([[1, 4, 6]]), kept, kept)[0]
    Array([[0, 0, 1]], dtype=int32)
    """
    _arrays.check_labels(jnp.shape(student_kept), student_ends=student_ends)
    _arrays.check_labels(jnp.shape(teacher_kept), teacher_ends=teacher_ends)
    sides = [
        (_filled(jnp.asarray(ends), jnp.asarray(kept)), jnp.asarray(kept))
        for ends, kept in ((student_ends, student_kept), (teacher_ends, teacher_kept))
    ]
    return tuple(jax.vmap(_segments)(*own, *other) for own, other in (sides, reversed(sides)))


def _filled(ends, kept):
    """Ends that never decrease: those that are not kept repeat the last kept one."""
    return jax.lax.cummax(jnp.where(kept, ends, -1), axis=1)


def _segments(ends, kept, other_ends, other_kept):
    def how_many(ends, kept, bound, side):
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(kept, dtype=jnp.int32)])
        return before[jnp.searchsorted(ends, bound, side=side)]

    theirs = how_many(other_ends, other_kept, ends, "right")
    theirs = theirs - how_many(other_ends, other_kept, ends, "left")
    ours = jnp.cumsum(kept, dtype=jnp.int32) - how_many(ends, kept, ends, "left")
    closes = (kept & (ours <= theirs)).astype(jnp.int32)
    return jnp.where(kept, jnp.cumsum(closes) - closes, -1)


def sorted_distance(q, p):
    """Sum of |q - p| over the ranks of two rows of probabilities `[..., V_s]`, `[..., V_t]`."""
    widest = max(q.shape[-1], p.shape[-1])
    q, p = (
        jnp.pad(-jnp.sort(-x, axis=-1), [(0, 0)] * (x.ndim - 1) + [(0, widest - x.shape[-1])])
        for x in (q, p)
    )
    return jnp.sum(jnp.abs(q - p), axis=-1)


def _log_probs(student_logits, teacher_logits, student_temperature, teacher_temperature, where):
    s, t = _arrays.floating(student_logits=student_logits, teacher_logits=teacher_logits)
    _arrays.check_min_rank(1, student_logits=s, teacher_logits=t)
    if s.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"student_logits {s.shape} and teacher_logits {t.shape} may differ in their last axis "
            "only"
        )
    _arrays.check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    _arrays.check_where(where, s.shape[:-1])
    s, t = _arrays.select(where, s, t)
    log_q = _arrays.log_softmax(s / _arrays.per_row(student_temperature, s))
    return log_q, _arrays.log_softmax(t / _arrays.per_row(teacher_temperature, t))
