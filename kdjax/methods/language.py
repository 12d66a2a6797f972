"""Language models whose teacher is recalibrated first. Batches are those of `kdjax.methods.sequence`."""

from kdjax import losses, signals
from kdjax.losses import total_and_count
from kdjax.losses._arrays import check_positive
from kdjax.methods.sequence import inputs_of, kept_tokens, rows_of, signal_of, teacher_signal
from kdjax.train.method import Method, Term, one_phase


def first(
    *, top_k: int = 5, teacher_temperature: float = 1.0, vocabulary: int | None = None
) -> Method:
    """KL(teacher ‖ student) over the teacher's best classes, both renormalised over these.

    The teacher's probabilities are recalibrated first, by a temperature of its own; the student's
    temperature is 1. See `kdjax.losses.renormalized_top_k_kl_divergence`: no class outside the best is
    ever taken down, so the student should be a language model already. Forms all logits.

    Shum, Xu, Zhang, Chen, Diao, Dong, Zhang, Raza, "FIRST: Teach A Reliable Large Language Model
    Through Efficient Trustworthy Distillation", 2024, with the top 5 and the temperature of the lowest
    calibration error on validation.

    Args:
        top_k: how many classes there are signals of.
        teacher_temperature: what the teacher's log-probabilities are divided by.
        vocabulary: as in `token_kd`.
    """
    check_positive(top_k=top_k, teacher_temperature=teacher_temperature)

    def objective(scope):
        rows = rows_of(scope)
        outputs, model = scope.apply("student", inputs_of(rows))
        best, where = teacher_signal(scope, rows, vocabulary, top_k, 1.0), kept_tokens(rows)
        recalibrated = best.log_probs / scope.hyper["teacher_temperature"]
        logits = signals.logits_of(signal_of(outputs, vocabulary))
        values = losses.renormalized_top_k_kl_divergence(
            logits, recalibrated, best.classes, where=where
        )
        return {"kd": Term(*total_and_count(values, where))}, {"model": {"student": model}}

    return one_phase(objective, teacher_temperature=teacher_temperature)
