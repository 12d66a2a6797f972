"""Methods around private data: teachers of disjoint parts, the student of their answers, melted targets."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import pseudo_label_cross_entropy, softened_kl_divergence
from kdjax.losses._arrays import (
    check_at_least_one,
    check_fraction,
    check_not_negative,
    check_positive,
)
from kdjax.networks.network import Network
from kdjax.networks.prompted import ensemble
from kdjax.train.method import Method, one_phase, term


def private_teachers(network: Network, *, copies: int, image, radius: float = 0.05) -> Method:
    """`copies` classifiers, each of its own part of the labelled images, by sharpness-aware steps.

    The player `teachers` is an `ensemble`: a batch holds n images of every part, one part after the
    other. Every copy minimises its cross-entropy at its own parameters + `radius` · its unit gradient.
    `image` is the shape struct of one image with a batch axis.

    The teachers of Papernot et al., "Semi-supervised Knowledge Transfer for Deep Learning from Private
    Training Data", 2017, trained as Li et al., "Exploring the Benefits of Visual Prompting in
    Differential Privacy", 2023, train theirs: sharpness-aware minimisation (Foret et al., 2021) with a
    radius of 0.05.
    """
    check_at_least_one(copies=copies)
    check_not_negative(radius=radius)

    def teachers(shapes):
        del shapes
        first = jax.ShapeDtypeStruct((copies, *image.shape[1:]), image.dtype)
        whole = ensemble(network, copies)
        return whole._replace(init=lambda key, _: whole.init(key, image)), first

    def objective(scope):
        batch, own = scope.batch["labelled"], scope.params["teachers"]

        def losses(params):
            logits = scope.apply("teachers", batch["image"], params=params)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

        # A sum over copies, so that each one's gradient is that of its own mean.
        slope = jax.grad(lambda params: copies * jnp.mean(losses(params)))(own)
        step = _unit_by_copy(jax.lax.stop_gradient(slope))
        worst = jax.tree.map(lambda p, s: p + scope.hyper["radius"] * s, own, step)
        return {"labels": term(losses(worst))}, {}

    return one_phase(objective, {"teachers": teachers}, trains=("teachers",), radius=radius)


def _unit_by_copy(tree):
    squares = sum(jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(tree))
    scale = jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
    return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)), tree)


def answered_queries(
    *, queries: int, sure: float = 0.95, weight: float = 1.0, noise: float = 0.5
) -> Method:
    """Cross-entropy on the public images that were answered, pseudo-labels on those that were not.

    `memory` holds for the `queries` public images, numbered by the stream `public`, the `answer` and
    whether they were `answered`; a study fills it in. Where an image was not, and the student gives a
    class at least `sure`, that class is its label on the image with N(0, `noise`²) on every pixel.

    The student of PATE (Papernot et al., 2017) with the consistency of Sohn et al., "FixMatch:
    Simplifying Semi-Supervised Learning with Consistency and Confidence", 2020: 0.95 and 1.
    """
    check_at_least_one(queries=queries)
    check_fraction(sure=sure)
    check_not_negative(weight=weight, noise=noise)

    def objective(scope):
        batch = scope.batch["public"]
        image, index = batch["image"], batch["index"]
        answer, known = scope.memory["answer"][index], scope.memory["answered"][index]
        student, model = scope.apply("student", image)
        logits = student.logits
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, answer)
        keys = scope.rng("noise", index)
        shift = jax.vmap(lambda key: jax.random.normal(key, image.shape[1:]))(keys)
        strong = scope.apply("student", image + noise * shift)[0].logits
        taught = jax.lax.stop_gradient(logits)
        certain = jnp.max(jax.nn.softmax(taught), axis=-1) >= sure
        soft = jnp.where(certain & ~known, pseudo_label_cross_entropy(strong, taught), 0.0)
        terms = {
            "answers": term(hard, where=known),
            "pseudo": term(soft, where=~known, weight=scope.hyper["weight"]),
        }
        return terms, {"model": {"student": model}}

    memory = {"answer": jnp.zeros(queries, jnp.int32), "answered": jnp.zeros(queries, bool)}
    return one_phase(objective, memory=memory, weight=weight)


def swing_distillation(
    *, hottest: float = 8.0, noise_budget: float = 20.0, label_weight: float = 0.5
) -> Method:
    """Token-level distillation whose targets melt, and are noised, where a token may be private.

    With r in [0, 1] the chance that a position holds a secret (the batch's `private`), T = 1 + (hottest -
    1) r and q the normalised positive part of softmax(teacher / T) + r · Laplace(2 / noise_budget):
    a token costs KL(q ‖ softmax(student / T)) + label_weight · (1 - r) · cross-entropy. With r = 0
    everywhere it is plain distillation. `batch["sequence"]` has `tokens`, the `targets` that follow them,
    and `private`, r of the targets, `[B, L]` each, and may have `mask`, what is learned at all.

    Li, Wu, Dong, Wu, Bian, Xiong, "Swing Distillation: A Privacy-Preserving Knowledge Distillation
    Framework", 2022. Adaptive temperatures and noise are theirs, this form of both is the library's; a
    `noise_budget` of 20 is no guarantee of differential privacy.
    """
    check_positive(hottest=hottest, noise_budget=noise_budget)
    check_not_negative(label_weight=label_weight)

    def objective(scope):
        batch, hyper = scope.batch["sequence"], scope.hyper
        outputs, model = scope.apply("student", batch["tokens"])
        student = outputs.logits
        taught = scope.apply("teacher", batch["tokens"])[0].logits
        keys = scope.rng("noise", batch["index"])
        drawn = jax.vmap(lambda key: jax.random.laplace(key, taught.shape[1:]))(keys)
        temperature, target = swung_targets(
            taught, batch["private"], drawn,
            hottest=hyper["hottest"], noise_budget=hyper["noise_budget"],
        )  # fmt: skip
        soft = softened_kl_divergence(student / temperature, target, temperature=1.0)
        hard = optax.softmax_cross_entropy_with_integer_labels(student, batch["targets"])
        where, weight = batch.get("mask"), hyper["label_weight"]
        terms = {
            "kd": term(soft, where=where),
            "labels": term((1 - batch["private"]) * hard, where=where, weight=weight),
        }
        return terms, {"model": {"student": model}}

    return one_phase(
        objective, hottest=hottest, noise_budget=noise_budget, label_weight=label_weight
    )


def swung_targets(teacher_logits, private, noise, *, hottest, noise_budget):
    """(T `[..., 1]`, log q `[..., V]`), see `swing_distillation`; `noise` is Laplace of scale 1."""
    temperature = 1 + (hottest - 1) * private[..., None]
    p = jax.nn.softmax(teacher_logits / temperature)
    moved = jnp.maximum(p + private[..., None] * noise * 2 / noise_budget, 1e-12)
    return temperature, jnp.log(moved / jnp.sum(moved, axis=-1, keepdims=True))
