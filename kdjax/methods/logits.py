"""Methods that transfer what the teacher's logits say."""

import jax.numpy as jnp
import optax

from kdjax.losses import average_precision_weighted_divergence, softened_kl_divergence
from kdjax.losses._arrays import check_fraction, check_positive
from kdjax.methods import classification
from kdjax.train.method import Method, one_phase, term
from kdjax.train.rules import two_momenta, zero_momenta

# The student that training begins with, as its own teacher.
PREVIOUS = {"previous": lambda params: params["student"]}


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

    return one_phase(objective, temperature=temperature, weight=weight)


def dot(
    *, temperature: float = 4.0, weight: float = 0.5, momentum: float = 0.9, difference=0.075
) -> Method:
    """`kd` under two momenta: the distillation gradient's lasts longer than the labels'.

    For `optax.sgd` without momentum; `difference` 0 is plain SGD with `momentum`.

    Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", 2023, who use a difference of
    0.075 on CIFAR-100 and 0.09 on ImageNet.
    """
    method = kd(temperature=temperature, weight=weight)
    rule = two_momenta(distillation="kd", momentum=momentum, difference=difference)
    phase = method.phases[0]._replace(rule=rule)
    return method._replace(phases=(phase,), memory={"momenta": zero_momenta("student")})


def born_again(*, temperature: float = 1.0, weight: float = 0.5) -> Method:
    """A fresh student of the student before it: (1 - weight) · labels + weight · T² KL(before ‖ own).

    The parameters of the one before are `memory["previous"]`, one for each seed.

    Furlanello, Lipton, Tschannen, Itti, Anandkumar, "Born-Again Neural Networks", 2018, with T = 1
    and the two terms equal.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)

    def objective(scope):
        image = classification.transfer_batch(scope)["image"]
        student, model = scope.apply("student", image)
        before, _ = scope.apply("student", image, params=scope.memory["previous"], train=False)
        values = softened_kl_divergence(
            student.logits, before.logits, temperature=scope.hyper["temperature"]
        )
        labels, _ = classification.label_term(scope, weight=1 - scope.hyper["weight"])
        terms = {**labels, "previous": term(values, weight=scope.hyper["weight"])}
        return terms, {"model": {"student": model}}

    return one_phase(objective, memory=PREVIOUS, temperature=temperature, weight=weight)


def data_partition(*, temperature: float = 1.0) -> Method:
    """T² KL(target ‖ student); the target is the teacher where it is surer of the label, else itself.

    "Itself" is the student before the transfer, `memory["previous"]`, from whose parameters the row
    should start (`carry`): what it knew better than the teacher is held. There is no label term.

    Roth, Thede, Koepke, Vinyals, Hénaff, Akata, "Fantastic Gains and Where to Find Them: On the
    Existence and Prospect of General Knowledge Transfer between Any Pretrained Model", 2024 (KL-Dist
    with supervised data partitioning).
    """
    check_positive(temperature=temperature)

    def objective(scope):
        batch, soft = scope.batch["labelled"], {"temperature": scope.hyper["temperature"]}
        taught = classification.teacher_outputs(scope, batch).logits
        student, model = scope.apply("student", batch["image"])
        before, _ = scope.apply(
            "student", batch["image"], params=scope.memory["previous"], train=False
        )
        entropy = optax.softmax_cross_entropy_with_integer_labels
        surer = entropy(taught, batch["label"]) < entropy(before.logits, batch["label"])
        target = jnp.where(surer[:, None], taught, before.logits)
        values = softened_kl_divergence(student.logits, target, **soft)
        return {"kd": term(values)}, {"model": {"student": model}}

    return one_phase(objective, memory=PREVIOUS, temperature=temperature)


def reliable_generation(
    *, temperature: float = 1.0, weight: float = 1.0, k: int = 3, tolerance: int = 0
) -> Method:
    """`born_again` that trusts a batch of the student before as far as it ranks the labels high.

    Cross-entropy + weight · mean average precision at k of that student on the batch · T² KL(before ‖
    own). `tolerance` counts neighbouring classes as hits, where classes are positions of a text.

    Carrino, Escolano, Fonollosa, "Promoting Generalized Cross-lingual Question Answering in
    Few-resource Scenarios via Self-knowledge Distillation", 2023, with k = 10 and a tolerance of 5
    positions of an answer's span.
    """
    check_positive(temperature=temperature)

    def objective(scope):
        batch, hyper = scope.batch["labelled"], scope.hyper
        student, model = scope.apply("student", batch["image"])
        before, _ = scope.apply(
            "student", batch["image"], params=scope.memory["previous"], train=False
        )
        rows = scope.gather((student.logits, before.logits, batch["label"]))
        values = average_precision_weighted_divergence(
            *rows, k=k, tolerance=tolerance, temperature=hyper["temperature"]
        )
        labels, _ = classification.label_term(scope)
        previous = term(values, weight=hyper["weight"], couples=True, gathered=True)
        return {**labels, "previous": previous}, {"model": {"student": model}}

    return one_phase(objective, memory=PREVIOUS, temperature=temperature, weight=weight)
