"""Methods over a teacher with another tokenizer, as `kdjax.data.alignment.aligned_rows` has it.

`batch["sequence"]` holds the student's `tokens`, `targets`, `mask` `[B, L_s]` and the teacher's
`teacher_tokens`, `teacher_targets`, `teacher_mask` `[B, L_t]` of the same text; for the alignment by
bytes also `alignment` and `teacher_alignment`, the segment of each target.
"""

import jax

from kdjax import signals
from kdjax.losses import cross_tokenizer, total_and_count
from kdjax.losses._arrays import check_not_negative, check_positive
from kdjax.methods.sequence import label_totals, signal_of
from kdjax.train.method import Method, Term, one_phase


def universal_kd(
    *,
    weight: float = 1.5,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    chunk: int = 512,
) -> Method:
    """Cross entropy + weight · L1 distance of sorted probabilities, token by token in order.

    Boizard, El Haddad, Hudelot, Colombo, "Towards Cross-Tokenizer Distillation: the Universal Logit
    Distillation Loss for LLMs", 2024, with weight 1.5 and temperature 1. The n-th token of one side is
    held against the n-th of the other, up to the end of the shorter.
    """

    def distances(rows, student, teacher, temperatures):
        length = min(student.shape[1], teacher.shape[1])
        where = rows["mask"][:, :length] & rows["teacher_mask"][:, :length]
        values = cross_tokenizer.universal_logit_distance(
            student[:, :length], teacher[:, :length], where=where, **temperatures
        )
        return values, where

    return _method(distances, weight, student_temperature, teacher_temperature, chunk)


def aligned_universal_kd(
    *,
    weight: float = 1.5,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    chunk: int = 512,
) -> Method:
    """Cross entropy + weight · L1 distance of sorted probabilities of each stretch of shared bytes.

    Patiño, Rasul, Gallouédec, Burtenshaw, Paniego, Srivastav, Frere, Beeching, Tunstall, von Werra,
    Wolf, "Unlocking On-Policy Distillation for Any Model Family" (GOLD), 2025, without its hybrid term.
    """

    def distances(rows, student, teacher, temperatures):
        segments = rows["alignment"], rows["teacher_alignment"]
        values = cross_tokenizer.merged_universal_logit_distance(
            student, teacher, rows["targets"], rows["teacher_targets"], *segments, **temperatures
        )
        return values, cross_tokenizer.shared_segments(*segments)

    return _method(distances, weight, student_temperature, teacher_temperature, chunk)


def _method(distances, weight, student_temperature, teacher_temperature, chunk):
    check_not_negative(weight=weight)
    temperatures = {
        "student_temperature": student_temperature,
        "teacher_temperature": teacher_temperature,
    }
    check_positive(**temperatures)

    def objective(scope):
        rows, hyper = scope.batch["sequence"], scope.hyper
        outputs, model = scope.apply("student", {"tokens": rows["tokens"]})
        taught, _ = scope.apply("teacher", {"tokens": rows["teacher_tokens"]})
        student = signal_of(outputs)
        teacher = jax.lax.stop_gradient(signals.logits_of(signal_of(taught)))
        named = {name: hyper[name] for name in temperatures}
        values, where = distances(rows, signals.logits_of(student), teacher, named)
        terms = {
            "labels": Term(*label_totals(student, rows["targets"], rows["mask"], chunk)),
            "kd": Term(*total_and_count(values, where), weight=hyper["weight"]),
        }
        return terms, {"model": {"student": model}}

    hyper = {"weight": weight, **temperatures}
    return one_phase(objective, **hyper)
