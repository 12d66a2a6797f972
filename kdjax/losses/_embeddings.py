"""What losses between embeddings share: checks, cosines, candidates, distributions over them."""

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays


def paired(student_embeddings, teacher_embeddings, where):
    """Embeddings of one shape, checked, in at least float32, with masked rows at zero."""
    s, t = _arrays.floating(
        student_embeddings=student_embeddings, teacher_embeddings=teacher_embeddings
    )
    _arrays.check_rank(2, student_embeddings=s, teacher_embeddings=t)
    _arrays.check_same_shape(student_embeddings=s, teacher_embeddings=t)
    _arrays.check_where(where, s.shape[:1])
    return _arrays.select(where, s, t)


def check_same_width(**arrays):
    _arrays.check_rank(2, **arrays)
    if len({x.shape[1] for x in arrays.values()}) > 1:
        listed = " and ".join(f"{name} {x.shape}" for name, x in arrays.items())
        raise ValueError(f"{listed} must have one width")


def product(a, b):
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def cosines(a, b):
    return product(_arrays.unit(a), _arrays.unit(b))


def candidates(where, size):
    """[B, B] mask of the kept columns; every row keeps its own, so that no row is empty."""
    if where is None:
        return jnp.ones((size, size), bool)
    return jnp.broadcast_to(where[None, :], (size, size)) | jnp.eye(size, dtype=bool)


def log_probs(cosines, temperature, candidates=None):
    """Log softmax over the candidates of each row; -inf outside, and in a row without any."""
    scores = cosines / jnp.asarray(temperature, cosines.dtype)
    if candidates is not None:
        scores = jnp.where(candidates, scores, -jnp.inf)
    return _arrays.log_softmax(scores)
