"""Losses on the relations between the examples of a batch: distances, angles, similarities.

Notation: `f_s` `[B, D_s]` and `f_t` `[B, D_t]` are embeddings, one row an example; the widths may
differ, since only relations are compared. Every loss of this file mixes examples (`COUPLING`): on
several devices it needs the global batch. A pair is kept if `where` keeps both ends.
"""

import jax.numpy as jnp

from kdjax.losses import _arrays


def relational_distance(student_features, teacher_features, *, where=None):
    r"""Huber loss between the two sets of pairwise distances, each over its own mean, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j h(d^s_{ij} / \mu_s - d^t_{ij} / \mu_t),
        \quad \mu = \operatorname{mean}_{d_{ij} > 0} d_{ij}

    with `d` Euclidean and `h` the Huber function with threshold 1. The mean over anchors is the
    published loss.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; B counts the kept examples. Equal rows are at distance zero, take
        no part in the mean and pass no gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes.

    >>> x = jnp.array([[0.0], [1.0], [3.0]])
    >>> relational_distance(x, 5 * x)
    Array([0., 0., 0.], dtype=float32)

    Reference:
        Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019. The authors weight it 25 beside
        the angle term's 50, on the embedding, with l2-normalised embeddings for the teacher.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_batch(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    f_s, f_t = _arrays.select(where, f_s, f_t)
    kept = _arrays.pairs(where, f_s.shape[0])
    examples = f_s.shape[0] if where is None else jnp.sum(where, dtype=f_s.dtype)
    differences = _relative_distances(f_s, kept) - _relative_distances(f_t, kept)
    per_anchor = jnp.sum(jnp.where(kept, _huber(differences), 0), axis=1)
    return _arrays.divide(per_anchor, jnp.full_like(per_anchor, examples))


def _relative_distances(x, kept):
    """[B, B] distances over the mean of the positive ones among the kept pairs."""
    distances = _arrays.sqrt(jnp.where(kept, _arrays.squared_distances(x), 0))
    positive = jnp.sum(distances > 0, dtype=x.dtype)
    mean = _arrays.divide(jnp.sum(distances), positive)
    return _arrays.divide(distances, jnp.broadcast_to(mean, distances.shape))


def _huber(x):
    size = jnp.abs(x)
    return jnp.where(size <= 1, 0.5 * jnp.square(x), size - 0.5)
