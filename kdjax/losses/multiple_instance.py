"""Losses between bags: an example is a set of K embeddings, of which some pair has to match.

Notation: `s` are the student's embeddings `[B, K, D]`, `t` the other side's `[B, M, D]` in the same
space; the similarity of two bags is the largest cosine of any pair.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays


def bag_margin(student_embeddings, teacher_embeddings, *, margin=0.1, where=None):
    r"""Hinge, summed over the other bags, on an anchor's own pair being more similar by a margin.

    .. math:: \sum_{j \ne i} [m - S_{ii} + S_{ij}]_+ + [m - S_{ii} + S_{ji}]_+,
        \quad S_{ij} = \max_{k, l} \cos(s_{ik}, t_{jl})

    Args:
        student_embeddings: `[B, K, D]`
        teacher_embeddings: `[B, M, D]`
        margin: m >= 0.
        where: `[B]` boolean; masked examples give zero and are in no pair.

    Returns:
        `[B]`, per anchor; one example has no other and gives zero.

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, margin.

    >>> s = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> bag_margin(s, s[::-1], margin=0.1)
    Array([2.2, 2.2], dtype=float32)

    Reference:
        Song, Soleymani, "Polysemous Visual-Semantic Embedding for Cross-Modal Retrieval", 2019,
        between the K embeddings of an image and of a sentence; also of slides and speech.
    """
    s, t = _arrays.floating(
        student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings
    )
    _arrays.check_rank(3, student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_batch(student_embeddings=s, teacher_embeddings=t)
    if s.shape[-1] != t.shape[-1]:
        raise ValueError(
            "student_embeddings and teacher_embeddings must have one width, "
            f"got {s.shape} and {t.shape}"
        )
    _arrays.check_not_negative(margin=margin)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    (batch, k, width), m = s.shape, t.shape[1]
    cosines = _arrays.unit(s).reshape(-1, width) @ _arrays.unit(t).reshape(-1, width).T
    similarity = jnp.max(cosines.reshape(batch, k, batch, m), axis=(1, 3))
    own = jnp.diagonal(similarity)[:, None]
    hinges = jnp.maximum(margin - own + similarity, 0) + jnp.maximum(margin - own + similarity.T, 0)
    others = _arrays.pairs(where, batch)
    return jnp.sum(jnp.where(others, hinges, jnp.zeros_like(hinges)), axis=1)


def attention_diversity(student_attention, *, where=None):
    r"""Squared distance of the attention heads' inner products from those of orthonormal heads.

    .. math:: \lVert A A^\top - I \rVert_F^2

    Keeps the K heads of a bag from attending to the same places; each head's weights sum to one.

    Args:
        student_attention: `[..., K, L]`, weights of K heads over L places.
        where: `[...]` boolean; masked bags give zero, in value and gradient.

    Returns:
        `[...]`

    Raises:
        TypeError: attention that is not floating-point. ValueError: shapes.

    >>> attention_diversity(jnp.array([[[1.0, 0.0], [1.0, 0.0]]]))
    Array([2.], dtype=float32)

    Reference:
        Lin, Feng, Santos, Yu, Xiang, Zhou, Bengio, "A Structured Self-Attentive Sentence Embedding",
        2017; in polysemous embeddings beside `bag_margin`.
    """
    (a,) = _arrays.floating(student_attention=student_attention)
    _arrays.check_min_rank(2, student_attention=a)
    _arrays.check_where(where, a.shape[:-2])
    a = _arrays.select(where, a)
    products = a @ a.swapaxes(-1, -2)
    apart = products - jnp.broadcast_to(jnp.eye(a.shape[-2], dtype=a.dtype), products.shape)
    return _arrays.select(where, jnp.sum(jnp.square(apart), axis=(-2, -1)))
