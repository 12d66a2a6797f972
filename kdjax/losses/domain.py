"""Losses between two sets of examples that are not paired: the domains of adaptation.

Notation: `x_s` `[N, D]` are features of the source and `x_t` `[M, D]` of the target; the sets may
differ in size, and which of the two is trained is the caller's matter: detach the other. Where the
result is a scalar, `source_where` `[N]` and `target_where` `[M]` keep examples, and a side without any
gives zero. Every loss of two sets mixes examples (`COUPLING`): it needs the global batch.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays, divergences

_EXACT = jax.lax.Precision.HIGHEST


def mean_discrepancy(source_features, target_features, *, source_where=None, target_where=None):
    r"""Squared distance of the two mean features: maximum mean discrepancy of a linear kernel.

    .. math:: \Big\| \frac{1}{N} \sum_i x_{s,i} - \frac{1}{M} \sum_j x_{t,j} \Big\|^2

    Args:
        source_features: `[N, D]`
        target_features: `[M, D]`
        source_where: `[N]` boolean.
        target_where: `[M]` boolean.

    Returns:
        A scalar.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, widths.

    >>> mean_discrepancy(jnp.array([[1.0], [3.0]]), jnp.array([[5.0]]))
    Array(9., dtype=float32)

    Reference:
        Tzeng, Hoffman, Zhang, Saenko, Darrell, "Deep Domain Confusion: Maximizing for Domain
        Invariance", 2014, with weight 0.25 for the distance itself.
    """
    x_s, x_t, w_s, w_t = _sets(source_features, target_features, source_where, target_where)
    difference = jnp.sum(w_s * x_s, axis=0) - jnp.sum(w_t * x_t, axis=0)
    return jnp.where(_both(w_s, w_t), jnp.sum(jnp.square(difference)), 0)


def conditional_mean_discrepancy(
    source_features, target_features, source_classes, target_classes, *, where=None
):
    r"""Squared distance of the two mean features of each class, under soft or hard labels, per class.

    .. math:: \ell_c = \| \mu_{s,c} - \mu_{t,c} \|^2, \quad
        \mu_c = \frac{\sum_i p_{i,c} \, x_i}{\sum_i p_{i,c}}

    Args:
        source_features: `[N, D]`
        target_features: `[M, D]`
        source_classes: `[N, K]`, at least 0: one-hot labels; a row of zeros leaves its example out.
        target_classes: `[M, K]`: one-hot labels where known, predicted probabilities elsewhere.
        where: `[K]` boolean; masked classes give zero, in value and gradient.

    Returns:
        `[K]`, zero for a class that one side lacks.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: ranks, shapes.

    >>> x, classes = jnp.array([[0.0], [4.0]]), jnp.eye(2)
    >>> conditional_mean_discrepancy(x, x + 1, classes, classes)
    Array([1., 1.], dtype=float32)

    Reference:
        Long, Wang, Ding, Sun, Yu, "Transfer Feature Learning with Joint Distribution Adaptation", 2013;
        with soft labels of the current model in Yao and others, "Noise May Contain Transferable
        Knowledge: Understanding Semi-supervised Heterogeneous Domain Adaptation from an Empirical
        Perspective", 2025.
    """
    x_s, x_t, _, _ = _sets(source_features, target_features, None, None)
    p_s, p_t = _arrays.floating(source_classes=source_classes, target_classes=target_classes)
    _arrays.check_rank(2, source_classes=p_s, target_classes=p_t)
    _arrays.check_same_batch(source_features=x_s, source_classes=p_s)
    _arrays.check_same_batch(target_features=x_t, target_classes=p_t)
    if p_s.shape[1] != p_t.shape[1]:
        raise ValueError(f"source_classes {p_s.shape}, target_classes {p_t.shape}: class counts")
    _arrays.check_where(where, p_s.shape[1:])
    (mean_s, mass_s), (mean_t, mass_t) = _class_means(x_s, p_s), _class_means(x_t, p_t)
    both = (mass_s > 0) & (mass_t > 0)
    difference = jnp.where(both[:, None], mean_s - mean_t, 0)
    return _arrays.select(where, jnp.sum(jnp.square(difference), axis=1))


def maximum_mean_discrepancy(
    source_features,
    target_features,
    *,
    scales=(0.25, 0.5, 1.0, 2.0, 4.0),
    source_where=None,
    target_where=None,
):
    r"""Squared maximum mean discrepancy under a mean of Gaussian kernels.

    .. math:: \frac{1}{N^2} \sum_{ii'} k(x_{s,i}, x_{s,i'}) + \frac{1}{M^2} \sum_{jj'}
        k(x_{t,j}, x_{t,j'}) - \frac{2}{NM} \sum_{ij} k(x_{s,i}, x_{t,j}), \quad
        k(x, y) = \frac{1}{K} \sum_k e^{-\|x - y\|^2 / (a_k b)}

    with b the mean squared distance between two different examples of both sets together. The
    bandwidth b is a constant of the definition: no gradient passes through it. This is the biased
    estimate, which is never negative but for rounding.

    Args:
        source_features: `[N, D]`
        target_features: `[M, D]`
        scales: the K factors a of the bandwidth, all above 0.
        source_where: `[N]` boolean.
        target_where: `[M]` boolean.

    Returns:
        A scalar.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, widths, scales.

    >>> maximum_mean_discrepancy(jnp.array([[0.0]]), jnp.array([[3.0]]), scales=(1.0,)).round(4)
    Array(1.2642, dtype=float32)

    Reference:
        Gretton, Borgwardt, Rasch, Schölkopf, Smola, "A Kernel Two-Sample Test", 2012. Long, Cao, Wang,
        Jordan, "Learning Transferable Features with Deep Adaptation Networks", 2015; the public code
        of its line of work uses these five scales.
    """
    x_s, x_t, w_s, w_t = _sets(source_features, target_features, source_where, target_where)
    scales = jnp.atleast_1d(jnp.asarray(scales, x_s.dtype))
    _arrays.check_positive(scales=scales)
    weights = jnp.concatenate([w_s, -w_t])[:, 0]
    pair = _arrays.pairs(weights != 0, weights.shape[0])
    distances = _arrays.squared_distances(jnp.concatenate([x_s, x_t]))
    count = jnp.sum(pair, dtype=x_s.dtype)
    bandwidth = _arrays.divide(jnp.sum(jnp.where(pair, distances, 0)), count)
    relative = _arrays.divide(
        distances, jnp.broadcast_to(jax.lax.stop_gradient(bandwidth), distances.shape)
    )
    kernel = jnp.mean(jnp.exp(-relative[..., None] / scales[None, None]), axis=-1)
    value = jnp.einsum("i,ij,j->", weights, kernel, weights, precision=_EXACT)
    return jnp.where(_both(w_s, w_t), value, 0)


def correlation_alignment(
    source_features, target_features, *, source_where=None, target_where=None
):
    r"""Squared Frobenius distance of the two covariances, over 4 D²: the loss of Deep CORAL.

    .. math:: \frac{1}{4 D^2} \| C_s - C_t \|_F^2

    with the unbiased covariances; one example has none and counts as zero.

    Args:
        source_features: `[N, D]`
        target_features: `[M, D]`
        source_where: `[N]` boolean.
        target_where: `[M]` boolean.

    Returns:
        A scalar.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, widths.

    >>> x = jnp.array([[-1.0], [1.0]])
    >>> correlation_alignment(2 * x, x)
    Array(9., dtype=float32)

    Reference:
        Sun, Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", 2016, on the last
        layer, with a weight that makes both losses about equal at the end of training.
    """
    x_s, x_t, w_s, w_t = _sets(source_features, target_features, source_where, target_where)
    difference = _covariance(x_s, w_s) - _covariance(x_t, w_t)
    value = jnp.sum(jnp.square(difference)) / (4 * x_s.shape[1] ** 2)
    return jnp.where(_both(w_s, w_t), value, 0)


def central_moment_discrepancy(
    source_features, target_features, *, orders=5, span=1.0, source_where=None, target_where=None
):
    r"""Distances of the means and of the central moments up to an order, feature by feature.

    .. math:: \frac{1}{r} \| \mu_s - \mu_t \|
        + \sum_{k=2}^{K} \frac{1}{r^k} \| c_k(x_s) - c_k(x_t) \|, \quad
        c_k(x) = \operatorname{mean}_i (x_i - \mu)^k

    Args:
        source_features: `[N, D]`, bounded: after a sigmoid or a tanh.
        target_features: `[M, D]`
        orders: K, a Python integer of at least 1.
        span: r > 0, the length of the interval that holds a feature (1 for a sigmoid, 2 for tanh).
        source_where: `[N]` boolean.
        target_where: `[M]` boolean.

    Returns:
        A scalar.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, widths, span, orders.

    >>> x = jnp.array([[0.0], [1.0]])
    >>> central_moment_discrepancy(x, 0.5 * x)
    Array(0.49609375, dtype=float32)

    Reference:
        Zellinger, Grubinger, Lughofer, Natschläger, Saminger-Platz, "Central Moment Discrepancy (CMD)
        for Domain-Invariant Representation Learning", 2017, with K = 5 and weight 1.
    """
    x_s, x_t, w_s, w_t = _sets(source_features, target_features, source_where, target_where)
    _arrays.check_at_least_one(orders=orders)
    _arrays.check_positive(span=span)
    mean_s, mean_t = (jnp.sum(w * x, axis=0, keepdims=True) for w, x in ((w_s, x_s), (w_t, x_t)))
    x_s, x_t = (x_s - mean_s) / span, (x_t - mean_t) / span
    value = _scaled_norm((mean_s - mean_t)[0] / span)
    for order in range(2, orders + 1):
        value += _scaled_norm(_moment(x_s, w_s, order) - _moment(x_t, w_t, order))
    return jnp.where(_both(w_s, w_t), value, 0)


def moment_distance(
    source_features, target_features, *, orders=2, source_where=None, target_where=None
):
    r"""Sum of the distances of the raw moments up to an order, feature by feature.

    .. math:: \sum_{k=1}^{K} \big\| \operatorname{mean}_i x_{s,i}^k - \operatorname{mean}_j x_{t,j}^k \big\|

    Args:
        source_features: `[N, D]`
        target_features: `[M, D]`
        orders: K, a Python integer of at least 1.
        source_where: `[N]` boolean.
        target_where: `[M]` boolean.

    Returns:
        A scalar. For several sources the published loss is its mean over pairs of a source and the
        target plus its mean over pairs of sources.

    Raises:
        TypeError: features that are not floating-point. ValueError: ranks, widths, orders.

    >>> moment_distance(jnp.array([[1.0], [3.0]]), jnp.array([[2.0]]))
    Array(1., dtype=float32)

    Reference:
        Peng, Bai, Xia, Huang, Saenko, Wang, "Moment Matching for Multi-Source Domain Adaptation",
        2019, with K = 2.
    """
    x_s, x_t, w_s, w_t = _sets(source_features, target_features, source_where, target_where)
    _arrays.check_at_least_one(orders=orders)
    value = jnp.zeros((), x_s.dtype)
    for order in range(1, orders + 1):
        value += _scaled_norm(_moment(x_s, w_s, order) - _moment(x_t, w_t, order))
    return jnp.where(_both(w_s, w_t), value, 0)


def sliced_wasserstein_distance(source_features, target_features, directions, *, where=None):
    r"""Squared Wasserstein-2 distance of two sets of one size along directions, per direction.

    .. math:: \ell_m = \frac{1}{N} \sum_i \big( \operatorname{sort}(x_s \theta_m)_i
        - \operatorname{sort}(x_t \theta_m)_i \big)^2

    Args:
        source_features: `[N, D]`
        target_features: `[N, D]`
        directions: `[M, D]`, drawn by the caller (normal draws do); used at length 1.
        where: `[M]` boolean; masked directions give zero, in value and gradient.

    Returns:
        `[M]`; the mean over random directions is the published distance.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes.

    >>> x = jnp.array([[0.0, 1.0], [3.0, 1.0]])
    >>> sliced_wasserstein_distance(x + 2, x[::-1], jnp.eye(2))
    Array([4., 4.], dtype=float32)

    Reference:
        Rabin, Peyré, Delon, Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing",
        2011; with 200 directions between target features and draws from the source's class Gaussians
        in Stan, Rostami, "Secure Domain Adaptation with Multiple Sources", 2022.
    """
    x_s, x_t, _, _ = _sets(source_features, target_features, None, None)
    _arrays.check_same_shape(source_features=x_s, target_features=x_t)
    (theta,) = _arrays.floating(directions=directions)
    if theta.ndim != 2 or theta.shape[1] != x_s.shape[1]:
        raise ValueError(f"directions must have shape (M, {x_s.shape[1]}), got {theta.shape}")
    _arrays.check_where(where, theta.shape[:1])
    theta = _arrays.unit(_arrays.select(where, theta))
    along_s, along_t = (
        jnp.sort(jnp.einsum("md,nd->mn", theta, x, precision=_EXACT), axis=1) for x in (x_s, x_t)
    )
    return _arrays.select(where, jnp.mean(jnp.square(along_s - along_t), axis=1))


def free_energy_excess(logits, threshold, *, temperature=1.0, where=None):
    r"""How far the free energy of an example lies above a threshold, per example.

    .. math:: \max(0, F - \Delta), \quad F = -T \log \sum_c e^{z_c / T}

    Args:
        logits: `[..., C]` of target examples, the negative energies.
        threshold: Δ, `[...]` or a scalar array: in the original a running mean of the free energy of
            source batches.
        temperature: T > 0, a number.
        where: `[...]` boolean; masked examples give zero, in value and gradient.

    Returns:
        `[...]`. Classes at -inf carry nothing; an example with all classes there has no energy and
        gives zero.

    Raises:
        TypeError: arrays that are not floating-point. ValueError: shapes, temperature.

    >>> free_energy_excess(jnp.array([[0.0], [5.0]]), jnp.array(-2.0))
    Array([2., 0.], dtype=float32)

    Reference:
        Xie, Yuan, Li, Liu, Cheng, Wang, "Active Learning for Domain Adaptation: An Energy-Based
        Approach", 2022, with T = 1 and weight 0.01.
    """
    z, delta = _arrays.floating(logits=logits, threshold=threshold)
    _arrays.check_min_rank(1, logits=z)
    if delta.shape not in ((), z.shape[:-1]):
        raise ValueError(f"threshold must have shape () or {z.shape[:-1]}, got {delta.shape}")
    _arrays.check_positive(temperature=temperature)
    _arrays.check_where(where, z.shape[:-1])
    z = _arrays.select(where, z)
    temperature = jnp.asarray(temperature, z.dtype)
    energy = -temperature * _arrays.log_sum_exp(z / temperature)
    present = jnp.isfinite(energy)
    energy = jnp.where(present, energy, 0)
    excess = jnp.maximum(energy - jnp.broadcast_to(delta, energy.shape), 0)
    return _arrays.select(where, jnp.where(present, excess, 0))


def information_maximization(logits, *, where=None):
    r"""Minus the divergence of an example's prediction from the batch's mean prediction, per example.

    .. math:: \ell_i = -\mathrm{KL}(p_i \| \bar p), \quad \bar p = \operatorname{mean}_i p_i

    Its mean is minus the mutual information of example and class, the mean entropy less the entropy
    of the mean: predictions become certain and stay diverse.

    Args:
        logits: `[B, C]` of unlabelled examples.
        where: `[B]` boolean; masked examples give zero and take no part in the mean.

    Returns:
        `[B]`, between -log C and 0. Classes at -inf carry nothing.

    Raises:
        TypeError: logits that are not floating-point. ValueError: ranks.

    >>> information_maximization(jnp.array([[99.0, 0.0], [0.0, 99.0]])).round(4)
    Array([-0.6931, -0.6931], dtype=float32)

    Reference:
        Gomes, Krause, Perona, "Discriminative Clustering by Regularized Information Maximization",
        2010; for adaptation without source data in Liang, Hu, Feng, "Do We Really Need to Access the
        Source Data?", 2020, with weight 1.
    """
    (z,) = _arrays.floating(logits=logits)
    _arrays.check_rank(2, logits=z)
    _arrays.check_where(where, z.shape[:1])
    z = _arrays.select(where, z)
    log_p = _arrays.log_softmax(z)
    weights = _weights(z, where)
    log_mean = _log_mean(log_p, weights)
    values = -divergences.kl_of_log_probs(jnp.broadcast_to(log_mean, log_p.shape), log_p)
    return _arrays.select(where, values)


def _sets(source_features, target_features, source_where, target_where):
    """Both sets with dropped rows at zero, and [N, 1] weights of their rows that sum to one."""
    x_s, x_t = _arrays.floating(source_features=source_features, target_features=target_features)
    _arrays.check_rank(2, source_features=x_s, target_features=x_t)
    if x_s.shape[1] != x_t.shape[1]:
        raise ValueError(f"source_features {x_s.shape}, target_features {x_t.shape}: widths differ")
    _arrays.check_where(source_where, x_s.shape[:1])
    _arrays.check_where(target_where, x_t.shape[:1])
    x_s, x_t = _arrays.select(source_where, x_s), _arrays.select(target_where, x_t)
    return x_s, x_t, _weights(x_s, source_where), _weights(x_t, target_where)


def _weights(x, where):
    """[N, 1]: one over the number of kept rows, zero for the others."""
    kept = jnp.ones(x.shape[:1], x.dtype) if where is None else where.astype(x.dtype)
    return _arrays.divide(kept, jnp.broadcast_to(jnp.sum(kept), kept.shape))[:, None]


def _both(w_s, w_t):
    return jnp.any(w_s > 0) & jnp.any(w_t > 0)


def _class_means(x, p):
    """[K, D] weighted means and [K] masses of the classes."""
    mass = jnp.sum(p, axis=0)
    sums = jnp.einsum("nk,nd->kd", p, x, precision=_EXACT)
    return _arrays.divide(sums, jnp.broadcast_to(mass[:, None], sums.shape)), mass


def _covariance(x, w):
    """[D, D], unbiased; zero for one row."""
    centred = jnp.where(w > 0, x - jnp.sum(w * x, axis=0, keepdims=True), 0)
    freedom = jnp.sum(w > 0, dtype=x.dtype) - 1
    products = jnp.matmul(centred.T, centred, precision=_EXACT)
    return _arrays.divide(products, jnp.broadcast_to(freedom, products.shape))


def _moment(x, w, order):
    return jnp.sum(w * x**order, axis=0)


def _scaled_norm(x):
    """The Euclidean norm, without overflow of its squares."""
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    top = jnp.where(top > 0, top, 1)
    return top * _arrays.norm(x / top)


def _log_mean(log_p, weights):
    """Log of the mean probabilities, [1, C]; -inf for a class that no example has."""
    scaled = jnp.where(weights > 0, log_p, -jnp.inf)
    mean = jnp.sum(weights * jnp.exp(scaled), axis=0, keepdims=True)
    return jnp.where(mean > 0, jnp.log(jnp.where(mean > 0, mean, 1)), -jnp.inf)
