"""Losses on the relations between the examples of a batch: distances, angles, similarities.

Notation: `f_s` `[B, D_s]` and `f_t` `[B, D_t]` are embeddings, one row an example; the widths may
differ, since only relations are compared. An anchor is the example whose relations to all others
one value of the result is about; the mean over anchors is the published loss. A pair is kept if
`where` keeps both ends, and B counts the kept examples. The losses over a batch mix examples
(`COUPLING`): on several devices they need the global batch. Relations between the tokens of one
example (`relation_cosine`, `contextual_similarity`) do not.

Differences of rows are taken through the Gram matrix: `(x_j - x_i)·(x_k - x_i)` is
`G_jk - G_ij - G_ik + G_ii`, so no `[B, B, D]` array exists.
"""

import math

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def relational_distance(student_features, teacher_features, *, where=None):
    r"""Huber loss between the two sets of pairwise distances, each over its own mean, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j h(d^s_{ij} / \mu_s - d^t_{ij} / \mu_t),
        \quad \mu = \operatorname{mean}_{i \neq j} d_{ij}

    with `d` Euclidean and `h` the Huber function with threshold 1. The mean over anchors is the
    published loss.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; B counts the kept examples. Equal rows are at distance zero: they
        count in the mean, as any two examples do, and pass no gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes.

    >>> x = jnp.array([[0.0], [1.0], [3.0]])
    >>> relational_distance(x, 5 * x)
    Array([0., 0., 0.], dtype=float32)

    Reference:
        Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019. The authors weight it 25 beside
        the angle term's 50, on the embedding, with l2-normalised embeddings for the teacher.
    """
    f_s, f_t = _embeddings(student_features, teacher_features, where)
    kept = _arrays.pairs(where, f_s.shape[0])
    differences = _relative_distances(f_s, kept) - _relative_distances(f_t, kept)
    return _mean_over_partners(_huber(differences), kept, where)


def relational_angle(student_features, teacher_features, *, where=None):
    r"""Huber loss between the cosines of all angles of three examples, per vertex of the angle.

    .. math:: \ell_i = \frac{1}{B^2} \sum_{jk} h(\psi^s_{ijk} - \psi^t_{ijk}),
        \quad \psi_{ijk} = \langle u_{ij}, u_{ik} \rangle,
        \quad u_{ij} = \frac{f_j - f_i}{\lVert f_j - f_i \rVert}

    with `h` the Huber function with threshold 1. The anchor `i` is the vertex, where the two sides
    meet. The mean over anchors is the published loss. The number of angles is B³, and so is the work.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`
        where: `[B]` boolean; an angle needs all three examples, a masked anchor gives zero.

    Returns:
        `[B]`, one value a vertex; B counts the kept examples. Two equal rows have no direction: their
        `u` is the zero vector, and passes no gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes.

    >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> rotation = jnp.array([[0.0, 2.0], [-2.0, 0.0]])
    >>> bool(jnp.all(relational_angle(x, x @ rotation) < 1e-12))
    True

    Reference:
        Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019. The authors weight it 50 beside
        the distance term's 25 (2 and 1 in metric learning).
    """
    f_s, f_t = _embeddings(student_features, teacher_features, where)
    kept = _arrays.pairs(where, f_s.shape[0])
    differences = _angle_cosines(f_s, kept) - _angle_cosines(f_t, kept)
    totals = jnp.sum(_huber(differences), axis=(1, 2))
    count = _kept_count(where, f_s)
    return _arrays.divide(totals, jnp.full_like(totals, jnp.square(count)))


def similarity_preserving(student_features, teacher_features, *, where=None):
    r"""Squared difference of the two Gram matrices with rows of unit length, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j
        \left(\frac{G^s_{ij}}{\lVert G^s_i \rVert} - \frac{G^t_{ij}}{\lVert G^t_i \rVert}\right)^2,
        \quad G = F F^\top

    Args:
        student_features: `[B, ...]`, flattened to one row an example.
        teacher_features: `[B, ...]`; shapes may differ.
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; the mean over anchors is the published `‖·‖²_F / B²`.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes.

    >>> x = jnp.array([[3.0, 0.0], [0.0, 4.0]])
    >>> similarity_preserving(x, jnp.array([[1.0], [1.0]])).round(4)
    Array([0.2929, 0.2929], dtype=float32)

    Reference:
        Tung, Mori, "Similarity-Preserving Knowledge Distillation", 2019. The authors weight it 3000
        beside the cross-entropy, on the activations of the last convolution.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    size = f_s.shape[0]
    f_s, f_t = _embeddings(f_s.reshape(size, -1), f_t.reshape(f_t.shape[0], -1), where)
    differences = _arrays.unit(_gram(f_s)) - _arrays.unit(_gram(f_t))
    return _mean_over_partners(jnp.square(differences), _both(where, size), where)


def probabilistic_affinity(student_features, teacher_features, *, epsilon=1e-7, where=None):
    r"""KL(teacher ‖ student) of each example's affinities to the batch, as probabilities, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j p^t_{ij} \log \frac{p^t_{ij} + \epsilon}{p^s_{ij} + \epsilon},
        \quad p_{ij} = \frac{(1 + \cos(f_i, f_j)) / 2}{\sum_k (1 + \cos(f_i, f_k)) / 2}

    An example's affinity to itself takes part.

    Args:
        student_features: `[B, D_s]`
        teacher_features: `[B, D_t]`
        epsilon: at least 0; what bounds the ratio where the student's affinity vanishes (at 0 the
            value there is +inf).
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor, a mean over partners as the authors' code has it. A zero row has
        cosine 0 to everything and no gradient.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes, epsilon.

    >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> [round(float(value), 4) for value in probabilistic_affinity(s, t)]
    [0.2027, 0.2027]

    Reference:
        Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018.
        The authors use the cosine kernel and epsilon 1e-7; on CIFAR-100 the term is commonly weighted
        30000 beside the cross-entropy.
    """
    f_s, f_t = _embeddings(student_features, teacher_features, where)
    _arrays.check_not_negative(epsilon=epsilon)
    kept = _both(where, f_s.shape[0])
    p_s, p_t = _affinity_distribution(f_s, kept), _affinity_distribution(f_t, kept)
    epsilon = jnp.asarray(epsilon, p_s.dtype)
    carried = p_t > 0
    safe_t = jnp.where(carried, p_t, jnp.ones_like(p_t))
    # What the teacher does not carry must not reach the logarithm, or its gradient is 0 * inf.
    safe_s = jnp.where(carried, p_s, jnp.ones_like(p_s))
    terms = safe_t * (jnp.log(safe_t + epsilon) - jnp.log(safe_s + epsilon))
    return _mean_over_partners(terms, kept & carried, where)


def correlation_congruence(student_features, teacher_features, *, gamma=0.4, order=2, where=None):
    r"""Squared difference of the two kernel matrices of the batch, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j (K^s_{ij} - K^t_{ij})^2,
        \quad K_{ij} = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} \langle f_i, f_j \rangle^p

    `K` is the Gaussian kernel `exp(-γ‖f_i - f_j‖²)` of rows of unit length, by its Taylor series of
    order P: the caller normalises the rows. With P = 1 it is the bilinear kernel `⟨f_i, f_j⟩` times
    `2γ exp(-2γ)`, and the loss is scaled by the square of that.

    Args:
        student_features: `[B, D_s]`, rows of unit length.
        teacher_features: `[B, D_t]`, rows of unit length.
        gamma: γ > 0, the kernel's precision.
        order: P >= 1, a Python integer.
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor; the mean over anchors is the published `‖K_s - K_t‖²_F / B²`.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes, gamma, order.

    >>> s, t = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [1.0]])
    >>> correlation_congruence(s, t, gamma=0.5, order=1).round(4)
    Array([0.0677, 0.0677], dtype=float32)

    Reference:
        Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge Distillation",
        2019. The authors use order 2 and gamma 0.4.
    """
    f_s, f_t = _embeddings(student_features, teacher_features, where)
    _arrays.check_positive(gamma=gamma)
    if not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be an integer of at least 1, got {order}")
    size = f_s.shape[0]
    differences = _taylor_kernel(f_s, gamma, order) - _taylor_kernel(f_t, gamma, order)
    return _mean_over_partners(jnp.square(differences), _both(where, size), where)


def consecutive_discrepancy(student_features, teacher_features, *, where=None):
    r"""Product of the discrepancies of two consecutive examples, per pair of neighbours in the batch.

    .. math:: \ell_i = \sum_d |f^s_{i,d} - f^t_{i,d}| \, |f^s_{i+1,d} - f^t_{i+1,d}|

    A form of correlation congruence that circulates in code and differs from the paper's
    (`correlation_congruence`): it compares features and not relations, and its value depends on the
    order of the batch. It vanishes as soon as every other example is matched.

    Args:
        student_features: `[B, D]`
        teacher_features: `[B, D]`
        where: `[B - 1]` boolean over pairs of neighbours.

    Returns:
        `[B - 1]`, one value a pair `(i, i + 1)`.

    Raises:
        TypeError: features that are not floating-point. ValueError: shapes that differ.

    >>> consecutive_discrepancy(jnp.array([[1.0], [2.0], [3.0]]), jnp.zeros((3, 1)))
    Array([2., 6.], dtype=float32)

    Reference:
        Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020, among the baselines of
        its code, where it is weighted 0.02.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_shape(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, (f_s.shape[0] - 1,))
    first, second = f_s[:-1] - f_t[:-1], f_s[1:] - f_t[1:]
    first, second = _arrays.select(where, first, second)
    return jnp.sum(jnp.abs(first) * jnp.abs(second), axis=1)


def instance_graph_edges(student_features, teacher_features, *, where=None):
    r"""Squared difference of the two sets of squared distances, each over its largest, per anchor.

    .. math:: \ell_i = \frac{1}{B} \sum_j \left(\frac{d^{s\,2}_{ij}}{\max d^{s\,2}}
        - \frac{d^{t\,2}_{ij}}{\max d^{t\,2}}\right)^2

    The edge term of the instance relationship graph. Its vertex term is `feature_hint` on the
    logits, its transformation term `instance_graph_transformation`.

    Args:
        student_features: `[B, ...]`, flattened to one row an example.
        teacher_features: `[B, ...]`; shapes may differ.
        where: `[B]` boolean; a pair needs both ends, a masked anchor gives zero.

    Returns:
        `[B]`, one value an anchor.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, batch sizes.

    >>> x = jnp.array([[0.0], [1.0], [2.0]])
    >>> instance_graph_edges(x, jnp.array([[0.0], [2.0], [2.0]])).round(4)
    Array([0.1875, 0.2083, 0.0208], dtype=float32)

    Reference:
        Liu, Cao, Li, Yuan, Hu, Li, Duan, "Knowledge Distillation via Instance Relationship Graph",
        2019. Public code weights vertices 0.1, edges 5 and transformation 5.
    """
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_min_rank(2, student_features=f_s, teacher_features=f_t)
    f_s, f_t = _embeddings(f_s.reshape(f_s.shape[0], -1), f_t.reshape(f_t.shape[0], -1), where)
    kept = _arrays.pairs(where, f_s.shape[0])
    differences = _over_largest(jnp.where(kept, _arrays.squared_distances(f_s), 0)) - _over_largest(
        jnp.where(kept, _arrays.squared_distances(f_t), 0)
    )
    return _mean_over_partners(jnp.square(differences), kept, where)


def instance_graph_transformation(student_changes, teacher_changes, *, where=None):
    r"""Squared difference of how far each example moves between two layers, over the largest move.

    .. math:: \ell_i = \left(\frac{\lVert c^s_i \rVert^2}{\max_j \lVert c^s_j \rVert^2}
        - \frac{\lVert c^t_i \rVert^2}{\max_j \lVert c^t_j \rVert^2}\right)^2

    Args:
        student_changes: `[B, ...]`, the student's feature of a later layer minus that of an earlier
            one, brought to one shape by the caller (pooling, averaging channels).
        teacher_changes: `[B, ...]`, the same of the teacher; shapes may differ.
        where: `[B]` boolean; masked examples give zero and take no part in the maximum.

    Returns:
        `[B]`.

    Raises:
        TypeError: changes that are not floating-point. ValueError: ranks, batch sizes.

    >>> instance_graph_transformation(jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [3.0]]))
    Array([0.5625, 0.    ], dtype=float32)

    Reference:
        Liu, Cao, Li, Yuan, Hu, Li, Duan, "Knowledge Distillation via Instance Relationship Graph",
        2019. Public code weights it 5 beside 5 for edges and 0.1 for vertices.
    """
    c_s, c_t = _arrays.floating(student_changes=student_changes, teacher_changes=teacher_changes)
    _arrays.check_min_rank(2, student_changes=c_s, teacher_changes=c_t)
    _arrays.check_same_batch(student_changes=c_s, teacher_changes=c_t)
    _arrays.check_where(where, c_s.shape[:1])
    c_s, c_t = _arrays.select(where, c_s, c_t)
    moves_s = jnp.sum(jnp.square(c_s), axis=tuple(range(1, c_s.ndim)))
    moves_t = jnp.sum(jnp.square(c_t), axis=tuple(range(1, c_t.ndim)))
    return jnp.square(_over_largest(moves_s) - _over_largest(moves_t))


def neighbour_graph_divergence(student_features, teacher_features, *, neighbours=8, where=None):
    r"""KL(student ‖ teacher) of each node's edges in the two nearest-neighbour graphs, per node.

    .. math:: \ell_i = \sum_j q_{ij} \log \frac{q_{ij}}{p_{ij}},
        \quad q_i = \operatorname{softmax}(A^s_i),\ p_i = \operatorname{softmax}(A^t_i),
        \quad A_{ij} = e^{-\lVert f_i - f_j \rVert^2 / 2\sigma}\ [i \in \mathrm{kNN}(j)]

    with σ the mean squared distance of the graph's own nodes. The graph is rebuilt on every call and
    which edges exist passes no gradient.

    Args:
        student_features: `[N, D_s]`, nodes: examples, or the tokens of a batch of images.
        teacher_features: `[N, D_t]`
        neighbours: k >= 1, a Python integer; at most N - 1 are there.
        where: `[N]` boolean; masked nodes have no edges and give zero.

    Returns:
        `[N]`, one value a node.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, sizes, neighbours.

    >>> x = jnp.array([[0.0], [1.0], [3.0], [3.5]])
    >>> bool(jnp.all(jnp.abs(neighbour_graph_divergence(x, 2 * x, neighbours=2)) < 1e-6))
    True

    Reference:
        Zhang, Liu, He, "Knowledge Distillation via Token-level Relationship Graph", 2023: the local
        term. The scale σ is our choice; the paper's is not known to us.
    """
    f_s, f_t = _embeddings(student_features, teacher_features, where)
    if not isinstance(neighbours, int) or neighbours < 1:
        raise ValueError(f"neighbours must be an integer of at least 1, got {neighbours}")
    size = f_s.shape[0]
    kept = _both(where, size)
    log_q = _graph_log_probs(f_s, kept, neighbours)
    log_p = _graph_log_probs(f_t, kept, neighbours)
    values = _arrays.expectation(log_q, _arrays.log_ratio(log_q, log_p))
    return _arrays.select(where, values)


def relation_cosine(student_tokens, teacher_tokens, *, where=None):
    r"""One minus the cosine between the two Gram matrices of an example's tokens, per example.

    .. math:: 1 - \frac{\langle R_s, R_t \rangle_F}{\lVert R_s \rVert_F \lVert R_t \rVert_F},
        \quad R = Y Y^\top

    Args:
        student_tokens: `[B, N, D_s]`
        teacher_tokens: `[B, N, D_t]`; widths may differ.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`; 1 where a side has no tokens but zeros.

    Raises:
        TypeError: tokens that are not floating-point. ValueError: ranks, sizes.

    >>> y = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> relation_cosine(y, jnp.array([[[1.0], [1.0]]])).round(4)
    Array([0.2929], dtype=float32)

    Reference:
        Cai, Zhang, He, He, Tong, Gan, Wang, Bai, "LLaVA-KD: A Framework of Distilling Multimodal
        Large Language Models", 2024: its relation term over visual tokens, commonly weighted 0.5.
    """
    y_s, y_t = _tokens(student_tokens, teacher_tokens, where)
    size = y_s.shape[0]
    r_s, r_t = _token_gram(y_s).reshape(size, -1), _token_gram(y_t).reshape(size, -1)
    cosines = jnp.sum(_arrays.unit(r_s) * _arrays.unit(r_t), axis=-1)
    return _arrays.select(where, 1 - cosines)


def contextual_similarity(student_tokens, teacher_tokens, *, where=None):
    r"""Mean squared difference of the two softmaxed token similarity matrices, per example.

    .. math:: \frac{1}{N^2} \sum_{mn} (c^s_{mn} - c^t_{mn})^2,
        \quad c_m = \operatorname{softmax}(Y_m Y^\top / \sqrt{D})

    Args:
        student_tokens: `[B, N, D_s]`
        teacher_tokens: `[B, N, D_t]`; widths may differ.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: tokens that are not floating-point. ValueError: ranks, sizes.

    >>> y = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> contextual_similarity(y, jnp.zeros((1, 2, 5))).round(4)
    Array([0.0288], dtype=float32)

    Reference:
        Zhang, Liu, He, "Knowledge Distillation via Token-level Relationship Graph", 2023: the
        contextual term, inside each image.
    """
    y_s, y_t = _tokens(student_tokens, teacher_tokens, where)
    c_s = jnp.exp(_arrays.log_softmax(_token_gram(y_s) / math.sqrt(y_s.shape[-1])))
    c_t = jnp.exp(_arrays.log_softmax(_token_gram(y_t) / math.sqrt(y_t.shape[-1])))
    return jnp.mean(jnp.square(c_s - c_t), axis=(1, 2))


def _embeddings(student_features, teacher_features, where):
    """Both sets of embeddings checked, in at least float32, with masked rows at zero."""
    f_s, f_t = _arrays.floating(
        student_features=student_features, teacher_features=teacher_features
    )
    _arrays.check_rank(2, student_features=f_s, teacher_features=f_t)
    _arrays.check_same_batch(student_features=f_s, teacher_features=f_t)
    _arrays.check_where(where, f_s.shape[:1])
    return _arrays.select(where, f_s, f_t)


def _tokens(student_tokens, teacher_tokens, where):
    y_s, y_t = _arrays.floating(student_tokens=student_tokens, teacher_tokens=teacher_tokens)
    _arrays.check_rank(3, student_tokens=y_s, teacher_tokens=y_t)
    _arrays.check_same_batch(2, student_tokens=y_s, teacher_tokens=y_t)
    _arrays.check_where(where, y_s.shape[:1])
    return _arrays.select(where, y_s, y_t)


def _kept_count(where, x):
    count = x.shape[0] if where is None else jnp.sum(where)
    return jnp.asarray(count, x.dtype)


def _both(where, size):
    """[B, B] mask of ordered pairs, an example with itself too, both kept by `where`."""
    if where is None:
        return jnp.ones((size, size), bool)
    return where[:, None] & where[None, :]


def _mean_over_partners(values, kept, where):
    """[B, B] values summed over the partners that `kept` keeps, over the number of kept examples."""
    totals = jnp.sum(jnp.where(kept, values, jnp.zeros_like(values)), axis=1)
    return _arrays.divide(totals, jnp.full_like(totals, _kept_count(where, values)))


def _gram(x):
    return jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)


def _token_gram(x):
    return jnp.einsum("bmd,bnd->bmn", x, x, precision=jax.lax.Precision.HIGHEST)


def _relative_distances(x, kept):
    """[B, B] distances over their mean among the kept pairs."""
    distances = _arrays.sqrt(jnp.where(kept, _arrays.squared_distances(x), 0))
    mean = _arrays.divide(jnp.sum(distances), jnp.sum(kept, dtype=x.dtype))
    return _arrays.divide(distances, jnp.broadcast_to(mean, distances.shape))


def _angle_cosines(x, kept):
    """[B, B, B] cosines of the angles at the first index, zero where a side has no length."""
    centred = x - jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))
    gram = _gram(centred)
    squares = jnp.diagonal(gram)
    inner = gram[None, :, :] - gram[:, :, None] - gram[:, None, :] + squares[:, None, None]
    lengths = _arrays.sqrt(jnp.where(kept, _arrays.squared_distances(x), 0))
    inverse = _arrays.divide(jnp.ones_like(lengths), lengths)
    # Both sides of an angle may be one side: its cosine is 1 and does not move with the features.
    same_side = jnp.eye(x.shape[0], dtype=bool)[None, :, :]
    own = (lengths > 0).astype(x.dtype)[:, :, None]
    return jnp.where(same_side, own, inner * inverse[:, :, None] * inverse[:, None, :])


def _affinity_distribution(x, kept):
    """[B, B] cosine affinities (1 + cos) / 2 of the kept pairs, each row over its sum."""
    affinities = jnp.where(kept, (1 + _gram(_arrays.unit(x))) / 2, 0)
    # Rounding may put a cosine below -1, and a probability below zero.
    affinities = jnp.maximum(affinities, 0)
    sums = jnp.sum(affinities, axis=1, keepdims=True)
    return _arrays.divide(affinities, jnp.broadcast_to(sums, affinities.shape))


def _taylor_kernel(x, gamma, order):
    """[B, B] Taylor series of the Gaussian kernel of unit rows, by Horner's rule."""
    similarity = _gram(x)
    series = jnp.ones_like(similarity)
    for p in range(order, 0, -1):
        series = 1 + (2 * gamma / p) * similarity * series
    return jnp.exp(-2 * jnp.asarray(gamma, x.dtype)) * series


def _graph_log_probs(x, kept, neighbours):
    """[N, N] log softmax over each node's edges, 0 for a pair that is no edge, -inf for a masked."""
    size = x.shape[0]
    different = kept & ~jnp.eye(size, dtype=bool)
    distances = jnp.where(different, _arrays.squared_distances(x), 0)
    scale = _arrays.divide(jnp.sum(distances), jnp.sum(different, dtype=x.dtype))
    weights = jnp.exp(-_arrays.divide(distances, jnp.broadcast_to(2 * scale, distances.shape)))
    ordered = jnp.argsort(jnp.where(different, distances, jnp.inf), axis=1)
    ranks = jnp.argsort(ordered, axis=1)
    edges = jnp.less(ranks.T, neighbours) & different
    return _arrays.log_softmax(jnp.where(kept, jnp.where(edges, weights, 0), -jnp.inf))


def _over_largest(x):
    """`x` over its largest entry; zeros stay zeros."""
    largest = jnp.max(x, initial=0.0)
    return _arrays.divide(x, jnp.broadcast_to(largest, x.shape))


def _huber(x):
    size = jnp.abs(x)
    return jnp.where(size <= 1, 0.5 * jnp.square(x), size - 0.5)
