"""Objectives over tokens and sequences, and the weights that language-model distillation adapts.

Notation: `[B, L]` are tokens, V the vocabulary. A log-probability of a token is what a model gives
to the token that stands there; the caller has shifted logits and tokens against each other. `where`
`[B, L]` keeps the tokens of the answer. The divergence between two models at a token is in
`kdjax.losses.divergences`; here are the likelihoods, rankings and policy gradients around it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences


def token_negative_log_likelihood(student_logits, tokens, *, where=None):
    r"""-log q of the given tokens: sequence-level distillation when a teacher wrote them.

    .. math:: -\log \operatorname{softmax}(s)_y

    Args:
        student_logits: `[..., V]`
        tokens: `[...]` integers y.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`, +inf where the token's logit is -inf.

    Raises:
        TypeError: logits that are not floating-point, tokens that are not integers. ValueError:
        shapes.

    >>> token_negative_log_likelihood(jnp.zeros((1, 2)), jnp.array([1])).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Kim, Rush, "Sequence-Level Knowledge Distillation", 2016. The teacher's answers were those
        of beam search with 5 beams.
    """
    (s,) = _arrays.floating(student_logits=student_logits)
    _arrays.check_min_rank(1, student_logits=s)
    _arrays.check_labels(s.shape[:-1], tokens=tokens)
    _arrays.check_where(where, s.shape[:-1])
    return _arrays.select(where, -token_log_probs(_arrays.select(where, s), tokens))


def weighted_negative_log_likelihood(student_logits, tokens, weights, *, where=None):
    r"""Negative log-likelihood of each sequence times what a teacher that only scores thinks of it.

    .. math:: -w_b \sum_{l} \log \operatorname{softmax}(s_{b,l})_{y_{b,l}}

    Args:
        student_logits: `[B, L, V]`
        tokens: `[B, L]` integers y.
        weights: `[B]` w, such as the score of a ranker for the answer y, or 1 minus the score of
            the student's present answer to train on what it cannot do.
        where: `[B, L]` boolean; masked tokens count nothing, in value and gradient.

    Returns:
        `[B]`

    Raises:
        TypeError: logits or weights that are not floating-point, tokens that are not integers.
        ValueError: shapes.

    >>> s, y = jnp.zeros((1, 3, 2)), jnp.array([[1, 0, 1]])
    >>> weighted_negative_log_likelihood(s, y, jnp.array([0.5])).round(4)
    Array([1.0397], dtype=float32)

    Reference:
        Gabburo, Koncel-Kedziorski, Garg, Soldaini, Moschitti, "Knowledge Transfer from Answer
        Ranking to Answer Generation", 2022.
    """
    s, weights = _arrays.floating(student_logits=student_logits, weights=weights)
    _arrays.check_rank(3, student_logits=s)
    _arrays.check_rank(1, weights=weights)
    _arrays.check_same_batch(student_logits=s, weights=weights)
    losses = token_negative_log_likelihood(s, tokens, where=where)
    total = jnp.sum(losses, axis=-1)
    # A weight of zero drops a sequence, whatever its likelihood.
    used = weights != 0
    return jnp.where(used, weights * jnp.where(used, total, jnp.zeros_like(total)), 0)


def clipped_policy_gradient(
    student_log_probs, sampling_log_probs, advantages, *, clip=0.2, where=None
):
    r"""Clipped importance-weighted policy gradient on tokens that another policy sampled.

    .. math:: \max\left( -A \rho,\ -A \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) \right),
        \quad \rho = \exp(\log q - \log b)

    With advantages from `reverse_kl_returns` it descends the reverse KL of whole sequences. b is
    what the tokens were sampled from: the student before the update, or its mixture with the
    teacher.

    Args:
        student_log_probs: `[...]` log q of the sampled tokens.
        sampling_log_probs: `[...]` log b of the same tokens.
        advantages: `[...]` A, without a gradient of its own (the caller detaches it).
        clip: ε ≥ 0.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`. log ρ above 20 counts as 20, so that the value stays finite.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, clip.

    >>> q, b = jnp.log(jnp.array([0.6, 0.3])), jnp.log(jnp.array([0.4, 0.3]))
    >>> clipped_policy_gradient(q, b, jnp.array([1.0, -2.0]), clip=0.25)
    Array([-1.25,  2.  ], dtype=float32)

    Reference:
        Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024. The
        authors used ε = 0.2 and sampled from 0.8 student + 0.2 teacher.
    """
    log_q, log_b, advantages = _arrays.floating(
        student_log_probs=student_log_probs,
        sampling_log_probs=sampling_log_probs,
        advantages=advantages,
    )
    _arrays.check_same_shape(
        student_log_probs=log_q, sampling_log_probs=log_b, advantages=advantages
    )
    _arrays.check_not_negative(clip=clip)
    _arrays.check_where(where, log_q.shape)
    log_q, log_b, advantages = _arrays.select(where, log_q, log_b, advantages)
    ratio = jnp.exp(jnp.minimum(_arrays.log_ratio(log_q, log_b), 20.0))
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return _arrays.select(where, jnp.maximum(-advantages * ratio, -advantages * clipped))


def direct_preference(student_log_likelihoods, reference_log_likelihoods, *, scale=0.1, where=None):
    r"""-log sigmoid of how much more than a reference the student prefers the chosen answer.

    .. math:: -\log \sigma\left( \beta \left( (\ell^s_+ - \ell^s_-) - (\ell^r_+ - \ell^r_-) \right)
        \right)

    Args:
        student_log_likelihoods: `[B, 2]` log-likelihoods of the chosen and of the rejected answer.
        reference_log_likelihoods: `[B, 2]` the same of the frozen reference.
        scale: β > 0.
        where: `[B]` boolean; masked pairs give zero, in value and gradient.

    Returns:
        `[B]`, log 2 where student and reference agree.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, scale.

    >>> direct_preference(jnp.array([[-1.0, -3.0]]), jnp.array([[-2.0, -2.0]])).round(4)
    Array([0.5981], dtype=float32)

    Reference:
        Rafailov, Sharma, Mitchell, Ermon, Manning, Finn, "Direct Preference Optimization: Your
        Language Model is Secretly a Reward Model", 2023. The authors used β = 0.1.
    """
    student, reference = _arrays.floating(
        student_log_likelihoods=student_log_likelihoods,
        reference_log_likelihoods=reference_log_likelihoods,
    )
    _arrays.check_rank(2, student_log_likelihoods=student)
    _arrays.check_same_shape(student_log_likelihoods=student, reference_log_likelihoods=reference)
    if student.shape[1] != 2:
        raise ValueError(
            f"student_log_likelihoods must be [B, 2], chosen and rejected, got {student.shape}"
        )
    _arrays.check_positive(scale=scale)
    _arrays.check_where(where, student.shape[:1])
    student, reference = _arrays.select(where, student, reference)
    margin = (student[:, 0] - student[:, 1]) - (reference[:, 0] - reference[:, 1])
    return _arrays.select(where, jax.nn.softplus(-scale * margin))


def candidate_ranking(student_scores, teacher_scores, *, margin=0.01, where=None):
    r"""Hinge over all pairs of candidate answers, the margin growing with their distance in rank.

    .. math:: \sum_{i < j} \max\left( 0,\ f_j - f_i + \lambda \log(2 (j - i)) \right)

    with the student's scores f in the order in which the teacher ranks the candidates, best first.

    Args:
        student_scores: `[B, N]`, such as log-likelihoods over the number of tokens.
        teacher_scores: `[B, N]`; only their order counts.
        margin: λ ≥ 0.
        where: `[B]` boolean; masked rows give zero, in value and gradient.

    Returns:
        `[B]`

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, margin.

    >>> candidate_ranking(jnp.array([[1.0, 2.0]]), jnp.array([[5.0, 3.0]]), margin=0.0)
    Array([1.], dtype=float32)

    Reference:
        Liu, Liu, Radev, Neubig, "BRIO: Bringing Order to Abstractive Summarization", 2022. Ravi,
        Huber, Shrivastava, Shwartz, Einolghozati, "Small But Funny: A Feedback-Driven Approach to
        Humor Distillation", 2024, use it with λ one over the mean length of an answer.
    """
    f, ranks = _arrays.floating(student_scores=student_scores, teacher_scores=teacher_scores)
    _arrays.check_rank(2, student_scores=f)
    _arrays.check_same_shape(student_scores=f, teacher_scores=ranks)
    _arrays.check_not_negative(margin=margin)
    _arrays.check_where(where, f.shape[:1])
    f, ranks = _arrays.select(where, f, ranks)
    f = jnp.take_along_axis(f, jnp.argsort(-ranks, axis=-1), axis=-1)
    places = jnp.arange(f.shape[1])
    apart = places[None, :] - places[:, None]
    wanted = jnp.asarray(margin, f.dtype) * jnp.log(2.0 * jnp.maximum(apart, 1).astype(f.dtype))
    missed = jax.nn.relu(f[:, None, :] - f[:, :, None] + wanted[None])
    return _arrays.select(where, jnp.sum(jnp.where(apart[None] > 0, missed, 0), axis=(1, 2)))


def self_evolution_divergence(
    student_logits, teacher_logits, labels, *, threshold, truth_weight=0.5, where=None
):
    r"""KL(target ‖ student), the target of hard tokens drawn towards the student.

    .. math:: d = \operatorname{KL}(r \Vert q), \quad r = a\, e_y + (1 - a)\, p

    is the loss of an easy token, d ≤ τ. A hard one has the target m, a constant for the gradient:

    .. math:: \operatorname{KL}(m \Vert q), \quad m = (1 - w)\, \bar q + w\, r,
        \quad w = d / (1 + d)

    whose gradient is w times that of the easy form.

    Args:
        student_logits: `[..., V]`
        teacher_logits: `[..., V]`
        labels: `[...]` integers y.
        threshold: τ ≥ 0, a number or `[...]`; the mean of `blended_divergence` over the batch
            splits it as the method does, which makes every token's kind depend on the others'.
        truth_weight: a in [0, 1], the share of the label in the target.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing unless they are the label; a class at
        -inf for the student alone gives +inf if the target has mass there.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers. ValueError:
        shapes, threshold, truth_weight.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> self_evolution_divergence(s, t, jnp.array([1]), threshold=1.0).round(4)
    Array([0.3164], dtype=float32)

    Reference:
        Song, Ding, Zan, Huang, "Self-Evolution Knowledge Distillation for LLM-based Machine
        Translation", 2024. Threshold, ratio w and a = 0.5 are a reconstruction: the summaries that
        were read give the two stages but not these.
    """
    _arrays.check_not_negative(threshold=threshold)
    log_q, log_r = _blended(student_logits, teacher_logits, labels, truth_weight, where)
    difficulty = divergences.kl_of_log_probs(log_q, log_r)
    detached = jax.lax.stop_gradient(difficulty)
    hard = detached > threshold
    # 1 - 1 / (1 + d) and not d / (1 + d): it is 1, and not nan, where d is +inf.
    share = jnp.where(hard, 1 - 1 / (1 + detached), 1.0)
    log_m = jax.lax.stop_gradient(divergences.log_mixture(log_r, log_q, weight=share))
    values = jnp.where(hard, divergences.kl_of_log_probs(log_q, log_m), difficulty)
    return _arrays.select(where, values)


def blended_divergence(student_logits, teacher_logits, labels, *, truth_weight=0.5, where=None):
    r"""KL(a · label + (1 - a) · teacher ‖ student): truth and teacher in one target.

    .. math:: \sum_c r_c (\log r_c - \log q_c), \quad r = a\, e_y + (1 - a)\, p

    Args:
        student_logits: `[..., V]`
        teacher_logits: `[..., V]`
        labels: `[...]` integers y.
        truth_weight: a in [0, 1], a number or `[...]`.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf on both sides carry nothing unless they are the label; a class at
        -inf for the student alone gives +inf if the target has mass there.

    Raises:
        TypeError: logits that are not floating-point, labels that are not integers. ValueError:
        shapes, truth_weight.

    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, jnp.log(3.0)]])
    >>> blended_divergence(s, t, jnp.array([1])).round(4)
    Array([0.3164], dtype=float32)

    Reference:
        Song, Ding, Zan, Huang, "Self-Evolution Knowledge Distillation for LLM-based Machine
        Translation", 2024, as the difficulty of a token; a = 0.5 is a reconstruction.
    """
    log_q, log_r = _blended(student_logits, teacher_logits, labels, truth_weight, where)
    return _arrays.select(where, divergences.kl_of_log_probs(log_q, log_r))


def negative_calibrated_divergence(
    student_logits, teacher_logits, negative_logits, *, temperature=1.0, where=None
):
    r"""T² · (1/2 + b) · KL(teacher ‖ student) per sequence, b large where mistakes differ.

    .. math:: T^2 \left( \tfrac{1}{2} + b \right) \operatorname{mean}_l
        \operatorname{KL}(p_l \Vert q_l), \quad
        b = \tanh\left( \operatorname{mean}_l \operatorname{KL}(n_l \Vert p_l) \right)

    with the negative model's distributions n and both means over the kept tokens.

    Args:
        student_logits: `[B, L, V]`
        teacher_logits: `[B, L, V]`
        negative_logits: `[B, L, V]` of the model that was trained on wrong answers, frozen.
        temperature: T > 0, a number.
        where: `[B, L]` boolean; masked tokens count in neither mean.

    Returns:
        `[B]`, zero for a sequence without tokens. Classes at -inf on all sides carry nothing; a
        class at -inf for the student alone gives +inf if the teacher has mass there.

    Raises:
        TypeError: logits that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.array([[[0.0, 0.0]]]), jnp.array([[[0.0, jnp.log(3.0)]]])
    >>> negative_calibrated_divergence(s, t, s).round(4)
    Array([0.0841], dtype=float32)

    Reference:
        Li, Yuan, Feng, Pan, Sun, Wang, Wang, Li, "Turning Dust into Gold: Distilling Complex
        Reasoning Capabilities from LLMs by Leveraging Negative Data", 2024. The authors used T = 1
        and weight 0.5 beside the cross entropy.
    """
    (negative,) = _arrays.floating(negative_logits=negative_logits)
    _arrays.check_rank(3, negative_logits=negative)
    _arrays.check_rank(0, temperature=jnp.asarray(temperature))
    log_q, log_p, temperature = divergences.softened(
        student_logits, teacher_logits, temperature, where
    )
    _arrays.check_same_shape(student_logits=log_q, negative_logits=negative)
    log_n = _arrays.log_softmax(
        _arrays.select(where, negative) / _arrays.per_row(temperature, log_q)
    )
    # A mistake that the teacher rules out is infinitely far: b is 1, and not nan in the gradient.
    lost = jnp.any(jnp.isfinite(log_n) & ~jnp.isfinite(log_p), axis=-1)
    apart = divergences.kl_of_log_probs(log_p, jnp.where(lost[..., None], log_p, log_n))
    farthest = jnp.any(_arrays.select(where, lost), axis=-1)
    weight = 0.5 + jnp.where(farthest, 1, jnp.tanh(mean_over_tokens(apart, where=where)))
    values = divergences.kl_of_log_probs(log_q, log_p)
    return jnp.square(temperature) * weight * mean_over_tokens(values, where=where)


def token_log_probs(logits, tokens):
    """log softmax(logits) `[..., V]` at integer tokens `[...]` -> `[...]`."""
    log_q = _arrays.log_softmax(logits)
    return jnp.take_along_axis(log_q, jnp.asarray(tokens)[..., None], axis=-1)[..., 0]


def reverse_kl_returns(student_log_probs, teacher_log_probs, *, discount=1.0, where=None):
    r"""What each sampled token and those after it gain: minus the reverse KL from here on.

    .. math:: R_l = \sum_{i \ge l} \gamma^{i - l} (\log p_i - \log q_i)

    Args:
        student_log_probs: `[B, L]` log q of the sampled tokens.
        teacher_log_probs: `[B, L]` log p of the same tokens.
        discount: γ in [0, 1].
        where: `[B, L]` boolean; masked tokens have no reward.

    Returns:
        `[B, L]`. `per_remaining_token` normalises it by length as MiniLLM does.

    >>> reverse_kl_returns(jnp.array([[-1.0, -2.0]]), jnp.array([[-2.0, -1.0]]), discount=0.5)
    Array([[-0.5,  1. ]], dtype=float32)
    """
    log_q, log_p = _arrays.floating(
        student_log_probs=student_log_probs, teacher_log_probs=teacher_log_probs
    )
    _arrays.check_rank(2, student_log_probs=log_q)
    _arrays.check_same_shape(student_log_probs=log_q, teacher_log_probs=log_p)
    _arrays.check_where(where, log_q.shape)
    log_q, log_p = _arrays.select(where, log_q, log_p)
    return discounted_returns(log_p - log_q, discount=discount)


def discounted_returns(rewards, *, discount):
    """sum over i ≥ l of discount^(i - l) · rewards[:, i], `[B, L]` -> `[B, L]`."""
    _arrays.check_fraction(discount=discount)

    def step(after, reward):
        total = reward + discount * after
        return total, total

    _, returns = jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True)
    return returns.T


def per_remaining_token(returns, *, where=None):
    """Returns `[B, L]` over the number of kept tokens from there on: longer is not better."""
    kept = jnp.ones(returns.shape, returns.dtype) if where is None else where.astype(returns.dtype)
    return _arrays.divide(returns, discounted_returns(kept, discount=1.0))


def mean_over_tokens(values, *, where=None):
    """The mean of `[B, L]` over the kept tokens of each sequence, `[B]`; zero without any."""
    if where is None:
        return jnp.mean(values, axis=-1)
    total = jnp.sum(_arrays.select(where, values), axis=-1)
    return _arrays.divide(total, jnp.sum(where, axis=-1, dtype=values.dtype))


def adaptive_skew(student_likelihoods, teacher_likelihoods, *, mean_gap, base=0.1, smallest=0.01):
    """The skew λ of each answer, smaller where teacher and student are closer: DistiLLM-2.

    λ = 1 - (1 - base) · mean_gap / (teacher - student), held between `smallest` and `base`, for the
    likelihoods exp(mean log-probability of a token) `[B]` and their mean gap over the data set.

    >>> adaptive_skew(jnp.array([0.2, 0.2]), jnp.array([0.5, 0.25]), mean_gap=0.1)
    Array([0.1 , 0.01], dtype=float32)
    """
    q, p = _arrays.floating(
        student_likelihoods=student_likelihoods, teacher_likelihoods=teacher_likelihoods
    )
    _arrays.check_same_shape(student_likelihoods=q, teacher_likelihoods=p)
    _arrays.check_fraction(base=base, smallest=smallest)
    return jnp.clip(1 - (1 - base) * _arrays.divide(mean_gap, p - q), smallest, base)


class TaidState(NamedTuple):
    """What the adaptive interpolation of TAID carries from step to step, all scalars."""

    interpolation: jax.Array
    momentum: jax.Array
    loss: jax.Array


def taid_start(start=0.4):
    """The state before the first step: t at its start, and no loss yet (+inf)."""
    return TaidState(jnp.asarray(start), jnp.asarray(0.0), jnp.asarray(jnp.inf))


def taid_update(state, loss, progress, *, start=0.4, end=1.0, rate=5e-4, smoothing=0.99):
    """The state after a step of TAID: t rises faster while the loss keeps falling.

    With δ = (previous loss - loss) / previous loss and m <- smoothing · m + (1 - smoothing) · δ:
    t <- min(end, max(start + (end - start) · progress, t + rate · sigmoid(m) · (1 - t))).
    The first step only records its loss. `rate=0` is the linear schedule.

    Args:
        state: the `TaidState` before.
        loss: scalar, the mean of `interpolated_kl_divergence` in this step.
        progress: steps done over all steps, in [0, 1].
        start, end: the range of t; the authors used 0.4 (0.2 for large gaps) and 1.
        rate: how far t moves; 5e-4 in the paper.
        smoothing: of the momentum; 0.99 in the paper.

    >>> taid_update(taid_start(), 2.0, 0.0).interpolation
    Array(0.4, dtype=float32, weak_type=True)
    """
    first = jnp.isinf(state.loss)
    previous = jnp.where(first, jnp.ones_like(state.loss), state.loss)
    fall = (previous - loss) / (previous + 1e-15)
    momentum = smoothing * state.momentum + (1 - smoothing) * fall
    step = rate * jax.nn.sigmoid(momentum) * (1 - state.interpolation)
    linear = start + (end - start) * progress
    t = jnp.minimum(end, jnp.maximum(linear, state.interpolation + step))
    return TaidState(
        jnp.where(first, state.interpolation, t),
        jnp.where(first, state.momentum, momentum),
        jnp.asarray(loss, state.loss.dtype),
    )


def _blended(student_logits, teacher_logits, labels, truth_weight, where):
    _arrays.check_fraction(truth_weight=truth_weight)
    log_q, log_p, _ = divergences.softened(student_logits, teacher_logits, 1.0, where)
    _arrays.check_labels(log_q.shape[:-1], labels=labels)
    truth = jax.nn.one_hot(labels, log_p.shape[-1], dtype=bool)
    log_truth = jnp.where(truth, jnp.zeros_like(log_p), -jnp.inf)
    return log_q, divergences.log_mixture(log_truth, log_p, weight=truth_weight)
