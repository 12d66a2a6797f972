"""Losses that want one score above another by a margin.

Notation: scores `S` `[B, B]` are of every first example with every second one, the matching pair on
the diagonal, `A` those of the branch that is boosted from; triplets are embeddings `[N, D]`.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def relative_boosting(student_scores, teacher_scores, *, margin=0.2, where=None):
    r"""Hinge on separating each pair by a margin more than the anchor branch does, hardest negative.

    .. math:: \ell_i = \max_{j \neq i} [m + (A_{ii} - A_{ij}) - (S_{ii} - S_{ij})]_+
        + \max_{j \neq i} [m + (A_{ii} - A_{ji}) - (S_{ii} - S_{ji})]_+

    Args:
        student_scores: `[B, B]`, the target branch's scores `S` of image i with text j; pairs that
            belong together are on the diagonal.
        teacher_scores: `[B, B]`, the anchor branch's scores `A`.
        margin: m >= 0, the base margin times the boosting scale.
        where: `[B]` boolean over pairs; masked ones are no negatives and give zero.

    Returns:
        `[B]`; zero for a single pair. The published loss is the sum.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, margin.

    >>> relative_boosting(jnp.eye(2), 0.5 * jnp.eye(2), margin=0.75)
    Array([0.5, 0.5], dtype=float32)

    Reference:
        Diao, Zhang, Gao, Ruan, Lu, "Deep Boosting Learning: A Brand-new Cooperative Approach for
        Image-Text Matching", 2024. The authors use scale 1; the base margin is the matching loss's.
    """
    s, t, others = _score_matrices(student_scores, teacher_scores, margin, where)
    gain_s, gain_t = jnp.diagonal(s)[:, None] - s, jnp.diagonal(t)[:, None] - t
    rows = _hardest(margin + gain_t - gain_s, others)
    gain_s, gain_t = jnp.diagonal(s)[:, None] - s.T, jnp.diagonal(t)[:, None] - t.T
    return rows + _hardest(margin + gain_t - gain_s, others)


def absolute_boosting(student_scores, teacher_scores, *, margin=0.2, balance=0.5, where=None):
    r"""Hinge on scoring a pair higher and its hardest negative lower than the anchor branch does.

    .. math:: \ell_i = 2 [\gamma m + A_{ii} - S_{ii}]_+
        + \max_{j \neq i} [(1 - \gamma) m + S_{ij} - A_{ij}]_+
        + \max_{j \neq i} [(1 - \gamma) m + S_{ji} - A_{ji}]_+

    Args:
        student_scores: `[B, B]`, the target branch's scores `S`, pairs on the diagonal.
        teacher_scores: `[B, B]`, the anchor branch's scores `A`.
        margin: m >= 0, the base margin times the boosting scale.
        balance: γ between 0 and 1, the part of the margin that positives bear.
        where: `[B]` boolean over pairs; masked ones are no negatives and give zero.

    Returns:
        `[B]`; the published loss is the sum.

    Raises:
        TypeError: scores that are not floating-point. ValueError: shapes, margin, balance.

    >>> absolute_boosting(jnp.eye(2), jnp.eye(2), margin=0.5)
    Array([1., 1.], dtype=float32)

    Reference:
        Diao, Zhang, Gao, Ruan, Lu, "Deep Boosting Learning: A Brand-new Cooperative Approach for
        Image-Text Matching", 2024. The authors use scale 1 and γ = 0.5.
    """
    s, t, others = _score_matrices(student_scores, teacher_scores, margin, where)
    _arrays.check_fraction(balance=balance)
    own = jax.nn.relu(balance * margin + jnp.diagonal(t) - jnp.diagonal(s))
    above = (1 - balance) * margin + s - t
    values = 2 * own + _hardest(above, others) + _hardest(above.T, others)
    return _arrays.select(where, values)


def triplet_margin(student_anchors, closer, farther, *, margin=0.2, where=None):
    r"""Hinge on the anchor being nearer to one embedding than to another by a margin.

    .. math:: [m + \lVert a - c \rVert - \lVert a - f \rVert]_+

    Args:
        student_anchors: `[B, D]`
        closer: `[B, D]`
        farther: `[B, D]`
        margin: m >= 0.
        where: `[B]` boolean; masked triplets give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, margin.

    >>> triplet_margin(jnp.array([[0.0]]), jnp.array([[2.0]]), jnp.array([[1.5]]), margin=0.5)
    Array([1.], dtype=float32)

    Reference:
        Schroff, Kalenichenko, Philbin, "FaceNet: A Unified Embedding for Face Recognition and
        Clustering", 2015, with squared distances of unit rows and margin 0.2.
    """
    near, far = _triplet_distances(student_anchors, closer, farther, where)
    _arrays.check_not_negative(margin=margin)
    return _arrays.select(where, jax.nn.relu(margin + near - far))


def triplet_preference(student_anchors, closer, farther, *, where=None):
    r"""Negative log-probability of a judgement "the anchor is nearer to this than to that".

    .. math:: -\log \operatorname{sigmoid}(\lVert a - f \rVert - \lVert a - c \rVert)

    Args:
        student_anchors: `[B, D]`
        closer: `[B, D]`, what a person or a teacher judged nearer.
        farther: `[B, D]`
        where: `[B]` boolean; masked triplets give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes.

    >>> triplet_preference(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.zeros((1, 2))).round(4)
    Array([0.6931], dtype=float32)

    Reference:
        Bobu, Peng, "Aligning Robot Representations with Humans", 2022, for similarity queries to
        people.
    """
    near, far = _triplet_distances(student_anchors, closer, farther, where)
    return _arrays.select(where, jax.nn.softplus(near - far))


def _score_matrices(student_scores, teacher_scores, margin, where):
    s, t = _arrays.floating(student_scores=student_scores, teacher_scores=teacher_scores)
    _arrays.check_rank(2, student_scores=s, teacher_scores=t)
    _arrays.check_same_shape(student_scores=s, teacher_scores=t)
    if s.shape[0] != s.shape[1]:
        raise ValueError(f"student_scores must be square, got shape {s.shape}")
    _arrays.check_not_negative(margin=margin)
    _arrays.check_where(where, s.shape[:1])
    s, t = _arrays.select(where, s, t)
    if where is not None:
        s, t = (jnp.where(where[None, :], x, jnp.zeros_like(x)) for x in (s, t))
    return s, t, _arrays.pairs(where, s.shape[0])


def _hardest(values, others):
    """[B] largest positive value of each row among `others`, zero without any."""
    return jnp.max(jnp.where(others, jax.nn.relu(values), 0), axis=1)


def _triplet_distances(student_anchors, closer, farther, where):
    a, c, f = _arrays.floating(student_anchors=student_anchors, closer=closer, farther=farther)
    _arrays.check_rank(2, student_anchors=a, closer=c, farther=f)
    _arrays.check_same_shape(student_anchors=a, closer=c, farther=f)
    _arrays.check_where(where, a.shape[:1])
    a, c, f = _arrays.select(where, a, c, f)
    return _arrays.norm(a - c), _arrays.norm(a - f)
