"""Methods for retrieval: an encoder of queries and documents, taught by scores of pairs.

`batch["pairs"]` holds `query` `[B, V]`, `document` `[B, V]`, each query's own, and `index` `[B]`, which
of the N pairs it is. An encoder's `logits` are an embedding `[B, D]`; a score is an inner
product. A teacher that scores pairs jointly is cached: `frozen["scores"]["teacher"]` `[N, N]`.
"""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import feature_hint, listwise_divergence, softened_kl_divergence
from kdjax.losses._arrays import (
    check_at_least_one,
    check_fraction,
    check_not_negative,
    check_positive,
)
from kdjax.networks.projectors import PROJECTED, linear_projector
from kdjax.train.method import Method, one_phase, term

SIDES = ("query", "document")
COUPLED = {"couples": True, "gathered": True}


def retrieval(*, joint: bool = False, binary: bool = False) -> Method:
    """Labels alone: a query's own document against those of the other queries in the batch.

    Softmax cross-entropy over the documents, or with `binary` the balanced binary one over all pairs.
    `joint` is for a network that gives the scores `[B, B]` of queries and documents itself.
    """

    def objective(scope):
        if joint:
            batch = scope.gather({side: scope.batch["pairs"][side] for side in SIDES})
            scores = scope.apply("student", batch)[0].logits
        else:
            scores = _scores(*_encoded(scope, "student"))
        values = _balanced_entropy(scores) if binary else _own_entropy(scores)
        return {"labels": term(values, **COUPLED)}, {}

    return one_phase(objective)


def retrieval_kd(*, temperature: float = 1.0, weight: float = 1.0) -> Method:
    """`retrieval` + weight · T² KL(teacher ‖ student) of the scores of the batch's documents.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, over candidates in
    place of classes.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def objective(scope):
        scores, hyper = _scores(*_encoded(scope, "student")), scope.hyper
        soft = {"temperature": hyper["temperature"]}
        taught = softened_kl_divergence(scores, _cached_scores(scope), **soft)
        kd = term(taught, weight=hyper["weight"], **COUPLED)
        return {"labels": term(_own_entropy(scores), **COUPLED), "kd": kd}, {}

    return one_phase(objective, temperature=temperature, weight=weight)


def cross_to_bi_encoder(*, share: float = 0.5) -> Method:
    """share · balanced binary cross-entropy + (1 - share) · squared distance to a joint scorer's logits.

    The distance of a query is that of its own document + the mean of those of the batch's documents;
    the scores are compared as they are.

    Tahami, Ghajar, Shakery, "Distilling Knowledge for Fast Retrieval-based Chat-bots", 2020, with share
    0.5. Their released loop leaves the teacher's dropout on; here its logits are deterministic.
    """
    check_fraction(share=share)

    def objective(scope):
        scores, share = _scores(*_encoded(scope, "student")), scope.hyper["share"]
        own = jnp.eye(len(scores), dtype=bool)
        gaps = jnp.square(scores - _cached_scores(scope))
        apart = jnp.sum(jnp.where(own, 1.0, 1 / len(scores)) * gaps, axis=1)
        labels = term(_balanced_entropy(scores), weight=share, **COUPLED)
        return {"labels": labels, "scores": term(apart, weight=1 - share, **COUPLED)}, {}

    return one_phase(objective, share=share)


def lead(
    *,
    student_layers: tuple[str, ...],
    teacher_layers: tuple[str, ...],
    temperature: float = 1.0,
    layer_temperature: float = 1.0,
    weight: float = 1.0,
    layer_weight: float = 1.0,
    redrawn: int = 50,
) -> Method:
    """Labels + KL of the final scores + KL of the scores that matched layers give, the better the more.

    Every layer of either encoder scores the batch's documents by inner products, so neither widths nor
    inputs need to agree. As many of the teacher's layers as the student has are drawn every `redrawn`
    steps, in order; a pair counts by softmax(-NLL of the teacher's layer / layer_temperature), detached.

    Raises:
        ValueError: no student layer, or more of them than teacher layers.

    Sun, Liu, Gong, et al., "LEAD: Liberal Feature-based Distillation for Dense Retrieval", 2024; the
    teacher is not trained on here, as it may be there.
    """
    check_positive(temperature=temperature, layer_temperature=layer_temperature)
    check_not_negative(weight=weight, layer_weight=layer_weight)
    check_at_least_one(redrawn=redrawn)
    if not 0 < len(student_layers) <= len(teacher_layers):
        raise ValueError(
            f"student_layers {student_layers} must be from 1 to the {len(teacher_layers)} of the teacher"
        )

    def layered(scope, name, layers):
        encoded = _encoded(scope, name)
        queries, documents = (side.features for side in encoded)
        own = [queries[layer] @ documents[layer].T for layer in layers]
        return _scores(*encoded), jnp.stack(own)

    def objective(scope):
        hyper = scope.hyper
        scores, layers = layered(scope, "student", student_layers)
        final, taught = layered(scope, "teacher", teacher_layers)
        drawn = jax.random.permutation(scope.rng("layers"), len(teacher_layers))
        drawn = jnp.sort(drawn[: len(student_layers)])
        chosen = jnp.where(scope.step % redrawn == 0, drawn, scope.memory["layers"])
        taught = taught[chosen]
        quality = -jnp.mean(jax.vmap(_own_entropy)(taught), axis=1)
        shares = jax.nn.softmax(quality / layer_temperature)
        by_layer = listwise_divergence(layers, taught, temperature=temperature)
        to_final = listwise_divergence(scores, final, temperature=temperature)
        terms = {
            "labels": term(_own_entropy(scores), **COUPLED),
            "kd": term(to_final, weight=hyper["weight"], **COUPLED),
            "layers": term(shares @ by_layer, weight=hyper["layer_weight"], **COUPLED),
        }
        return terms, {"memory": {"layers": chosen}}

    memory = {"layers": jnp.zeros(len(student_layers), jnp.int32)}
    return one_phase(objective, memory=memory, weight=weight, layer_weight=layer_weight)


def retrieval_hint(
    *, student_feature: str, teacher_feature: str, weight: float = 1.0, hint_weight: float = 1.0
) -> Method:
    """Labels + KL of the final scores + the squared distance of a projected layer, on both sides.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", 2015, with the
    hint beside the other terms and not before them.
    """
    check_not_negative(weight=weight, hint_weight=hint_weight)

    def projector(shapes):
        student, teacher = shapes["student"].features, shapes["teacher"].features
        pair = (student_feature, teacher_feature)
        return linear_projector(student, teacher, pair=pair), student[student_feature]

    def objective(scope):
        own, taught = _encoded(scope, "student"), _encoded(scope, "teacher")
        scores = _scores(*own)
        gaps = [
            feature_hint(
                scope.apply("projector", s.features[student_feature])[0].features[PROJECTED],
                t.features[teacher_feature],
            )
            for s, t in zip(own, taught, strict=True)
        ]
        to_final = listwise_divergence(scores, _scores(*taught))
        terms = {
            "labels": term(_own_entropy(scores), **COUPLED),
            "kd": term(to_final, weight=scope.hyper["weight"], **COUPLED),
            "hint": term(sum(gaps), weight=scope.hyper["hint_weight"]),
        }
        return terms, {}

    return one_phase(objective, {"projector": projector}, weight=weight, hint_weight=hint_weight)


def prod(
    *,
    candidates: int,
    drawn: int = 0,
    temperature: float = 4.0,
    label_weight: float = 0.1,
    kd_weight: float = 0.9,
    keep_weight: float = 1.0,
) -> Method:
    """One step of a progression: labels + KL to a teacher + KL to the student as it came in.

    All on scores `[B, 1 + K]` of a query's own document and its mined ones: `memory["candidates"]`
    `[N, candidates]`, of which `drawn` are drawn anew each time, or for 0 all are taken in their order.
    label_weight · NLL + T² · (kd_weight · KL(teacher ‖ student) + keep_weight · KL(initial ‖ student)),
    with the scores of the frozen copy `memory["initial"]`. The documents are
    `frozen["documents"]["bags"]` `[N, V]`.

    Raises:
        ValueError: more `drawn` than there are candidates.

    Lin, Gong, Liu, et al., "PROD: Progressive Distillation for Dense Retrieval", 2023, with T = 4,
    weights 0.1, 0.9 and 1, 15 negatives, the last weight 0 under the dual encoder's teaching.
    """
    check_positive(temperature=temperature)
    check_not_negative(label_weight=label_weight, kd_weight=kd_weight, keep_weight=keep_weight)
    if not 0 <= drawn <= candidates:
        raise ValueError(f"drawn must be from 0 to the {candidates} candidates, got {drawn}")

    def objective(scope):
        batch = scope.batch["pairs"]
        index, mined = batch["index"], scope.memory["candidates"][batch["index"]]
        if drawn:
            keys = scope.rng("negatives", index)
            places = jax.vmap(lambda key: jax.random.permutation(key, candidates)[:drawn])(keys)
            mined = jnp.take_along_axis(mined, places, axis=1)
        listed = jnp.concatenate([index[:, None], mined], axis=1)
        inputs = {
            "query": batch["query"],
            "document": scope.frozen["documents"]["bags"][listed.reshape(-1)],
        }

        def scored(**options):
            q, d = (scope.apply("student", inputs[side], **options)[0].logits for side in SIDES)
            d = d.reshape(*listed.shape, -1)
            return jnp.einsum("bd,bkd->bk", q, d)

        scores = scored()
        taught = scope.frozen["scores"]["teacher"][index[:, None], listed]
        before = scored(params=jax.lax.stop_gradient(scope.memory["initial"]), train=False)
        soft = {"temperature": temperature}
        terms = {
            "labels": term(-jax.nn.log_softmax(scores)[:, 0], weight=label_weight),
            "kd": term(softened_kl_divergence(scores, taught, **soft), weight=kd_weight),
            "kept": term(softened_kl_divergence(scores, before, **soft), weight=keep_weight),
        }
        return terms, {}

    return one_phase(
        objective,
        memory={
            "candidates": jnp.zeros((1, candidates), jnp.int32),
            "initial": lambda params: params["student"],
        },
    )


def _encoded(scope, name):
    """The Outputs of an encoder for the batch's queries and for their own documents."""
    return [scope.gather(scope.apply(name, scope.batch["pairs"][side])[0]) for side in SIDES]


def _scores(queries, documents):
    """`[B, B]`: every query of the batch with every document."""
    return queries.logits @ documents.logits.T


def _cached_scores(scope):
    index = scope.gather(scope.batch["pairs"]["index"])
    return scope.frozen["scores"]["teacher"][index[:, None], index[None]]


def _own_entropy(scores):
    """-log softmax of the own document, which is on the diagonal, by query."""
    return -jnp.diagonal(jax.nn.log_softmax(scores, axis=-1))


def _balanced_entropy(scores):
    """Binary cross-entropy summed over documents, by query; a right pair weighs as all wrong ones."""
    size = len(scores)
    own = jnp.eye(size)
    entropies = optax.sigmoid_binary_cross_entropy(scores, own)
    return jnp.sum(jnp.where(own > 0, max(size - 1, 1), 1) * entropies, axis=1)
