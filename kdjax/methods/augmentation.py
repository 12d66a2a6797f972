"""Methods that make their own views of the images: rotations as labels and as a teacher."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import aggregate_views, softened_kl_divergence
from kdjax.losses._arrays import check_not_negative, check_positive
from kdjax.networks.projectors import PROJECTED, linear_projector
from kdjax.train.method import Method, Phase, term

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

    return Method(players={}, phases=(Phase(objective, ("student",)),))


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
        feature, logits = shapes["student"].features[student_feature], shapes["student"].logits
        joint = jax.ShapeDtypeStruct((1, ROTATIONS * logits.shape[-1]), jnp.float32)
        pair = (student_feature, "joint")
        return linear_projector({student_feature: feature}, {"joint": joint}, pair=pair), feature

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

    return Method(
        players={"joint": joint_head},
        phases=(Phase(objective, ("student", "joint")),),
        hyper={"temperature": temperature, "weight": weight},
    )
