"""Methods whose teacher has spoken once: its best classes lie beside every augmented view."""

import jax
import jax.numpy as jnp

from kdjax.losses import soft_cross_entropy
from kdjax.train.method import Method, one_phase, term


def stored_views(*, renormalised: bool = False) -> Method:
    """Cross-entropy of the stored distribution alone: K classes, the rest of the mass even.

    The batch `labelled` holds `image`, a view that an augmentation seed made, and what the teacher said
    of that view: `log_probs` and `classes` `[B, K]` and `log_tail` `[B]`, the fields of `signals.TopK`.
    There are no labels, and T is 1. `renormalised` forgets the tail: the K classes have all the mass.

    Wu, Zhang, Peng, Liu, Xiao, Fu, Yuan, "TinyViT: Fast Pretraining Distillation for Small Vision
    Transformers", 2022, with K = 10 of 1,000 classes and 100 of 21,841.
    """

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["image"])
        log_probs, log_tail = batch["log_probs"], batch["log_tail"]
        if renormalised:
            log_probs = jax.nn.log_softmax(log_probs)
            log_tail = jnp.full_like(log_tail, -jnp.inf)
        target = even_tail(log_probs, batch["classes"], log_tail, size=student.logits.shape[-1])
        values = soft_cross_entropy(student.logits, target)
        return {"stored": term(values)}, {"model": {"student": model}}

    return one_phase(objective)


def even_tail(log_probs, classes, log_tail, *, size):
    """The log-probabilities `[..., C]` of a stored top K, every other class with an even part of the tail.

    Args:
        log_probs: `[..., K]`
        classes: `[..., K]` distinct integers.
        log_tail: `[...]`, the log of the mass of all other classes.
        size: C, above K.

    Raises:
        ValueError: a size that leaves no class for the tail.

    >>> p = jnp.exp(even_tail(jnp.log(jnp.array([0.5])), jnp.array([2]), jnp.log(0.5), size=3))
    >>> p.round(3)
    Array([0.25, 0.25, 0.5 ], dtype=float32)
    """
    if size <= classes.shape[-1]:
        raise ValueError(f"size must be above K = {classes.shape[-1]}, got {size}")
    each = log_tail - jnp.log(jnp.asarray(size - classes.shape[-1], log_tail.dtype))
    chosen = jax.nn.one_hot(classes, size, dtype=log_probs.dtype)
    kept = jnp.sum(jnp.where(chosen > 0, log_probs[..., None], 0), axis=-2)
    return jnp.where(chosen.sum(-2) > 0, kept, each[..., None])
