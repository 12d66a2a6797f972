"""Methods that make their own views of the images: rotations as labels, shifts that are learned."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import aggregate_views, softened_kl_divergence
from kdjax.losses._arrays import check_not_negative, check_positive
from kdjax.networks.adapters import from_function
from kdjax.networks.network import Outputs
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, Phase, one_phase, term

ROTATIONS = 4  # by quarter turns


def rotations(images):
    """`[B · 4, H, W, C]`: every square image upright and after one, two and three quarter turns."""
    turned = jnp.stack([jnp.rot90(images, k, axes=(1, 2)) for k in range(ROTATIONS)], axis=1)
    return turned.reshape(-1, *images.shape[1:])


def rotated_labels() -> Method:
    """Cross-entropy over all rotations of the labelled images: rotation as plain augmentation."""

    def objective(scope):
        batch = scope.batch["labelled"]
        outputs, model = scope.apply("student", rotations(batch["image"]))
        labels = jnp.repeat(batch["label"], ROTATIONS)
        values = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return {"labels": term(values)}, {"model": {"student": model}}

    return one_phase(objective)


def sla(*, student_feature: str, temperature: float = 1.0, weight: float = 1.0) -> Method:
    """Joint labels of class and rotation, whose aggregate over the views teaches the plain head.

    A joint head on the student's feature learns (class, rotation) of all four views; its logits,
    averaged over the views that match, are the detached teacher of the student's own head on the
    upright image: joint labels + labels + weight · T² KL(aggregate ‖ student). The joint head is
    dropped afterwards.

    Lee, Hwang, Shin, "Self-supervised Label Augmentation via Input Transformations", 2020 (SLA+SD),
    with T = 1 and weight 1.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def joint_head(shapes):
        student = shapes["student"]
        return linear_player(
            student.features[student_feature], ROTATIONS * student.logits.shape[-1]
        )

    def objective(scope):
        batch, hyper = scope.batch["labelled"], scope.hyper
        outputs, model = scope.apply("student", rotations(batch["image"]))
        head, _ = scope.apply("joint", outputs.features[student_feature])
        size, classes = len(batch["label"]), outputs.logits.shape[-1]
        joint = head.features[PROJECTED].reshape(size, ROTATIONS, ROTATIONS * classes)
        labels = jnp.arange(ROTATIONS)[None] * classes + batch["label"][:, None]
        upright = outputs.logits.reshape(size, ROTATIONS, classes)[:, 0]
        views = joint.reshape(size, ROTATIONS, ROTATIONS, classes)
        aggregate = jax.lax.stop_gradient(aggregate_views(views))
        entropy = optax.softmax_cross_entropy_with_integer_labels
        taught = softened_kl_divergence(upright, aggregate, temperature=hyper["temperature"])
        terms = {
            "joint_labels": term(entropy(joint, labels)),
            "labels": term(entropy(upright, batch["label"])),
            "aggregate": term(taught, weight=hyper["weight"]),
        }
        return terms, {"model": {"student": model}}

    return one_phase(objective, {"joint": joint_head}, temperature=temperature, weight=weight)


def shifted(images, shifts):
    """Images `[B, H, W, C]` moved by `shifts` `[B, 2]` pixels down and to the right, wrapped around.

    Between pixels by linear interpolation, so that the shifts have a gradient.
    """

    def weights(size, by):
        apart = jnp.arange(size)[:, None] - jnp.arange(size)[None]
        gaps = apart[None] - by[:, None, None]
        gaps = jnp.abs(gaps - size * jnp.round(gaps / size))
        return jnp.maximum(1 - gaps, 0)

    rows, columns = (weights(images.shape[1 + axis], shifts[:, axis]) for axis in (0, 1))
    return jnp.einsum("bij,bkl,bjlc->bikc", rows, columns, images)


def shift_kd(*, reach: float, temperature: float = 4.0) -> Method:
    """KD on clean images and on images shifted by up to `reach` pixels, drawn uniformly; no labels.

    T² KL(teacher ‖ student) on both, summed. The opponent of `hard`, whose shifts are learned.
    """
    check_positive(temperature=temperature)
    check_not_negative(reach=reach)

    def objective(scope):
        batch = scope.batch["labelled"]
        keys = scope.rng("shifts", batch["index"])
        shifts = reach * jax.vmap(lambda key: jax.random.uniform(key, (2,), minval=-1))(keys)
        return _taught_on_both(scope, shifted(batch["image"], shifts), temperature)

    return one_phase(objective)


def hard(
    *,
    reach: float,
    temperature: float = 4.0,
    disagree_weight: float = 1.0,
    steady_weight: float = 1.0,
    size_weight: float = 0.01,
) -> Method:
    """KD on clean and on shifted images, whose shifts are learned so that the student fails on them.

    An augmentor draws shifts reach · tanh(m + exp(s) · z), z normal, for learned m and s. Before every
    step of the student it takes one of its own: it raises the divergence of the student from the
    teacher on shifted images, keeps the teacher's answer there near the one on clean images, and pays
    for the mean square of the shifts over `reach`. Gradients reach it through both networks. No labels.

    Nix, Burg, Sinz, "HARD: Hard Augmentations for Robust Distillation", 2023; this concrete form is a
    reconstruction from its abstract, which has the disagreement and the toy of a shift-equivariant
    teacher.
    """
    check_positive(reach=reach, temperature=temperature)
    check_not_negative(
        disagree_weight=disagree_weight, steady_weight=steady_weight, size_weight=size_weight
    )

    def augmentor(shapes):
        del shapes  # shifts alone
        network = from_function(
            lambda key, noise: {"mean": jnp.zeros(2), "log_scale": jnp.full(2, -1.0)},
            lambda params, noise: Outputs(
                reach * jnp.tanh(params["mean"][None] + jnp.exp(params["log_scale"])[None] * noise)
            ),
        )
        return network, jax.ShapeDtypeStruct((1, 2), jnp.float32)

    def drawn(scope):
        batch = scope.batch["labelled"]
        keys = scope.rng("shifts", batch["index"])
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        shifts = scope.apply("augmentor", noise)[0].logits
        return shifts, shifted(batch["image"], shifts)

    def provoke(scope):
        hyper, soft = scope.hyper, {"temperature": temperature}
        shifts, moved = drawn(scope)
        clean = scope.apply("teacher", scope.batch["labelled"]["image"])[0].logits
        teacher, student = (scope.apply(name, moved)[0].logits for name in ("teacher", "student"))
        fixed = jax.lax.stop_gradient(teacher)
        terms = {
            "disagreement": term(
                softened_kl_divergence(student, fixed, **soft), weight=-hyper["disagree_weight"]
            ),
            "steadiness": term(
                softened_kl_divergence(teacher, clean, **soft), weight=hyper["steady_weight"]
            ),
            "size": term(jnp.mean(jnp.square(shifts / reach), axis=1), weight=size_weight),
        }
        return terms, {}

    def teach(scope):
        return _taught_on_both(scope, drawn(scope)[1], temperature)

    return Method(
        players={"augmentor": augmentor},
        phases=(Phase(provoke, ("augmentor",)), Phase(teach, ("student",))),
        hyper={"disagree_weight": disagree_weight, "steady_weight": steady_weight},
    )


def _taught_on_both(scope, moved, temperature):
    """The student's divergence from the teacher on the clean images and on `moved` ones, and updates."""
    clean, model = scope.batch["labelled"]["image"], {}
    terms = {}
    for name, image in (("clean", clean), ("moved", moved)):
        student, model = scope.apply("student", image)
        teacher, _ = scope.apply("teacher", image)
        values = softened_kl_divergence(student.logits, teacher.logits, temperature=temperature)
        terms[name] = term(values)
    return terms, {"model": {"student": model}}
