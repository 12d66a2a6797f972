"""Methods that transfer how the teacher places the examples of a batch to each other."""

import jax
import jax.numpy as jnp

from kdjax.losses import (
    contextual_similarity,
    info_nce,
    neighbour_graph_divergence,
    relational_angle,
    relational_distance,
    softened_kl_divergence,
)
from kdjax.losses._arrays import check_at_least_one, check_not_negative, check_positive
from kdjax.methods import classification
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term


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

    return one_phase(objective, weight=weight)


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

    return one_phase(objective, distance_weight=distance_weight, angle_weight=angle_weight)


def trg(
    *,
    student_feature: str,
    teacher_feature: str,
    tokens: int = 8,
    neighbours: int = 8,
    width: int = 32,
    temperatures: tuple[float, float] = (1.0, 0.1),
    cooling_steps: int = 1000,
    kd_temperature: float = 4.0,
    kd_weight: float = 1.0,
    weight: float = 1.0,
) -> Method:
    """Cross-entropy + KD + relations among the tokens of a batch: graph edges, contrast, context.

    `tokens` patches are drawn of every image, the same on both sides. Over those of the whole batch:
    KL(student ‖ teacher) of the edges of the nearest-neighbour graphs, and InfoNCE of a student's
    token with the teacher's token of the same place, after a linear head on either side, at a
    temperature that falls by a cosine within `cooling_steps`. Inside an image: the squared distance of
    the softmaxed token similarities. The three share a weight, which rises over the first tenth of
    the cooling. Features are patch tokens behind one class token, `[B, 1 + N, D]`.

    Raises:
        ValueError: at the first trace, more `tokens` than an image has patches.

    Zhang, Liu, He, "Knowledge Distillation via Token-level Relationship Graph", 2023; the numbers and
    the form of the contrast are a reconstruction.
    """
    check_positive(kd_temperature=kd_temperature, temperatures=temperatures)
    check_not_negative(kd_weight=kd_weight, weight=weight)
    check_at_least_one(tokens=tokens, cooling_steps=cooling_steps)
    features = {"student": student_feature, "teacher": teacher_feature}

    def head(side):
        def make(shapes):
            whole = shapes[side].features[features[side]]
            some = jax.ShapeDtypeStruct((whole.shape[0], tokens, whole.shape[-1]), whole.dtype)
            return linear_player(some, width)

        return make

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        rows = [student.features[student_feature], teacher.features[teacher_feature]]
        index = classification.transfer_batch(scope)["index"]
        places = _drawn_places(scope.rng("tokens", index), rows[0].shape[1] - 1, tokens)
        drawn = [jnp.take_along_axis(x[:, 1:], places[..., None], axis=1) for x in rows]
        heads = zip(("student_head", "teacher_head"), drawn, strict=True)
        projected = [scope.apply(name, x)[0].features[PROJECTED] for name, x in heads]
        s, t, p_s, p_t = (x.reshape(-1, x.shape[-1]) for x in scope.gather([*drawn, *projected]))
        start, end = temperatures
        past = jnp.minimum(scope.step / cooling_steps, 1.0)
        temperature = end + (start - end) * (1 + jnp.cos(jnp.pi * past)) / 2
        shared = {
            "weight": scope.hyper["weight"] * jnp.minimum(10 * past, 1.0),
            "couples": True,
            "gathered": True,
        }
        soft = softened_kl_divergence(student.logits, teacher.logits, temperature=kd_temperature)
        labels, _ = classification.label_term(scope)
        terms = {
            "kd": term(soft, weight=kd_weight),
            "inner": term(contextual_similarity(*drawn), weight=shared["weight"]),
            "local": term(neighbour_graph_divergence(s, t, neighbours=neighbours), **shared),
            "global": term(info_nce(p_s, p_t, temperature=temperature), **shared),
        }
        return {**labels, **terms}, updates

    return one_phase(objective, {f"{side}_head": head(side) for side in features}, weight=weight)


def _drawn_places(keys, places, count):
    """`[B, count]`: for every example's key as many of its places, none twice."""
    if count > places:
        raise ValueError(f"tokens must be at most the {places} patches of an image, got {count}")
    return jax.vmap(lambda key: jax.random.permutation(key, places)[:count])(keys)
