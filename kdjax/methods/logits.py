"""Methods that transfer what the teacher's logits say."""

from kdjax.losses import softened_kl_divergence
from kdjax.losses._arrays import check_fraction, check_positive
from kdjax.methods import classification
from kdjax.train.method import Method, Phase, term


def kd(*, temperature: float = 4.0, weight: float = 0.9) -> Method:
    """Knowledge distillation: (1 - weight) · cross-entropy + weight · T² KL(teacher ‖ student).

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015. On CIFAR-100 the
    field uses T = 4 and weight 0.9.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        hyper = scope.hyper
        values = softened_kl_divergence(
            student.logits, teacher.logits, temperature=hyper["temperature"]
        )
        labels, _ = classification.label_term(scope, weight=1 - hyper["weight"])
        return {**labels, "kd": term(values, weight=hyper["weight"])}, updates

    hyper = {"temperature": temperature, "weight": weight}
    return Method(players={}, phases=(Phase(objective, ("student",)),), hyper=hyper)
