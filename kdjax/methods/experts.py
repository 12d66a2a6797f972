"""Methods whose network holds several experts that teach each other, for long-tailed labels.

The network `student` gives `experts` `[B, E, C]` and `embeddings` `[B, E, D]`, see `networks.experts`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import hardest_negative_divergence, softened_kl_divergence
from kdjax.losses._arrays import check_not_negative, check_positive
from kdjax.networks.experts import cosine_heads
from kdjax.train.method import Method, one_phase, term


def expert_labels(*, counts: Sequence[int] = ()) -> Method:
    """Cross-entropy of every expert, summed; with the classes' `counts` the balanced one.

    The balanced softmax adds the logarithm of a class's count to its logit in training.

    Ren, Yu, Sheng, Ma, Zhao, Yi, Li, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", 2020.
    """

    def objective(scope):
        experts, model = _experts(scope)
        values = _entropies(experts, scope.batch["labelled"]["label"], counts)
        return {"labels": term(values)}, {"model": {"student": model}}

    return one_phase(objective)


def shike(*, peer_weight: float = 1.0, negative_weight: float = 10.0) -> Method:
    """Labels + mutual KL of all pairs of experts + KL to their joint view of the wrong classes.

    Both divergences are means over the classes, as in the released code, which the weights belong to.
    The joint view takes a wrong class's largest logit, but the mean one of the hardest; it is detached,
    the mutual KL is not. Behind it, `balanced_heads`.

    Jin, Li, Lu, Cheung, Wang, "Long-Tailed Visual Recognition via Self-Heterogeneous Integration with
    Knowledge Excavation", 2023, with weight 10. Their code leaves the true class in at logit zero.
    """
    check_not_negative(peer_weight=peer_weight, negative_weight=negative_weight)

    def objective(scope):
        experts, model = _experts(scope)
        labels, (_, count, classes) = scope.batch["labelled"]["label"], experts.shape
        pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
        peers = sum(softened_kl_divergence(experts[:, i], experts[:, j]) for i, j in pairs)
        joint = jax.lax.stop_gradient(experts)
        negatives = sum(
            hardest_negative_divergence(experts[:, i], joint, labels) for i in range(count)
        )
        terms = {
            "labels": term(_entropies(experts, labels)),
            "peers": term(peers / classes, weight=scope.hyper["peer_weight"]),
            "negatives": term(negatives / classes, weight=scope.hyper["negative_weight"]),
        }
        return terms, {"model": {"student": model}}

    return one_phase(objective, peer_weight=peer_weight, negative_weight=negative_weight)


def balanced_heads(*, counts: Sequence[int], scale: float = 30.0) -> Method:
    """New cosine classifiers on the embeddings of trained experts, under the balanced softmax.

    The experts are `memory["experts"]`, parameters of the network `student`, and stay as they are.

    The second stage of Jin et al., 2023, see `shike`, with scale 30.
    """
    check_positive(scale=scale)

    def heads(shapes):
        student = shapes["student"]
        return cosine_heads(student.logits.shape[-1], scale=scale), student.features["embeddings"]

    def objective(scope):
        batch = scope.batch["labelled"]
        fixed = jax.lax.stop_gradient(scope.memory["experts"])
        outputs, _ = scope.apply("student", batch["image"], params=fixed, train=False)
        given, _ = scope.apply("heads", outputs.features["embeddings"])
        return {"labels": term(_entropies(given.features["experts"], batch["label"], counts))}, {}

    return one_phase(
        objective, {"heads": heads}, trains=("heads",), memory={"experts": jnp.zeros(())}
    )


def _experts(scope):
    outputs, model = scope.apply("student", scope.batch["labelled"]["image"])
    return outputs.features["experts"], model


def _entropies(experts, labels, counts=()):
    """Cross-entropies `[B]`, summed over the experts `[B, E, C]`."""
    if len(counts):
        experts = experts + jnp.log(jnp.asarray(counts, jnp.float32))[None, None]
    labels = jnp.broadcast_to(labels[:, None], experts.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(experts, labels).sum(1)
