"""What every loss shares: checks of its arguments, and numerics that stay finite.

Checks raise while tracing, name the argument, and say what came and what was wanted. Values that are
traced (a temperature that is a leaf of the state) cannot be looked at and pass.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def floating(**arrays):
    """The arrays in at least float32, in order; integers and booleans are refused by name.

    Half precision is raised to float32, float64 stays; the gradient returns in the input's dtype.
    """
    return [promoted(name, x) for name, x in arrays.items()]


def promoted(name, x):
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array, got {x.dtype} of shape {x.shape}")
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def check_rank(rank, **arrays):
    """Refuses arrays that do not have `rank` axes."""
    for name, x in arrays.items():
        if x.ndim != rank:
            raise ValueError(f"{name} must have {rank} axes, got shape {x.shape}")


def check_min_rank(rank, **arrays):
    """Refuses arrays with fewer than `rank` axes."""
    for name, x in arrays.items():
        if x.ndim < rank:
            raise ValueError(f"{name} must have at least {rank} axes, got shape {x.shape}")


def check_same_shape(**arrays):
    """Refuses arrays whose shapes differ."""
    shapes = {name: x.shape for name, x in arrays.items()}
    if len(set(shapes.values())) > 1:
        listed = " and ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{listed} must have one shape")


def check_same_batch(axes=1, **arrays):
    """Refuses arrays whose first `axes` axes differ."""
    check_min_rank(axes, **arrays)
    leading = {name: x.shape[:axes] for name, x in arrays.items()}
    if len(set(leading.values())) > 1:
        listed = " and ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{listed} must agree in their first {axes} axes")


def check_labels(shape, **labels):
    """Refuses labels that are not integers of `shape`."""
    for name, x in labels.items():
        if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer):
            raise TypeError(f"{name} must be integers, got {jnp.asarray(x).dtype}")
        if jnp.shape(x) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {jnp.shape(x)}")


def check_where(where, shape):
    """Refuses a mask that is not boolean of `shape`, the shape of the loss's result."""
    if where is None:
        return
    if jnp.asarray(where).dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {jnp.asarray(where).dtype}")
    if jnp.shape(where) != tuple(shape):
        raise ValueError(
            f"where must have the result's shape {tuple(shape)}, got {jnp.shape(where)}"
        )


def check_positive(**values):
    """Refuses numbers that are not above zero."""
    _check_range("above 0", lambda v: v > 0, values)


def check_not_negative(**values):
    """Refuses numbers below zero."""
    _check_range("at least 0", lambda v: v >= 0, values)


def check_at_least_one(**values):
    """Refuses numbers below one."""
    _check_range("at least 1", lambda v: v >= 1, values)


def check_fraction(**values):
    """Refuses numbers outside [0, 1]."""
    _check_range("between 0 and 1", lambda v: 0 <= v <= 1, values)


def _check_range(wanted, holds, values):
    for name, value in values.items():
        if isinstance(value, jax.core.Tracer):
            continue
        smallest, largest = float(np.min(value)), float(np.max(value))
        if not (holds(smallest) and holds(largest)) or math.isnan(smallest):
            raise ValueError(f"{name} must be {wanted}, got {value}")


def per_row(value, x):
    """A scalar as it is; an array of `x`'s leading shape with an axis added for `x`'s last one."""
    value = jnp.asarray(value, x.dtype)
    return value if value.ndim == 0 else value[..., None]


def select(where, *arrays):
    """The arrays with everything that `where` masks set to zero, before anything is computed.

    Selecting the inputs, and not only the result, is what keeps a gradient finite and exactly zero
    where a masked row holds inf or nan. `where` covers the leading axes.
    """
    if where is None:
        return arrays if len(arrays) > 1 else arrays[0]
    chosen = tuple(
        jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x, jnp.zeros_like(x))
        for x in arrays
    )
    return chosen if len(chosen) > 1 else chosen[0]


def log_softmax(x, axis=-1):
    """Log of softmax; classes at -inf keep -inf and a gradient of zero, a row of only -inf too."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    shifted = x - jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    total = jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True)
    return shifted - jnp.log(jnp.where(total > 0, total, jnp.ones_like(total)))


def expectation(log_p, values, axis=-1):
    """sum p * values with 0 * inf = 0, for log-probabilities `log_p`."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, values, jnp.zeros_like(values)), axis=axis)


def log_ratio(log_p, log_q):
    """log p - log q; zero where p carries no mass, +inf where only q carries none."""
    carried = jnp.isfinite(log_p)
    minuend = jnp.where(carried, log_p, jnp.zeros_like(log_p))
    return minuend - jnp.where(carried, log_q, jnp.zeros_like(log_q))


def divide(numerator, denominator):
    """numerator / denominator, and zero with a zero gradient where the denominator is zero."""
    fits = denominator != 0
    safe = jnp.where(fits, denominator, jnp.ones_like(denominator))
    return jnp.where(fits, numerator / safe, jnp.zeros_like(numerator / safe))


def sqrt(x):
    """The square root, with a zero gradient at (and below) zero."""
    positive = x > 0
    return jnp.where(
        positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), jnp.zeros_like(x)
    )


def norm(x, axis=-1, keepdims=False):
    """The Euclidean norm, with a zero gradient at a zero vector."""
    return sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=keepdims))


def unit(x, axis=-1):
    """x over its Euclidean norm; a zero vector stays zero, with a zero gradient."""
    return divide(x, jnp.broadcast_to(norm(x, axis=axis, keepdims=True), x.shape))


def squared_distances(x):
    """[B, D] -> [B, B] squared Euclidean distances by the Gram matrix, exact zeros for equal rows.

    Rows are centred first, and what is below the rounding of the two norms counts as zero.
    """
    x = x - jax.lax.stop_gradient(jnp.mean(x, axis=0, keepdims=True))
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.diagonal(gram)
    sums = squares[:, None] + squares[None, :]
    distances = sums - 2 * gram
    rounding = 8 * jnp.finfo(x.dtype).eps * sums
    return jnp.where(distances > rounding, distances, jnp.zeros_like(distances))


def pairs(where, size):
    """[B, B] mask of ordered pairs of two different examples, both kept by `where`."""
    different = ~jnp.eye(size, dtype=bool)
    return different if where is None else different & where[:, None] & where[None, :]


def centred(x, axis, kept=None):
    """x minus its mean along `axis`; exact zeros where nothing but rounding is left.

    `kept`: boolean of x's rank that broadcasts to it; what it leaves out is zero and takes no part.
    """
    kept = jnp.ones_like(x, bool) if kept is None else jnp.broadcast_to(kept, x.shape)
    x = jnp.where(kept, x, jnp.zeros_like(x))
    count = jnp.sum(kept, axis=axis, keepdims=True, dtype=x.dtype)
    mean = divide(jnp.sum(x, axis=axis, keepdims=True), count)
    differences = jnp.where(kept, x - mean, jnp.zeros_like(x))
    rounding = 8 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    varies = jnp.max(jnp.abs(differences), axis=axis, keepdims=True) > rounding
    return jnp.where(varies, differences, jnp.zeros_like(differences))


def log_sum_exp(x, axis=-1):
    """log sum exp, -inf with a zero gradient for a row of only -inf."""
    top = jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, jnp.zeros_like(top))
    total = jnp.sum(jnp.exp(x - top), axis=axis)
    logs = jnp.log(jnp.where(total > 0, total, jnp.ones_like(total))) + jnp.squeeze(top, axis)
    return jnp.where(total > 0, logs, -jnp.inf)


def at_label(x, labels):
    """[..., C] and integers [...] -> [...], the entry of each row at its label."""
    return jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


def log_smoothed_label(labels, correct, carried, dtype):
    """Log-probabilities [..., C]: `correct` at the label, the rest even over the other classes.

    `carried` [..., C] says which classes there are: the others are at -inf and take no mass.
    """
    classes = carried.shape[-1]
    is_label = jax.nn.one_hot(labels, classes, dtype=bool)
    correct = jnp.asarray(correct, dtype)
    mass = jnp.where(is_label, correct, (1 - correct) / max(classes - 1, 1))
    held = carried & (mass > 0)
    return log_softmax(jnp.where(held, jnp.log(jnp.where(held, mass, 1)), -jnp.inf))


def power(sizes, exponent):
    """sizes ** exponent for sizes at or above zero, with a zero gradient at zero."""
    positive = sizes > 0
    raised = jnp.where(positive, sizes, jnp.ones_like(sizes)) ** exponent
    return jnp.where(positive, raised, jnp.zeros_like(raised))


def absolute(x):
    """The absolute value, with a zero gradient at zero (that of `jnp.abs` is 1)."""
    return x * jnp.sign(x)
