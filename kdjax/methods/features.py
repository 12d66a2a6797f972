"""Methods that transfer what a layer of the teacher holds."""

from kdjax.losses import feature_hint
from kdjax.losses._arrays import check_fraction
from kdjax.methods import classification
from kdjax.networks.projectors import PROJECTED, linear_projector
from kdjax.train.method import Method, Phase, term


def hint(*, student_feature: str, teacher_feature: str, weight: float = 0.9) -> Method:
    """(1 - weight) · cross-entropy + weight · a hint through a trained linear projector.

    The projector maps the student's feature to the width of the teacher's, trains with the student
    and is dropped afterwards.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015, who
    trained up to the hint first and distilled logits afterwards; here both terms train at once.
    """
    check_fraction(weight=weight)
    pair = (student_feature, teacher_feature)

    def projector(shapes):
        student, teacher = shapes["student"].features, shapes["teacher"].features
        return linear_projector(student, teacher, pair=pair), student[student_feature]

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        mapped, _ = scope.apply("projector", student.features[student_feature])
        values = feature_hint(mapped.features[PROJECTED], teacher.features[teacher_feature])
        labels, _ = classification.label_term(scope, weight=1 - scope.hyper["weight"])
        return {**labels, "hint": term(values, weight=scope.hyper["weight"])}, updates

    phase = Phase(objective, ("student", "projector"))
    return Method(players={"projector": projector}, phases=(phase,), hyper={"weight": weight})
