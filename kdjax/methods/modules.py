"""Methods that build a small language model onto the hidden states of a large, frozen one."""

import optax

from kdjax.losses import softened_kl_divergence
from kdjax.losses._arrays import check_fraction, check_positive
from kdjax.train.method import Method, one_phase, term


def llm_modules(*, weight: float = 0.0, temperature: float = 1.0) -> Method:
    """(1 - weight) · cross-entropy of the next token + weight · T² KL(teacher ‖ student).

    The student is a `networks.modular_decoder` that takes `tokens` `[B, L]` and, where there are any,
    the states `source` `[B, L, D]`, both of the batch `labelled`; a weight above 0 needs its `logits`
    `[B, L, V]`, the teacher's. A graft learns from words alone: the teacher is a part of it, in use as
    in training.

    Kolomeitsev, "LLM Modules: Knowledge Transfer from a Large to a Small Model using Enhanced
    Cross-Attention", 2025: AdamW, 1e-4 for the front end and 5e-5 for the rest, 15 epochs.
    """
    check_fraction(weight=weight)
    check_positive(temperature=temperature)

    def objective(scope):
        batch, share = scope.batch["labelled"], scope.hyper["weight"]
        if weight > 0 and "logits" not in batch:
            raise ValueError(
                f"weight={weight} needs the teacher's logits, the batch has {sorted(batch)}"
            )
        given = {name: batch[name] for name in ("tokens", "source") if name in batch}
        student, model = scope.apply("student", given)
        ahead, words = student.logits[:, :-1], batch["tokens"][:, 1:]
        right = optax.softmax_cross_entropy_with_integer_labels(ahead, words)
        terms = {"labels": term(right, weight=1 - share)}
        if "logits" in batch:
            taught, temperature = batch["logits"][:, :-1], scope.hyper["temperature"]
            values = softened_kl_divergence(ahead, taught, temperature=temperature)
            terms["kd"] = term(values, weight=share)
        return terms, {"model": {"student": model}}

    return one_phase(objective, weight=weight, temperature=temperature)
