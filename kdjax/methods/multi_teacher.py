"""Methods with several frozen teachers, of any architectures over the same classes."""

from collections.abc import Mapping

import jax.numpy as jnp

from kdjax.losses import weighted_teachers_divergence
from kdjax.losses._arrays import check_fraction, check_positive
from kdjax.methods import classification
from kdjax.train.method import Method, Phase, term


def weighted_teachers(
    *, weights: Mapping[str, float], temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """(1 - weight) · cross-entropy + weight · T² Σ_k w_k KL(teacher_k ‖ student).

    `weights` names the teachers, networks at hand whose parameters are frozen under their names, and
    gives each its w_k, used as it is. Equal weights that sum to one are the mean over an ensemble.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)
    names = tuple(weights)
    if not names or min(weights.values()) < 0:
        raise ValueError(f"weights must name a teacher and be at least 0, got {dict(weights)}")

    def objective(scope):
        hyper = scope.hyper
        passes = [classification.transfer_pass(scope, teacher=name) for name in names]
        (student, _, updates), taught = passes[0], [each[1].logits for each in passes]
        shares = jnp.broadcast_to(hyper["weights"], (*student.logits.shape[:-1], len(names)))
        values = weighted_teachers_divergence(
            student.logits,
            jnp.stack(taught, axis=-2),
            shares,
            temperature=hyper["temperature"],
        )
        labels, _ = classification.label_term(scope, weight=1 - hyper["weight"])
        return {**labels, "kd": term(values, weight=hyper["weight"])}, updates

    hyper = {
        "temperature": temperature,
        "weight": weight,
        "weights": jnp.asarray([weights[name] for name in names], jnp.float32),
    }
    return Method(players={}, phases=(Phase(objective, ("student",)),), hyper=hyper)
