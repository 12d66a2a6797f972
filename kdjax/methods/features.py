"""Methods that transfer what a layer of the teacher holds."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import feature_hint, kernel_matching, layer_normalised_hint
from kdjax.losses._arrays import check_at_least_one, check_fraction, check_not_negative
from kdjax.methods import classification
from kdjax.networks.adapters import from_function
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.networks.network import Outputs
from kdjax.networks.projectors import PROJECTED, linear_projector
from kdjax.networks.side_by_side import JOINED
from kdjax.train.method import Method, one_phase, term


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

    return one_phase(objective, {"projector": projector}, weight=weight)


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

    return one_phase(objective, {"gates": gates}, weight=weight)


def teacher_class(*, teacher_feature: str, labels: float = 0.0) -> Method:
    """A class of students: each regresses its chunk of the teacher's vector, without labels.

    The student gives the chunks of its members as `joined`, see `networks.side_by_side`. With `labels`
    w, (1 - w) · the squared error of the joined vector + w · cross-entropy of the teacher's own last
    layer, frozen, on it: the optional fine-tuning of all members together.

    Malik, Mohbat, Haider, Rasheed, Taj, "Teacher-Class Network: A Neural Network Compression
    Mechanism", 2021, who give all members together no more parameters than the single student.
    """
    check_fraction(labels=labels)

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        joined, share = student.features[JOINED], scope.hyper["labels"]
        values = feature_hint(joined, teacher.features[teacher_feature])
        head = scope.frozen["teacher"]["head"]
        right = optax.softmax_cross_entropy_with_integer_labels(
            through_head(joined, head), classification.transfer_batch(scope)["label"]
        )
        return {
            "chunks": term(values, weight=1 - share),
            "labels": term(right, weight=share),
        }, updates

    return one_phase(objective, labels=labels)


def through_head(feature, head):
    """The logits `[..., C]` of a dense layer `{"kernel", "bias"}` on a feature `[..., D]`."""
    bias = head["bias"].reshape((1,) * (feature.ndim - 1) + (-1,))
    return jnp.einsum("...d,dc->...c", feature, head["kernel"]) + bias


def talking_models(
    *,
    low: str,
    high: str,
    rounds: int = 1,
    weight: float = 1.0,
    interaction: float = 1.0,
    message: int = 32,
) -> Method:
    """Cross-entropy + weight · (interaction · L_I + message consistency + state consistency).

    The student encodes its low state as a message, the teacher decodes it at its own low layer, goes
    through its layers to the high one (the frozen network `interpreter`) and answers with a message
    that the student decodes. L_I: the student's high state follows the decoded answer. Message
    consistency: both models encode the high states as one message, and the low ones. State
    consistency: a decoded state is like the receiver's own. The next round starts from the answer.
    Encoders and decoders have a hidden layer, train with the student and are dropped afterwards; the
    distances are between normalised states. `low` and `high` name features of both models.

    Zhao, Liu, Gui, An, Hong, Chi, "Talking Models: Distill Pre-trained Knowledge to Downstream Models via
    Interactive Communication", 2023. What is compared in each term is a reconstruction from the
    paper's abstract and reviews; there the weights are tuned for every task.
    """
    check_not_negative(weight=weight, interaction=interaction)
    check_at_least_one(rounds=rounds)

    def encoder(model):
        def make(shapes):
            state = shapes[model].features[high]
            return multilayer_perceptron(message, widths=(message,)), state

        return make

    def decoder(model):
        def make(shapes):
            state = shapes[model].features[low]
            sent = jax.ShapeDtypeStruct((state.shape[0], message), state.dtype)
            return multilayer_perceptron(state.shape[-1], widths=(message,)), sent

        return make

    def objective(scope):
        def through(player, x):
            return scope.apply(player, x)[0].logits

        student, teacher, updates = classification.transfer_pass(scope)
        (own_low, own_high), (low_t, high_t) = (
            (given.features[low], given.features[high]) for given in (student, teacher)
        )
        told = through("teacher_encoder", low_t)
        ideal = jax.lax.stop_gradient(
            through("student_decoder", through("teacher_encoder", high_t))
        )
        terms, state = classification.label_term(scope)[0], own_low
        for number in range(1, rounds + 1):
            sent = through("student_encoder", state)
            heard = through("teacher_decoder", sent)
            answer = through("teacher_encoder", scope.apply("interpreter", heard)[0].features[high])
            state = through("student_decoder", answer)
            same = layer_normalised_hint(through("student_encoder", own_high), answer)
            same += layer_normalised_hint(sent, told)
            alike = layer_normalised_hint(heard, low_t) + layer_normalised_hint(state, ideal)
            follows = layer_normalised_hint(own_high, state)
            scale = scope.hyper["weight"]
            terms |= {
                f"interaction{number}": term(follows, weight=scale * scope.hyper["interaction"]),
                f"messages{number}": term(same, weight=scale),
                f"states{number}": term(alike, weight=scale),
            }
        return terms, updates

    players = {
        f"{model}_{role}": make(model)
        for model in ("student", "teacher")
        for role, make in (("encoder", encoder), ("decoder", decoder))
    }
    return one_phase(objective, players, weight=weight, interaction=interaction)
