"""Methods that transfer how the teacher places the examples of a batch to each other."""

from kdjax.losses import relational_angle, relational_distance
from kdjax.losses._arrays import check_not_negative
from kdjax.methods import classification
from kdjax.train.method import Method, Phase, term


def relational(*, student_feature: str, teacher_feature: str, weight: float = 25.0) -> Method:
    """Cross-entropy + weight · the distance-wise relational loss between two embeddings.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, who use weight 25 for distances.
    """
    check_not_negative(weight=weight)

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        rows = (student.features[student_feature], teacher.features[teacher_feature])
        f_s, f_t = scope.gather([x.reshape(x.shape[0], -1) for x in rows])
        relation = term(
            relational_distance(f_s, f_t),
            weight=scope.hyper["weight"],
            couples=True,
            gathered=True,
        )
        labels, _ = classification.label_term(scope)
        return {**labels, "relational": relation}, updates

    return Method(players={}, phases=(Phase(objective, ("student",)),), hyper={"weight": weight})


def rkd(
    *,
    student_feature: str,
    teacher_feature: str,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Method:
    """Cross-entropy + distance-wise and angle-wise relational losses between two embeddings.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", 2019, who use 25 and 50 in classification,
    1 and 2 in metric learning.
    """
    check_not_negative(distance_weight=distance_weight, angle_weight=angle_weight)

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        rows = (student.features[student_feature], teacher.features[teacher_feature])
        f_s, f_t = scope.gather([x.reshape(x.shape[0], -1) for x in rows])
        labels, _ = classification.label_term(scope)
        relations = {
            name: term(loss(f_s, f_t), weight=scope.hyper[weight], couples=True, gathered=True)
            for name, loss, weight in (
                ("distance", relational_distance, "distance_weight"),
                ("angle", relational_angle, "angle_weight"),
            )
        }
        return {**labels, **relations}, updates

    hyper = {"distance_weight": distance_weight, "angle_weight": angle_weight}
    return Method(players={}, phases=(Phase(objective, ("student",)),), hyper=hyper)
