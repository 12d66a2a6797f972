"""Several teachers and several tasks, in one student."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from kdjax.losses import feature_cosine_distance, softened_kl_divergence
from kdjax.losses._arrays import check_at_least_one, check_not_negative
from kdjax.train.method import Method, one_phase, term


def sak(
    *,
    teachers: Sequence[str],
    levels: int,
    labels: Sequence[str] = (),
    averaged: bool = False,
    distilled: float = 1.0,
    soft: float = 0.0,
) -> Method:
    """Every teacher's features at every level by a path of its own, and the labels of several tasks.

    Σ_t cross-entropy of `taskT` with the column `labels[T - 1]` + distilled · Σ_k Σ_i (0.9 (1 - cos) +
    0.1 smooth L1) of `taughtK_I` and teacher k's `hiddenI`, over `batch["labelled"]`; for a network of
    `kdjax.networks.side_paths`. The first stage is without labels. `averaged` teaches the mean of
    the teachers to the stem, for a network without paths. `soft` weighs T² KL(teacher t ‖ task t) at T = 2,
    plain distillation where there is a teacher per task.

    Lu, Cao, Wang, "Swiss Army Knife: Synergizing Biases in Knowledge from Vision Foundation Models for
    Multi-Task Learning", 2025: both stages with the same weights.
    """
    check_at_least_one(levels=levels)
    check_not_negative(distilled=distilled, soft=soft)
    names, columns = tuple(teachers), tuple(labels)

    def objective(scope):
        batch = scope.batch["labelled"]
        given, model = scope.apply("student", batch["image"])
        taught = [scope.apply(name, batch["image"])[0] for name in names]
        terms = {}
        for i in range(1, levels + 1):
            targets = [each.features[f"hidden{i}"] for each in taught]
            targets = [sum(targets) / len(targets)] if averaged else targets
            for k, target in enumerate(targets, 1) if distilled else ():
                own = given.features[f"taught{k}_{i}"]
                values = 0.9 * feature_cosine_distance(own, target)
                values += 0.1 * jnp.mean(optax.huber_loss(own, target), axis=-1)
                terms[f"taught{k}_{i}"] = term(values, weight=scope.hyper["distilled"])
        for t, column in enumerate(columns, 1):
            hard = optax.softmax_cross_entropy_with_integer_labels(
                given.features[f"task{t}"], batch[column]
            )
            terms[column] = term(hard)
        for t, teacher in enumerate(taught, 1) if soft else ():
            logits = given.features[f"task{t}"]
            values = softened_kl_divergence(logits, teacher.logits, temperature=2.0)
            terms[f"soft{t}"] = term(values, weight=scope.hyper["soft"])
        return terms, {"model": {"student": model}}

    return one_phase(objective, distilled=distilled, soft=soft)
