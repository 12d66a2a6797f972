"""Methods that transfer a transformer's hidden states and attention, layer by layer."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import attention_kl_divergence, layer_normalised_hint, softened_kl_divergence
from kdjax.losses._arrays import check_at_least_one, check_fraction, check_not_negative
from kdjax.train.method import Method, Phase, one_phase, term


def progressive_transfer(
    *,
    layers: int,
    transfer_steps: int,
    progressive: bool = True,
    lower: float = 0.1,
    labels: float = 0.5,
) -> Method:
    """Layers one after the other learn the teacher's states and attention, then all of them words.

    For `transfer_steps` steps, layer after layer for equally long: the squared difference of the
    normalised states `hiddenN` + KL(teacher ‖ student) of the attention, mean over tokens. The layers
    below the current one take `lower` of their updates. Then: labels · cross-entropy of the masked
    words + (1 - labels) · KL(teacher ‖ student) there. `progressive` False transfers all layers at
    once, each with 1 / layers of the weight. Student and teacher have one width between layers, so
    there is no projector; the student's layers are the parameters `layerN`.

    The batch `labelled` holds `tokens` `[B, L]`, some masked, `target` `[B, L]` and `masked` `[B, L]`.

    Sun, Yu, Song, Liu, Yang, Zhou, "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited
    Devices", 2020: 240,000 of 740,000 steps transfer its 24 layers. It has next sentences to predict
    as well.
    """
    check_at_least_one(layers=layers)
    check_not_negative(transfer_steps=transfer_steps)
    check_fraction(lower=lower, labels=labels)

    def objective(scope):
        batch, step = scope.batch["labelled"], scope.step
        student, model = scope.apply("student", batch["tokens"])
        teacher, _ = scope.apply("teacher", batch["tokens"])
        transferring = step < transfer_steps
        # Where nothing is transferred, the layer stays the first one: none is below it.
        current = jnp.where(transferring, step * layers // max(transfer_steps, 1), 0)
        terms = {}
        for number in range(1, layers + 1):
            share = jnp.where(current == number - 1, 1.0, 0.0) if progressive else 1 / layers
            share = jnp.where(transferring, share, 0.0)
            hidden, scores = (
                [side.features[f"{name}{number}"] for side in (student, teacher)]
                for name in ("hidden", "scores")
            )
            terms[f"states{number}"] = term(layer_normalised_hint(*hidden), weight=share)
            terms[f"attention{number}"] = term(attention_kl_divergence(*scores), weight=share)
        right = optax.softmax_cross_entropy_with_integer_labels(student.logits, batch["target"])
        taught = softened_kl_divergence(student.logits, teacher.logits)
        share = jnp.where(transferring, 0.0, scope.hyper["labels"])
        rest = jnp.where(transferring, 0.0, 1 - scope.hyper["labels"])
        terms["labels"] = term(right, where=batch["masked"], weight=share)
        terms["kd"] = term(taught, where=batch["masked"], weight=rest)
        return terms, {"model": {"student": model}, "memory": {"current": current}}

    def slowed(updates, memory):
        def kept(name, tree):
            speed = _speed(name, memory["current"], lower)
            return jax.tree.map(lambda update: speed * update, tree)

        student = {name: kept(name, tree) for name, tree in updates["student"].items()}
        return {**updates, "student": student}

    phase = Phase(objective, ("student",), project=slowed if progressive else None)
    memory = {"current": jnp.zeros((), jnp.int32)}
    return Method(players={}, phases=(phase,), hyper={"labels": labels}, memory=memory)


def _speed(name, current, lower):
    """What a subtree keeps of its updates while `current` layers lie below the one that is trained.

    The embedding goes with the first layer; the head has no gradient while layers are transferred.
    """
    number = int(name.removeprefix("layer")) if name.startswith("layer") else 1
    return jnp.where(number <= current, lower, 1.0)


def masked_words() -> Method:
    """Cross-entropy of the masked tokens: `labelled` holds `tokens`, `target` and `masked` `[B, L]`."""

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["tokens"])
        values = optax.softmax_cross_entropy_with_integer_labels(student.logits, batch["target"])
        return {"labels": term(values, where=batch["masked"])}, {"model": {"student": model}}

    return one_phase(objective)
