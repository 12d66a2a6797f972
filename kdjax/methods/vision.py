"""Methods that ask something of a vision transformer: its patch tokens, its layers, its class tokens."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import fused_spatial_divergence, softened_kl_divergence
from kdjax.losses._arrays import check_fraction, check_not_negative, check_positive
from kdjax.methods import classification
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term


def deit(*, temperature: float = 1.0, weight: float = 0.5) -> Method:
    """(1 - weight) · cross-entropy of the class token + weight · T² KL(teacher ‖ distillation token).

    The student gives `class_logits` and `distillation_logits`.

    Touvron, Cord, Douze, Massa, Sablayrolles, Jégou, "Training data-efficient image transformers &
    distillation through attention", 2021: weight 0.5 with hard labels of the teacher, or T = 3 and
    weight 0.1 with soft ones; here they are soft.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)
    return one_phase(_two_tokens, temperature=temperature, weight=weight)


def _two_tokens(scope):
    student, teacher, updates = classification.transfer_pass(scope)
    values = softened_kl_divergence(
        student.features["distillation_logits"],
        teacher.logits,
        temperature=scope.hyper["temperature"],
    )
    right = optax.softmax_cross_entropy_with_integer_labels(
        student.features["class_logits"], classification.transfer_batch(scope)["label"]
    )
    share = scope.hyper["weight"]
    return {"labels": term(right, weight=1 - share), "kd": term(values, weight=share)}, updates


def cumulative_spatial(
    *,
    teacher_feature: str,
    steps: int = 0,
    temperature: float = 1.0,
    weight: float = 0.5,
    spatial: float = 1.0,
) -> Method:
    """`deit` + spatial · T² KL(teacher ‖ student) at every position of the image.

    The student's patch tokens pass through a linear head of their own, which is dropped afterwards,
    and are averaged over squares to the positions of the teacher's dense logits `[B, h, w, C]`, the
    feature `teacher_feature`: its classifier applied before the pooling. The target at a position
    is r · its dense logits + (1 - r) · their mean, r falling from 1 to 0 over `steps`; 0 keeps r = 1.

    Zhao, Song, Liang, "Cumulative Spatial Knowledge Distillation for Vision Transformers", 2023, who
    lower r linearly, by a square or by a cosine, and use hard labels of the teacher or soft ones.
    """
    check_not_negative(spatial=spatial, steps=steps)
    base = deit(temperature=temperature, weight=weight)

    def head(shapes):
        tokens = jax.eval_shape(_patches, shapes["student"].features["tokens"])
        return linear_player(tokens, shapes["teacher"].logits.shape[-1])

    def objective(scope):
        terms, updates = _two_tokens(scope)
        student, teacher, _ = classification.transfer_pass(scope)
        dense, _ = scope.apply("dense_head", _patches(student.features["tokens"]))
        target = teacher.features[teacher_feature]
        own = averaged_positions(dense.features[PROJECTED], target.shape[1:3])
        share = 1 - jnp.minimum(scope.step / steps, 1.0) if steps else 1.0
        values = fused_spatial_divergence(
            own,
            target,
            jnp.mean(target, axis=(1, 2)),
            spatial_share=share,
            temperature=scope.hyper["temperature"],
        )
        return {**terms, "spatial": term(values, weight=scope.hyper["spatial"])}, updates

    return one_phase(objective, {"dense_head": head}, **{**base.hyper, "spatial": spatial})


def _patches(tokens):
    return tokens[:, 2:]  # without the class and the distillation token


def path_distillation(
    *, temperature: float = 3.0, weight: float = 0.5, soft: bool = True
) -> Method:
    """Cross-entropy + weight · T² KL(all paths ‖ first paths), mean over the shorter sums.

    The student is a `networks.path_ensemble`; the long side is detached. `soft` False gives the
    shorter sums the labels instead: deep supervision.

    Chang, Wang, Luo, Wang, Shou, "Revisiting Vision Transformer from the View of Path
    Ensemble", 2023; the form of this loss is a reconstruction. Deep supervision: Lee, Xie, Gallagher,
    Zhang, Tu, "Deeply-Supervised Nets", 2015.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["image"])
        exits = student.features["exits"]
        if soft:
            whole = jnp.broadcast_to(student.logits[:, None], exits.shape)
            values = softened_kl_divergence(
                exits, jax.lax.stop_gradient(whole), temperature=scope.hyper["temperature"]
            )
        else:
            labels = jnp.broadcast_to(batch["label"][:, None], exits.shape[:2])
            values = optax.softmax_cross_entropy_with_integer_labels(exits, labels)
        terms, _ = classification.label_term(scope)
        return {**terms, "exits": term(values, weight=scope.hyper["weight"])}, {
            "model": {"student": model}
        }

    return one_phase(objective, temperature=temperature, weight=weight)


def averaged_positions(tokens, size):
    """`[B, N, C]` of N patches, row by row of a square image, as means `[B, h, w, C]` over squares.

    Raises:
        ValueError: patches that are no square of a multiple of `size` (h, w).
    """
    side = round(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1] or side % size[0] or side % size[1]:
        raise ValueError(f"{tokens.shape[1]} patches do not cover positions {size} evenly")
    height, width = side // size[0], side // size[1]
    blocks = tokens.reshape(len(tokens), size[0], height, size[1], width, tokens.shape[-1])
    return jnp.mean(blocks, axis=(2, 4))
