"""Methods whose teacher learns too: as a peer from the start, or through an adapter on its outputs."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import reverse_kl_divergence, softened_kl_divergence
from kdjax.losses._arrays import check_at_least_one, check_not_negative, check_positive
from kdjax.methods import classification
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term

PEERS = ("student", "teacher")


def mutual_learning(*, temperature: float = 1.0, weight: float = 1.0) -> Method:
    """Student and `teacher` train together from scratch: labels + weight · T² KL(peer ‖ own), each.

    Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2018, with T = 1 and weight 1.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def objective(scope):
        student, teacher, terms, updates = _peers(scope)
        for name, own, peer in (("student", student, teacher), ("teacher", teacher, student)):
            values = softened_kl_divergence(
                own, jax.lax.stop_gradient(peer), temperature=scope.hyper["temperature"]
            )
            terms[f"{name}_peer"] = term(values, weight=scope.hyper["weight"])
        return terms, updates

    return one_phase(objective, trains=PEERS, temperature=temperature, weight=weight)


def bd_kd(*, temperature: float = 4.0, weight: float = 1.0, raised: float = 2.0) -> Method:
    """Peers; the student minimises KL in both directions, one raised by whose entropy is lower.

    Student: labels + weight · T² (a KL(teacher ‖ student) + b KL(student ‖ teacher)) with (a, b) =
    (raised, 1) for an example on which the student has the lower entropy, else (1, raised). Teacher:
    labels + weight · T² KL(student ‖ teacher). Each detaches the other.

    Amara, Sepahvand, Meyer, Gross, Clark, "BD-KD: Balancing the Divergences for Online Knowledge
    Distillation", 2022; T, and which direction is raised when, are a reconstruction.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)
    check_at_least_one(raised=raised)

    def objective(scope):
        student, teacher, terms, updates = _peers(scope)
        hyper, fixed = scope.hyper, jax.lax.stop_gradient
        soft = {"temperature": hyper["temperature"]}
        surer = fixed(_entropy(student, **soft) < _entropy(teacher, **soft))
        forward = jnp.where(surer, hyper["raised"], 1.0)
        reverse = jnp.where(surer, 1.0, hyper["raised"])
        values = {
            "forward": forward * softened_kl_divergence(student, fixed(teacher), **soft),
            "reverse": reverse * reverse_kl_divergence(student, fixed(teacher), **soft),
            "teacher_peer": softened_kl_divergence(teacher, fixed(student), **soft),
        }
        weighted = {name: term(each, weight=hyper["weight"]) for name, each in values.items()}
        return {**terms, **weighted}, updates

    return one_phase(objective, trains=PEERS, temperature=temperature, weight=weight, raised=raised)


def _peers(scope):
    """(student logits, teacher logits, the label terms of both, updates)."""
    image = classification.transfer_batch(scope)["image"]
    own, peer = (scope.apply(name, image)[0].logits for name in ("student", "teacher"))
    terms, updates = classification.label_term(scope)
    taught, model = classification.label_term(scope, player="teacher", name="teacher_labels")
    return own, peer, {**terms, **taught}, {"model": {**updates["model"], **model["model"]}}


def _entropy(logits, *, temperature):
    log_p = jax.nn.log_softmax(logits / temperature)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)


def pesf_kd(
    *, teacher_feature: str, temperature: float = 4.0, weight: float = 1.0, hidden: int = 64
) -> Method:
    """`kd` from adapted logits: an adapter on the frozen teacher's feature learns with the student.

    The adapter's output is subtracted from the teacher's logits z. Minimised by both: the student's
    labels + weight · T² KL(softmax(z - A(f)) ‖ student) + cross-entropy of z - A(f) with the labels,
    which keeps the adapted teacher right. The images must be labelled: there is no transfer stream.

    Rao, Meng, Ding, Qi, Liu, Zhang, Tao, "Parameter-Efficient and Student-Friendly Knowledge
    Distillation", 2022, with T = 4. Their released loop also swaps the logits of the true and the
    largest class before each side is detached, and adds the adapter's output in evaluation.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def first(shapes):
        taught = shapes["teacher"]
        return linear_player(taught.features[teacher_feature], taught.logits.shape[-1])

    def second(shapes):
        logits = shapes["teacher"].logits
        return multilayer_perceptron(logits.shape[-1], widths=(hidden,)), logits

    def objective(scope):
        batch, hyper = scope.batch["labelled"], scope.hyper
        teacher = classification.teacher_outputs(scope, batch)
        narrow, _ = scope.apply("adapter_in", teacher.features[teacher_feature])
        correction, _ = scope.apply("adapter_out", narrow.features[PROJECTED])
        adapted = teacher.logits - correction.logits
        student, model = scope.apply("student", batch["image"])
        values = softened_kl_divergence(student.logits, adapted, temperature=hyper["temperature"])
        right = optax.softmax_cross_entropy_with_integer_labels(adapted, batch["label"])
        labels, _ = classification.label_term(scope)
        terms = {"kd": term(values, weight=hyper["weight"]), "adapted_labels": term(right)}
        return {**labels, **terms}, {"model": {"student": model}}

    adapters = {"adapter_in": first, "adapter_out": second}
    return one_phase(objective, adapters, temperature=temperature, weight=weight)
