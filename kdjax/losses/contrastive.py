"""Losses that tell an example's own counterpart from others.

Notation: embeddings are rows, `s` `[B, D]` the student's and `t` `[B, D]` the teacher's, and
`cos(a, b)` is their cosine, 0 with a zero row. A distribution over candidates is a softmax of cosines
over a temperature τ. Where the candidates are the batch itself, the loss mixes examples (`COUPLING`)
and `where` takes masked examples out of the candidates too. Memory banks and the constants that
belong to them are arguments; the caller keeps and updates them, detached.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, _embeddings


def info_nce(student_embeddings, teacher_embeddings, *, temperature=0.07, where=None):
    r"""Negative log-probability of an example's own teacher embedding among the batch's.

    .. math:: -\log \frac{\exp(\cos(s_i, t_i) / \tau)}{\sum_j \exp(\cos(s_i, t_j) / \tau)}

    Rows may be examples, tokens, segments or regions of several examples; on transposed matrices
    channels are contrasted.

    Args:
        student_embeddings: `[B, D]`
        teacher_embeddings: `[B, D]`
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.eye(2)
    >>> values = info_nce(x, x, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133]

    Reference:
        van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018.
        With τ = 0.07 as in the instance discrimination of Wu et al., 2018; to distil image features
        into point clouds: Liu et al., "Segment Any Point Cloud Sequences", 2023, τ = 0.07.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    log_q = _embeddings.log_probs(
        _embeddings.cosines(s, t), temperature, _embeddings.candidates(where, s.shape[0])
    )
    return _arrays.select(where, -jnp.diagonal(log_q))


def symmetric_info_nce(student_embeddings, teacher_embeddings, *, temperature=0.07, where=None):
    r"""Mean of `info_nce` from the first side to the second and back: the loss of CLIP.

    .. math:: \tfrac{1}{2} \left( -\log \operatorname{softmax}_j(\cos(s_i, t_j) / \tau)_i
        - \log \operatorname{softmax}_j(\cos(s_j, t_i) / \tau)_i \right)

    Args:
        student_embeddings: `[B, D]`, or the images' embeddings.
        teacher_embeddings: `[B, D]`, or the texts'.
        temperature: τ > 0; it may be learned.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> s, t = jnp.eye(2), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    >>> values = symmetric_info_nce(s, t, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.5032, 1.0032]

    Reference:
        Radford, Kim, Hallacy, et al., "Learning Transferable Visual Models From Natural Language
        Supervision", 2021. The authors learn τ from 0.07 on and keep 1/τ at most 100.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    cosines, candidates = _embeddings.cosines(s, t), _embeddings.candidates(where, s.shape[0])
    forward = jnp.diagonal(_embeddings.log_probs(cosines, temperature, candidates))
    backward = jnp.diagonal(_embeddings.log_probs(cosines.T, temperature, candidates))
    return _arrays.select(where, -(forward + backward) / 2)


def two_view_contrast(student_embeddings, teacher_embeddings, *, temperature=0.5, where=None):
    r"""Contrast of two views of each example against both views of all others: NT-Xent.

    .. math:: \ell_i = \tfrac{1}{2} (\ell_{s_i \to t_i} + \ell_{t_i \to s_i}), \quad
        \ell_{a \to b} = -\log \frac{\exp(\cos(a, b) / \tau)}
        {\sum_{c \neq a} \exp(\cos(a, c) / \tau)}

    where `c` runs over all 2B views but the anchor.

    Args:
        student_embeddings: `[B, D]`, one view (or the student's embedding).
        teacher_embeddings: `[B, D]`, the other view (or the teacher's).
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for a single example, which has nothing to be told from.

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.eye(2)
    >>> two_view_contrast(x, x, temperature=1.0).round(4)
    Array([0.5514, 0.5514], dtype=float32)

    Reference:
        Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
        Representations", 2020. The authors use τ = 0.1 on ImageNet and 0.5 on CIFAR-10.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(temperature=temperature)
    size = s.shape[0]
    views = jnp.concatenate([s, t])
    twice = None if where is None else jnp.concatenate([where, where])
    others = _embeddings.candidates(twice, 2 * size) & ~jnp.eye(2 * size, dtype=bool)
    log_q = _embeddings.log_probs(_embeddings.cosines(views, views), temperature, others)
    there, back = jnp.diagonal(log_q, size), jnp.diagonal(log_q, -size)
    # A masked example keeps no candidate, not even its own other view: nothing may come of its -inf.
    there, back = _arrays.select(where, there, back)
    return -(there + back) / 2


def supervised_contrast(student_embeddings, labels, *, temperature=0.1, where=None):
    r"""Mean negative log-probability of the others of an example's class among all others.

    .. math:: -\frac{1}{|P_i|} \sum_{p \in P_i} \log \frac{\exp(\cos(s_i, s_p) / \tau)}
        {\sum_{a \neq i} \exp(\cos(s_i, s_a) / \tau)}, \quad P_i = \{p \neq i : y_p = y_i\}

    Args:
        student_embeddings: `[B, D]`
        labels: `[B]` integers: classes, tasks, environments, or what else makes two examples alike.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for an example that is the only one of its class.

    Raises:
        TypeError: embeddings that are not floating-point, labels that are not integers.
        ValueError: shapes, temperature.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> values = supervised_contrast(x, jnp.array([0, 0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.0]

    Reference:
        Khosla, Teterwak, Wang, Sarna, Tian, Isola, Maschinot, Liu, Krishnan, "Supervised Contrastive
        Learning", 2020: the form with the sum outside the logarithm. The authors use τ = 0.1.
    """
    (s,) = _arrays.floating(student_embeddings=student_embeddings)
    _arrays.check_rank(2, student_embeddings=s)
    _arrays.check_labels(s.shape[:1], labels=labels)
    labels = jnp.asarray(labels)
    weights = (labels[:, None] == labels[None, :]).astype(s.dtype)
    return _weighted_contrast(s, weights, temperature, where)


def soft_supervised_contrast(
    student_embeddings, class_probabilities, *, temperature=0.1, where=None
):
    r"""`supervised_contrast` with soft classes: a pair counts by how much its classes agree.

    .. math:: -\frac{1}{\sum_{p \neq i} w_{ip}} \sum_{p \neq i} w_{ip} \log
        \frac{\exp(\cos(s_i, s_p) / \tau)}{\sum_{a \neq i} \exp(\cos(s_i, s_a) / \tau)},
        \quad w_{ip} = \langle y_i, y_p \rangle

    Args:
        student_embeddings: `[B, D]`
        class_probabilities: `[B, C]`, rows of targets `y`, by the teacher; the caller detaches them.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples are no candidates and give zero.

    Returns:
        `[B]`; zero for an example that agrees with no other.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature.

    >>> x = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> y = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> values = soft_supervised_contrast(x, y, temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.0]

    Reference:
        Bai, Liu, Wang, Chen, Mu, Li, Zhou, Feng, Wu, Hu, "Towards Distribution-Agnostic Generalized
        Category Discovery", 2023. The authors weight it 0.175 beside 0.175 of the hard form and 0.65
        of the two-view contrast.
    """
    s, y = _arrays.floating(
        student_embeddings=student_embeddings, class_probabilities=class_probabilities
    )
    _arrays.check_rank(2, student_embeddings=s, class_probabilities=y)
    _arrays.check_same_batch(student_embeddings=s, class_probabilities=y)
    _arrays.check_where(where, s.shape[:1])
    y = _arrays.select(where, y)
    return _weighted_contrast(s, _embeddings.product(y, y), temperature, where)


def categorised_contrast(
    student_embeddings, teacher_embeddings, categories, owners, *, temperature=0.1, where=None
):
    r"""`info_nce` of regions against the regions of one category from other examples.

    .. math:: -\log \frac{\exp(\cos(s_a, t_a) / \tau)}
        {\exp(\cos(s_a, t_a) / \tau) + \sum_{b \in N_a} \exp(\cos(s_a, t_b) / \tau)},
        \quad N_a = \{b : c_b = c_a,\ o_b \neq o_a\}

    Args:
        student_embeddings: `[N, D]`, one row a region of a feature map.
        teacher_embeddings: `[N, D]`
        categories: `[N]` integers; regions of other categories are no negatives.
        owners: `[N]` integers, the example that a region belongs to: its own regions are none either.
        temperature: τ > 0.
        where: `[N]` boolean; masked regions are no candidates and give zero.

    Returns:
        `[N]`; zero for a region without negatives.

    Raises:
        TypeError: embeddings that are not floating-point, categories or owners that are not integers.
        ValueError: shapes, temperature.

    >>> x, zeros = jnp.eye(3), jnp.zeros(3, int)
    >>> values = categorised_contrast(x, x, zeros, jnp.array([0, 0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133, 0.5514]

    Reference:
        Wang, Chen, Wang, "Contrastive Representation Distillation via Multi-Scale Feature
        Decoupling" (MSDCRD), 2025. A region's category says whether the teacher's classifier gives it the
        class of the whole image; pooled over windows of several sizes. The exact formulas are ours.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_labels(s.shape[:1], categories=categories, owners=owners)
    _arrays.check_positive(temperature=temperature)
    categories, owners = jnp.asarray(categories), jnp.asarray(owners)
    negatives = (categories[:, None] == categories[None, :]) & (owners[:, None] != owners[None, :])
    candidates = _embeddings.candidates(where, s.shape[0]) & (
        negatives | jnp.eye(s.shape[0], dtype=bool)
    )
    log_q = _embeddings.log_probs(_embeddings.cosines(s, t), temperature, candidates)
    return _arrays.select(where, -jnp.diagonal(log_q))


def candidate_contrast(student_embeddings, candidates, positives, *, temperature=0.07, where=None):
    r"""Negative log-probability of the right candidate among all, by cosine.

    .. math:: -\log \frac{\exp(\cos(s_i, c_{p_i}) / \tau)}{\sum_k \exp(\cos(s_i, c_k) / \tau)}

    Args:
        student_embeddings: `[B, D]`
        candidates: `[K, D]`: prototypes, centroids, texts of classes. Where they are examples of the
            batch, the term that uses this loss mixes examples.
        positives: `[B]` integers below K, which candidate is the example's.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point, positives that are not integers.
        ValueError: ranks, widths, temperature.

    >>> values = candidate_contrast(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]), temperature=1.0)
    >>> [round(float(v), 4) for v in values]
    [0.3133, 0.3133]

    Reference:
        Xu, Liu, Li, Loy, "Knowledge Distillation Meets Self-Supervision", 2020, where it trains the
        teacher's head to find each transformed image's original, with τ = 1. With τ = 0.05 over
        centroids of clusters in unsupervised adaptation, 0.1 over prototypes of tasks.
    """
    s, c = _arrays.floating(student_embeddings=student_embeddings, candidates=candidates)
    _embeddings.check_same_width(student_embeddings=s, candidates=c)
    _arrays.check_labels(s.shape[:1], positives=positives)
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s = _arrays.select(where, s)
    log_q = _embeddings.log_probs(_embeddings.cosines(s, c), temperature)
    chosen = jnp.take_along_axis(log_q, jnp.asarray(positives)[:, None], axis=1)
    return _arrays.select(where, -chosen[:, 0])


def noise_contrastive_estimation(
    student_embeddings,
    teacher_candidates,
    *,
    population,
    log_normaliser,
    temperature=0.07,
    where=None,
):
    r"""Binary cross-entropy of telling an example's own candidate from K drawn ones, summed over them.

    .. math:: -\log \frac{p_0}{p_0 + K / M} - \sum_{k=1}^{K} \log \frac{K / M}{p_k + K / M},
        \quad p_k = \frac{\exp(\langle s_i, c_{ik} \rangle / \tau)}{Z}

    The memory-bank form of contrastive representation distillation, in one direction; the other
    has the teacher's embedding as the anchor and the student's bank as candidates, and the method is
    the sum of both. The same, with an encoder whose last layer is spectrally normalised, is the dual
    (global) form of Wasserstein contrastive distillation.

    Args:
        student_embeddings: `[B, D]`, anchors of unit length.
        teacher_candidates: `[B, 1 + K, D]`, rows of the bank of unit length; the first is the
            example's own, the others were drawn uniformly.
        population: M > 0, the number of rows of the bank.
        log_normaliser: log Z. The authors take Z once, from the first batch:
            `M * mean(exp(dot / τ))` over everything that it scores.
        temperature: τ > 0.
        where: `[B]` boolean; masked examples give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, population, temperature.

    >>> s, c = jnp.array([[1.0, 0.0]]), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> noise_contrastive_estimation(
    ...     s, c, population=2, log_normaliser=jnp.log(2.0), temperature=1.0
    ... ).round(4)
    Array([1.0064], dtype=float32)

    Reference:
        Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020. The authors use 16384
        negatives, τ = 0.07, 128 dimensions, a bank with momentum 0.5, and weight 0.8. Chen, Wang,
        Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation", 2021.
    """
    s, c = _arrays.floating(
        student_embeddings=student_embeddings, teacher_candidates=teacher_candidates
    )
    _arrays.check_rank(2, student_embeddings=s)
    _arrays.check_rank(3, teacher_candidates=c)
    _arrays.check_same_batch(student_embeddings=s, teacher_candidates=c)
    if s.shape[1] != c.shape[2] or c.shape[1] < 2:
        raise ValueError(
            f"teacher_candidates must be [B, 1 + K, D] with K >= 1 and the width of "
            f"student_embeddings {s.shape}, got {c.shape}"
        )
    _arrays.check_positive(population=population, temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s, c = _arrays.select(where, s, c)
    scores = jnp.einsum("bd,bkd->bk", s, c, precision=jax.lax.Precision.HIGHEST)
    log_p = scores / jnp.asarray(temperature, s.dtype) - jnp.asarray(log_normaliser, s.dtype)
    log_noise = jnp.log((c.shape[1] - 1) / jnp.asarray(population, s.dtype))
    own = jax.nn.softplus(log_noise - log_p[:, 0])
    drawn = jnp.sum(jax.nn.softplus(log_p[:, 1:] - log_noise), axis=1)
    return _arrays.select(where, own + drawn)


def transported_cost(
    student_embeddings, teacher_embeddings, *, epsilon=0.1, iterations=50, where=None
):
    r"""Cosine cost of the entropic optimal transport between the two batches, per student row.

    .. math:: \ell_i = B \sum_j P_{ij} C_{ij}, \quad C_{ij} = 1 - \cos(s_i, t_j), \quad
        P = \operatorname{Sinkhorn}(C / \epsilon)

    with uniform marginals 1/B; the mean over rows is the transport cost `⟨P, C⟩`. The plan `P` is
    held constant, as the definition has it: the gradient flows through the cost alone.

    Args:
        student_embeddings: `[B, D]`
        teacher_embeddings: `[B, D]`
        epsilon: ε > 0, the entropic regularisation.
        iterations: at least 1, a Python integer; in the log domain.
        where: `[B]` boolean; masked examples are in neither set and give zero.

    Returns:
        `[B]`

    Raises:
        TypeError: embeddings that are not floating-point. ValueError: shapes, epsilon, iterations.

    >>> x = jnp.eye(2)
    >>> transported_cost(x, x[::-1], epsilon=0.1).round(3)
    Array([0., 0.], dtype=float32)

    Reference:
        Chen, Wang, Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation",
        2021: the primal (local) form. Epsilon and iterations are our choice. Cuturi, "Sinkhorn Distances", 2013.
    """
    s, t = _embeddings.paired(student_embeddings, teacher_embeddings, where)
    _arrays.check_positive(epsilon=epsilon)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations must be an integer of at least 1, got {iterations}")
    size = s.shape[0]
    kept = jnp.ones(size, bool) if where is None else where
    pairs = kept[:, None] & kept[None, :]
    cost = 1 - _embeddings.cosines(s, t)
    conditional = jax.lax.stop_gradient(_transport_plan(cost, kept, epsilon, iterations))
    return jnp.sum(jnp.where(pairs, conditional * cost, 0), axis=1)


def _weighted_contrast(s, weights, temperature, where):
    """Negative log-probabilities of the other examples `[B]`, in the mean by `weights` `[B, B]`."""
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, s.shape[:1])
    s = _arrays.select(where, s)
    others = _arrays.pairs(where, s.shape[0])
    log_q = _embeddings.log_probs(_embeddings.cosines(s, s), temperature, others)
    weights = jnp.where(others, weights, 0)
    log_q = jnp.where(others, log_q, 0)
    return _arrays.divide(-jnp.sum(weights * log_q, axis=1), jnp.sum(weights, axis=1))


def _transport_plan(cost, kept, epsilon, iterations):
    """[B, B] entropic plan between uniform marginals over `kept`, its rows scaled to sum 1."""
    pairs = kept[:, None] & kept[None, :]
    log_kernel = jnp.where(pairs, -cost / jnp.asarray(epsilon, cost.dtype), -jnp.inf)
    log_mass = -jnp.log(jnp.maximum(jnp.sum(kept, dtype=cost.dtype), 1))

    def log_sum(x):
        return jnp.where(kept, jax.nn.logsumexp(x, axis=1), 0)

    def balance(_, potentials):
        rows, columns = potentials
        rows = jnp.where(kept, log_mass - log_sum(log_kernel + columns[None, :]), 0)
        columns = jnp.where(kept, log_mass - log_sum(log_kernel.T + rows[None, :]), 0)
        return rows, columns

    zeros = jnp.zeros(cost.shape[0], cost.dtype)
    _, columns = jax.lax.fori_loop(0, iterations, balance, (zeros, zeros))
    # The rows' marginal holds exactly after a last row step, which normalises each row.
    return jnp.exp(_arrays.log_softmax(log_kernel + columns[None, :]))
