"""Methods that tell an example's own teacher embedding from those of other examples."""

import jax
import jax.numpy as jnp

from kdjax.losses import noise_contrastive_estimation, transported_cost
from kdjax.losses._arrays import check_not_negative, check_positive, unit
from kdjax.methods import classification
from kdjax.networks.projectors import PROJECTED, linear_projector
from kdjax.train.method import Method, Phase, term

SIDES = ("student", "teacher")


def wcord(
    *,
    student_feature: str,
    teacher_feature: str,
    width: int = 64,
    temperature: float = 0.07,
    global_weight: float = 0.8,
    local_weight: float = 0.05,
    epsilon: float = 0.1,
    spectral: bool = True,
) -> Method:
    """Cross-entropy + both forms of a Wasserstein distance between embeddings of equal width.

    A linear head on either side maps to unit vectors. The global (dual) term is contrastive
    estimation in both directions under heads whose kernels have spectral norm one (by one power
    iteration a step, its vectors in memory); the local (primal) term is the cost of an entropic transport plan. The other
    examples of the batch are the negatives, in place of the authors' memory bank; the estimator's
    normaliser is that of the first batch. Without `spectral` and `local_weight` it is CRD.

    Chen, Wang, Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation", 2021.
    Their heads have 128 dimensions; the numbers here are those of Tian et al., "Contrastive
    Representation Distillation", 2020, where theirs could not be read.
    """
    check_positive(temperature=temperature, epsilon=epsilon)
    check_not_negative(global_weight=global_weight, local_weight=local_weight)
    features = {"student": student_feature, "teacher": teacher_feature}

    def head(side):
        def make(shapes):
            name, given = features[side], shapes[side].features
            wanted = {"unit": jax.ShapeDtypeStruct((1, width), jnp.float32)}
            network = linear_projector(given, wanted, pair=(name, "unit"))
            return network, given[name]

        return make

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        memory, embeddings = {}, {}
        for side, outputs in zip(SIDES, (student, teacher), strict=True):
            rows, _ = scope.apply(f"{side}_head", outputs.features[features[side]])
            embeddings[side] = rows.features[PROJECTED]
            if spectral:
                dense = scope.params[f"{side}_head"]["dense"]
                vector = scope.memory[f"{side}_vector"]
                norm, memory[f"{side}_vector"] = _spectral_norm(dense["kernel"], vector)
                bias = dense["bias"][None]
                embeddings[side] = (embeddings[side] - bias) / norm + bias
        s, t = scope.gather([unit(embeddings[side]) for side in SIDES])
        memory["log_normaliser"] = _log_normaliser(scope, s, t, temperature)
        estimates = [
            noise_contrastive_estimation(
                one, _candidates(other), population=len(one), temperature=temperature,
                log_normaliser=memory["log_normaliser"],
            )
            for one, other in ((s, t), (t, s))
        ]  # fmt: skip
        shared = {"couples": True, "gathered": True}
        labels, _ = classification.label_term(scope)
        terms = {
            "global": term(sum(estimates), weight=scope.hyper["global_weight"], **shared),
            "local": term(
                transported_cost(s, t, epsilon=epsilon),
                weight=scope.hyper["local_weight"],
                **shared,
            ),
        }
        return {**labels, **terms}, {**updates, "memory": memory}

    def vector(side):
        def make(params):
            inputs = params[f"{side}_head"]["dense"]["kernel"].shape[0]
            return jnp.full(inputs, 1 / jnp.sqrt(inputs))

        return make

    return Method(
        players={f"{side}_head": head(side) for side in SIDES},
        phases=(Phase(objective, ("student", "student_head", "teacher_head")),),
        hyper={"global_weight": global_weight, "local_weight": local_weight},
        memory={
            "log_normaliser": jnp.zeros(()),
            **({f"{side}_vector": vector(side) for side in SIDES} if spectral else {}),
        },
    )


def _spectral_norm(kernel, vector):
    """(the largest singular value by one power iteration from `vector`, the next vector)."""
    fixed = jax.lax.stop_gradient(kernel)
    left = unit((vector @ fixed)[None])[0]
    right = unit((fixed @ left)[None])[0]
    return right @ kernel @ left, right


def _log_normaliser(scope, s, t, temperature):
    """log(B · mean(exp(s · t / τ))) of the first batch, remembered from then on."""
    now = jax.nn.logsumexp(s @ t.T / temperature) - jnp.log(len(s))
    return jax.lax.stop_gradient(jnp.where(scope.step == 0, now, scope.memory["log_normaliser"]))


def _candidates(rows):
    """`[B, B, D]`: for every example its own row first, then those of the others."""
    size = len(rows)
    return rows[(jnp.arange(size)[:, None] + jnp.arange(size)[None]) % size]
