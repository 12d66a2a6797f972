"""Methods that transfer what a layer of the teacher holds."""

import jax
import jax.numpy as jnp

from kdjax.losses import feature_hint, kernel_matching
from kdjax.losses._arrays import check_fraction, check_not_negative
from kdjax.methods import classification
from kdjax.networks.adapters import from_function
from kdjax.networks.network import Outputs
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


def aft(*, student_feature: str, teacher_feature: str, weight: float = 1.0) -> Method:
    """Cross-entropy + weight · the distance of two kernels over the batch, the teacher's gated.

    A gate in (0, 1) for every channel of the teacher's feature, half open at first, trains with the
    student: channels that its task does not need close.

    Qiu, Han, Maddox, Goldblum, Wilson, "Transferring Knowledge from Large Foundation Models to Small
    Downstream Models", 2024. The authors train the gates ten times faster than the network (1e-2
    beside 1e-3), here both have one optimiser; the weight is tuned for every task.
    """
    check_not_negative(weight=weight)

    def gates(shapes):
        feature = shapes["teacher"].features[teacher_feature]
        width = feature.size // feature.shape[0]
        network = from_function(
            lambda key, inputs: {"openness": jnp.zeros(width)},
            lambda params, inputs: Outputs(None, {"gates": jax.nn.sigmoid(params["openness"])}),
            features=("gates",),
        )
        return network, feature

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        rows = (student.features[student_feature], teacher.features[teacher_feature])
        f_s, f_t = scope.gather([x.reshape(x.shape[0], -1) for x in rows])
        opened, _ = scope.apply("gates", f_t)
        value = kernel_matching(f_s, f_t, opened.features["gates"])
        labels, _ = classification.label_term(scope)
        kernel = term(value, weight=scope.hyper["weight"], couples=True, gathered=True)
        return {**labels, "kernel": kernel}, updates

    phase = Phase(objective, ("student", "gates"))
    return Method(players={"gates": gates}, phases=(phase,), hyper={"weight": weight})
