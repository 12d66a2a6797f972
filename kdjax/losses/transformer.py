"""Losses on what a transformer computes inside: hidden states, attention, relations of tokens.

Notation: hidden states are `[B, L, D]`, attention is `[B, H, L, L]` with the query before the key,
the heads' vectors are `[B, H, L, d]`. Results are per token, `[B, L]`, with the heads averaged, and
`where` `[B, L]` keeps tokens: a pair of tokens needs both ends, so padding is masked as a query and
as a key. Widths of student and teacher differ only where a loss says that they may. To give every
pair of tokens of a ragged batch one weight, weight each token by its example's length when reducing.

The losses on single hidden states are those of `features`, with tokens as examples: on
`h.reshape(-1, D)` with a mask of as many rows, `feature_hint` is the hidden loss of TinyBERT (Jiao et
al., 2020, weight 1, on a projection of the student) and `feature_cosine_distance` that of DistilBERT
(Sanh et al., 2019, weight 1 beside 5 for the soft targets and 2 for the masked words).
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences

_EXACT = jax.lax.Precision.HIGHEST


def attention_mean_squared_error(student_attention, teacher_attention, *, where=None):
    r"""Mean squared difference of two attention maps, per query: the attention loss of TinyBERT.

    .. math:: \ell_i = \frac{1}{H L} \sum_h \sum_j (A^s_{hij} - A^t_{hij})^2

    with L the number of kept keys. It serves scores and probabilities alike.

    Args:
        student_attention: `[B, H, L, L]`, of as many heads as the teacher has.
        teacher_attention: `[B, H, L, L]`
        where: `[B, L]` boolean; tokens it drops are neither queries nor keys.

    Returns:
        `[B, L]`. Scores at -inf on both sides (what a causal mask leaves) add nothing; where one side
        alone is at -inf the value is +inf.

    Raises:
        TypeError: attention that is not floating-point. ValueError: shapes.

    >>> attention_mean_squared_error(jnp.zeros((1, 1, 2, 2)), jnp.eye(2)[None, None])
    Array([[0.5, 0.5]], dtype=float32)

    Reference:
        Jiao, Yin, Shang, Jiang, Chen, Li, Wang, Liu, "TinyBERT: Distilling BERT for Natural Language
        Understanding", 2020. The authors match the scores before the softmax, each student layer with
        one teacher layer of equal spacing, with weight 1.
    """
    a_s, a_t = _attention(student_attention, teacher_attention, where, "attention")
    kept = _kept_pairs(where, a_s)
    compared = kept & ~(jnp.isneginf(a_s) & jnp.isneginf(a_t))
    difference = jnp.where(compared, a_s, 0) - jnp.where(compared, a_t, 0)
    return _mean_over_keys(jnp.mean(jnp.square(difference), axis=1), where)


def attention_kl_divergence(student_scores, teacher_scores, *, where=None):
    r"""KL(teacher ‖ student) of two attention distributions, per query: MiniLM's attention transfer.

    .. math:: \ell_i = \frac{1}{H} \sum_h \sum_j p_{hij} (\log p_{hij} - \log q_{hij})

    with p and q the softmax over the kept keys of the teacher's and the student's scores.

    Args:
        student_scores: `[B, H, L, L]`, before the softmax, of as many heads as the teacher has.
        teacher_scores: `[B, H, L, L]`
        where: `[B, L]` boolean; tokens it drops are neither queries nor keys.

    Returns:
        `[B, L]`. Keys at -inf on both sides (what a causal mask leaves) carry nothing; a key at -inf
        for the student alone gives +inf if the teacher attends to it.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes.

    >>> scores = jnp.array([[0.0, jnp.log(3.0)], [0.0, 0.0]])[None, None]
    >>> attention_kl_divergence(jnp.zeros((1, 1, 2, 2)), scores).round(4)
    Array([[0.1308, 0.    ]], dtype=float32)

    Reference:
        Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
        Compression of Pre-Trained Transformers", 2020. The authors match the last layer only, and add
        `token_relation_divergence` of the values with weight 1.
    """
    a_s, a_t = _attention(student_scores, teacher_scores, where, "scores")
    return _divergence_over_keys(a_s, a_t, where)


def token_relation_divergence(student_vectors, teacher_vectors, *, where=None):
    r"""KL(teacher ‖ student) of how tokens relate by scaled inner products: the loss of MiniLMv2.

    .. math:: \ell_i = \frac{1}{H} \sum_h \mathrm{KL}\Big(
        \operatorname{softmax}_j \frac{x^t_{hi} \cdot x^t_{hj}}{\sqrt{d_t}} \Big\|
        \operatorname{softmax}_j \frac{x^s_{hi} \cdot x^s_{hj}}{\sqrt{d_s}} \Big)

    The vectors are the queries, the keys or the values of one layer, cut into H relation heads.

    Args:
        student_vectors: `[B, H, L, d_s]`
        teacher_vectors: `[B, H, L, d_t]`; the widths may differ.
        where: `[B, L]` boolean; a pair of tokens needs both ends.

    Returns:
        `[B, L]`.

    Raises:
        TypeError: vectors that are not floating-point. ValueError: ranks, leading axes.

    >>> x = jnp.array([[1.0], [0.0]])[None, None]
    >>> token_relation_divergence(0 * x, x).round(4)
    Array([[0.1109, 0.    ]], dtype=float32)

    Reference:
        Wang, Bao, Huang, Dong, Wei, "MiniLMv2: Multi-Head Self-Attention Relation Distillation for
        Compressing Pretrained Transformers", 2021. The authors add the relations of queries, keys and
        values with weight 1 each, in 48 relation heads for a base and 64 for a large teacher.
    """
    x_s, x_t = _arrays.floating(student_vectors=student_vectors, teacher_vectors=teacher_vectors)
    _arrays.check_rank(4, student_vectors=x_s, teacher_vectors=x_t)
    _arrays.check_same_batch(3, student_vectors=x_s, teacher_vectors=x_t)
    tokens = (x_s.shape[0], x_s.shape[2])
    _arrays.check_where(where, tokens)
    if where is not None:
        x_s, x_t = _arrays.select(jnp.broadcast_to(where[:, None], x_s.shape[:3]), x_s, x_t)
    return _divergence_over_keys(_self_scores(x_s), _self_scores(x_t), where)


def token_gram_distance(
    student_hidden, teacher_hidden, student_second, teacher_second, *, where=None
):
    r"""Mean squared difference of the inner products of tokens across two layers, per token.

    .. math:: \ell_i = \frac{1}{L} \sum_j \Big( \frac{h_{s,i} \cdot h'_{s,j}}{D_s}
        - \frac{h_{t,i} \cdot h'_{t,j}}{D_t} \Big)^2

    with L the number of kept tokens. Giving one layer twice compares the self-similarity of tokens:
    for a linear kernel, the maximum mean discrepancy of neuron selectivity transfer without its
    normalisation.

    Args:
        student_hidden: `[B, L, D_s]`, h of the student.
        teacher_hidden: `[B, L, D_t]`; the widths may differ.
        student_second: `[B, L, D_s]`, h' of the student: the same or another layer.
        teacher_second: `[B, L, D_t]`
        where: `[B, L]` boolean; a pair of tokens needs both ends.

    Returns:
        `[B, L]`.

    Raises:
        TypeError: states that are not floating-point. ValueError: ranks, shapes.

    >>> x = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> token_gram_distance(x, 0 * x, x, x)
    Array([[0.125, 0.125]], dtype=float32)

    Reference:
        Yang, Cui, Chen, Che, Liu, Wang, Hu, "TextBrewer: An Open-Source Knowledge Distillation
        Toolkit for Natural Language Processing", 2020, where it is the loss "mmd" or "nst", after
        Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017.
    """
    arrays = {
        "student_hidden": student_hidden,
        "teacher_hidden": teacher_hidden,
        "student_second": student_second,
        "teacher_second": teacher_second,
    }
    h_s, h_t, second_s, second_t = _arrays.floating(**arrays)
    _arrays.check_rank(3, student_hidden=h_s, teacher_hidden=h_t)
    _arrays.check_same_batch(2, student_hidden=h_s, teacher_hidden=h_t)
    _arrays.check_same_shape(student_hidden=h_s, student_second=second_s)
    _arrays.check_same_shape(teacher_hidden=h_t, teacher_second=second_t)
    _arrays.check_where(where, h_s.shape[:2])
    h_s, h_t, second_s, second_t = _arrays.select(where, h_s, h_t, second_s, second_t)
    squared = jnp.square(_inner_products(h_s, second_s) - _inner_products(h_t, second_t))
    return _mean_over_keys(squared, where)


def codebook_divergence(student_hidden, teacher_hidden, codebook, *, temperature=1.0, where=None):
    r"""T² · KL(teacher ‖ student) of soft assignments to the entries of a codebook, per token.

    .. math:: T^2 \, \mathrm{KL}(p \| q), \quad p = \operatorname{softmax}_k(-\|h_t - e_k\| / T),
        \quad q = \operatorname{softmax}_k(-\|h_s - e_k\| / T)

    Args:
        student_hidden: `[..., D]`, after the projector if the widths differ.
        teacher_hidden: `[..., D]`
        codebook: `[K, D]`, usually the teacher's and frozen.
        temperature: T > 0, a number.
        where: `[...]` boolean; masked tokens give zero, in value and gradient.

    Returns:
        `[...]`, one value a token (for a graph: a node).

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature.

    >>> codes = jnp.array([[0.0], [2.0]])
    >>> codebook_divergence(jnp.array([[1.0]]), jnp.array([[0.0]]), codes).round(4)
    Array([0.3278], dtype=float32)

    Reference:
        Yang, Tian, Xu, Liu, Hong, Qu, Zhang, Cui, Zhang, Leskovec, "VQGraph: Rethinking Graph
        Representation Space for Bridging GNNs and MLPs", 2024, with T = 4.
    """
    h_s, h_t, codes = _arrays.floating(
        student_hidden=student_hidden, teacher_hidden=teacher_hidden, codebook=codebook
    )
    _arrays.check_min_rank(1, student_hidden=h_s, teacher_hidden=h_t)
    _arrays.check_same_shape(student_hidden=h_s, teacher_hidden=h_t)
    _arrays.check_where(where, h_s.shape[:-1])
    h_s, h_t = _arrays.select(where, h_s, h_t)
    if codes.ndim != 2 or codes.shape[1] != h_s.shape[-1]:
        raise ValueError(f"codebook must have shape (K, {h_s.shape[-1]}), got {codes.shape}")
    _arrays.check_positive(temperature=temperature)
    temperature = jnp.asarray(temperature, h_s.dtype)
    log_q = _arrays.log_softmax(-_distances_to(codes, h_s) / temperature)
    log_p = _arrays.log_softmax(-_distances_to(codes, h_t) / temperature)
    values = jnp.square(temperature) * divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, values)


def _attention(student, teacher, where, noun):
    """Both sides in floating point, with their shapes and the mask's checked."""
    arrays = {f"student_{noun}": student, f"teacher_{noun}": teacher}
    a_s, a_t = _arrays.floating(**arrays)
    _arrays.check_rank(4, **dict(zip(arrays, (a_s, a_t), strict=True)))
    _arrays.check_same_shape(**dict(zip(arrays, (a_s, a_t), strict=True)))
    if a_s.shape[2] != a_s.shape[3]:
        raise ValueError(f"student_{noun} must be square over tokens, got shape {a_s.shape}")
    _arrays.check_where(where, (a_s.shape[0], a_s.shape[2]))
    return a_s, a_t


def _kept_pairs(where, attention):
    """[B, H, L, L] mask of the pairs of tokens that `where` keeps at both ends."""
    if where is None:
        return jnp.ones(attention.shape, bool)
    return jnp.broadcast_to((where[:, :, None] & where[:, None, :])[:, None], attention.shape)


def _divergence_over_keys(scores_s, scores_t, where):
    """KL over the kept keys, mean over heads: [B, H, L, L] -> [B, L]."""
    kept = _kept_pairs(where, scores_s)
    log_q, log_p = (
        _arrays.log_softmax(jnp.where(kept, scores, -jnp.inf)) for scores in (scores_s, scores_t)
    )
    per_head = divergences.kl_of_log_probs(log_q, log_p)
    return _arrays.select(where, jnp.mean(per_head, axis=1))


def _mean_over_keys(values, where):
    """[B, L, L] -> [B, L], the mean over the kept keys for the kept queries."""
    if where is None:
        return jnp.mean(values, axis=-1)
    pair = where[:, :, None] & where[:, None, :]
    keys = jnp.sum(where, axis=-1, keepdims=True, dtype=values.dtype)
    sums = jnp.sum(jnp.where(pair, values, 0), axis=-1)
    return _arrays.divide(sums, jnp.broadcast_to(keys, sums.shape))


def _self_scores(x):
    """[B, H, L, d] -> [B, H, L, L] inner products over the square root of the width."""
    products = jnp.einsum("bhid,bhjd->bhij", x, x, precision=_EXACT)
    return products / jnp.sqrt(jnp.asarray(x.shape[-1], x.dtype))


def _inner_products(first, second):
    """[B, L, D], [B, L, D] -> [B, L, L] inner products over the width."""
    return jnp.einsum("bid,bjd->bij", first, second, precision=_EXACT) / first.shape[-1]


def _distances_to(codes, x):
    """[K, D], [..., D] -> [..., K] Euclidean distances by inner products.

    Both are centred at the mean code, and what is below the rounding of the two norms counts as zero.
    """
    centre = jax.lax.stop_gradient(jnp.mean(codes, axis=0))
    rows = x.reshape(-1, x.shape[-1]) - centre[None]
    codes = codes - centre[None]
    sums = jnp.sum(jnp.square(rows), axis=1)[:, None] + jnp.sum(jnp.square(codes), axis=1)[None]
    squared = sums - 2 * jnp.matmul(rows, codes.T, precision=_EXACT)
    squared = jnp.where(squared > 8 * jnp.finfo(x.dtype).eps * sums, squared, 0)
    return _arrays.sqrt(squared).reshape(*x.shape[:-1], codes.shape[0])
