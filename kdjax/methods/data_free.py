"""Methods whose student never sees an image: a generator makes them, against the student.

The batch gives its size and the numbers of its examples, which the noise is drawn from; its images
and labels are not read. Under `teacher` lies a frozen network.
"""

import math

import jax
import jax.numpy as jnp

from kdjax.losses import (
    generalized_jensen_shannon_divergence,
    logit_absolute_error,
    negative_activation,
    negative_information_entropy,
    one_hot_cross_entropy,
    softened_kl_divergence,
)
from kdjax.losses._arrays import check_at_least_one, check_not_negative
from kdjax.methods import classification
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.train.method import Method, Phase, term

NOISE = 32  # numbers that an image is made from


def adversarial_data_free(
    *,
    image_shape: tuple[int, int, int],
    image_range: tuple[float, float],
    teacher_feature: str,
    balance: float = 5.0,
    activation: float = 0.1,
    hidden: int = 64,
    student_steps: int = 10,
) -> Method:
    """A generator makes images on which student and teacher differ; the student learns their logits.

    Generator, once a step: one-hotness + balance · Σ p̄ log₁₀ p̄ + activation · (-mean |feature|) - JS
    at T = 3, where p̄ is the teacher's mean prediction and JS the Jensen-Shannon divergence of student
    and teacher. Student, `student_steps` times on fresh images: mean |teacher - student| of the
    logits. Images are `image_shape` with values in `image_range`.

    The adversarial data-free distillation that Patel, Mopuri, Qiu, "Learning to Retain while
    Acquiring", 2023, build on, with their weights; after Chen et al., "Data-Free Learning of Student
    Networks", 2019, and Micaelli, Storkey, "Zero-Shot Knowledge Transfer via Adversarial Belief
    Matching", 2019.
    """
    options = {"image_shape": image_shape, "image_range": image_range}
    _check(image_range, balance, activation, student_steps)

    def imitate(scope):
        image = jax.lax.stop_gradient(_images(scope, **options))
        student, model = scope.apply("student", image)
        values = logit_absolute_error(student.logits, scope.apply("teacher", image)[0].logits)
        return {"imitation": term(values)}, {"model": {"student": model}}

    return Method(
        players={"generator": _generator(image_shape, hidden)},
        phases=(
            Phase(_confuse(options, teacher_feature), ("generator",)),
            Phase(imitate, ("student",), repeats=student_steps),
        ),
        hyper={"balance": balance, "activation": activation},
    )


def learning_to_retain(
    *,
    image_shape: tuple[int, int, int],
    inner_rate: float = 0.9,
    retention: float = 1.0,
    stored: int = 10,
    stored_size: int = 8,
    store_every: int = 10,
    **options,
) -> Method:
    """`adversarial_data_free` with a memory of old images, kept right by a step through a step.

    The student minimises mean |teacher - student| over new and remembered images + retention · the
    same over the remembered ones after an inner gradient step of `inner_rate` on the new ones, with
    the gradient through that step: what is acquired should not undo what is known. Every
    `store_every` steps `stored_size` images go into a ring of `stored` such batches, of which every
    update draws one. A `retention` of 0 is plain replay.

    Patel, Mopuri, Qiu, "Learning to Retain while Acquiring: Combating Distribution-Shift in
    Adversarial Data-Free Knowledge Distillation", 2023, with an inner rate of 0.9, 10 batches of an
    eighth of the batch and one stored every five epochs.
    """
    check_not_negative(inner_rate=inner_rate, retention=retention)
    check_at_least_one(stored=stored, stored_size=stored_size, store_every=store_every)
    method = adversarial_data_free(image_shape=image_shape, **options)
    confuse, plain = method.phases
    made = {"image_shape": image_shape, "image_range": options["image_range"]}

    def error(scope, image, params):
        own = scope.apply("student", image, params=params)[0].logits
        return logit_absolute_error(own, scope.apply("teacher", image)[0].logits)

    def retain(scope):
        new = jax.lax.stop_gradient(_images(scope, **made))
        count = jnp.minimum(scope.memory["count"], stored)
        drawn = jax.random.randint(scope.rng("memory"), (), 0, jnp.maximum(count, 1))
        old = scope.memory["images"][drawn]
        there = jnp.concatenate([jnp.ones(len(new), bool), jnp.full(stored_size, count > 0)])
        image = jnp.concatenate([new, old])
        student, model = scope.apply("student", image)
        values = logit_absolute_error(student.logits, scope.apply("teacher", image)[0].logits)

        def acquisition(params):
            return jnp.mean(error(scope, new, params))

        own = scope.params["student"]
        moved = jax.tree.map(
            lambda p, g: p - scope.hyper["inner_rate"] * g, own, jax.grad(acquisition)(own)
        )
        retained = error(scope, old, moved)
        terms = {
            "acquisition": term(values, where=there),
            "retention": term(retained, where=there[len(new) :], weight=scope.hyper["retention"]),
        }
        return terms, {"model": {"student": model}}

    def store(scope):
        image = _images(scope, **made)[:stored_size]
        count, images = scope.memory["count"], scope.memory["images"]
        now = scope.step % store_every == store_every - 1
        pushed = images.at[count % stored].set(image)
        memory = {"images": jnp.where(now, pushed, images), "count": count + now}
        return {}, {"memory": memory}

    return method._replace(
        phases=(confuse, plain._replace(objective=retain), Phase(store, ())),
        hyper={**method.hyper, "inner_rate": inner_rate, "retention": retention},
        memory={
            "images": jnp.zeros((stored, stored_size, *image_shape)),
            "count": jnp.zeros((), jnp.int32),
        },
    )


def anti_backdoor(
    *,
    image_shape: tuple[int, int, int],
    vaccine: float = 0.1,
    copies: int = 3,
    retrospection: float = 0.5,
    radius: float = 3.0,
    inner_steps: int = 5,
    start: int = 200,
    **options,
) -> Method:
    """`adversarial_data_free` from a teacher that may hide a backdoor.

    The vaccine: `copies` of the teacher with the inputs of their dense layers behind the first
    permuted keep little but a backdoor's short cut. The generator is rewarded by vaccine · KL(teacher
    ‖ their mean logits) / C on images that both classify alike. Retrospection, from step `start` on:
    `inner_steps` of normalised ascent find one perturbation within `radius` for the whole batch that
    changes the student most, and the student minimises retrospection · KL(student ‖ student perturbed)
    as well.

    Hong, Zeng, Yu, Lyu, Jia, Zhou, "Revisiting Data-Free Knowledge Distillation with Poisoned
    Teachers", 2023: three copies with the last five convolutions permuted, 0.1 and 0.5. Their test
    that refuses a permutation, off in their recipe, and their hypergradient variant are left out.
    """
    check_not_negative(vaccine=vaccine, retrospection=retrospection, radius=radius)
    check_at_least_one(copies=copies, inner_steps=inner_steps)
    method = adversarial_data_free(image_shape=image_shape, **options)
    made = {"image_shape": image_shape, "image_range": options["image_range"]}
    confuse, imitate = method.phases

    def avoid(scope):
        terms, updates = confuse.objective(scope)
        image = _images(scope, **made)
        taught = scope.apply("teacher", image)[0].logits
        now = jax.random.key_data(scope.rng("permutation"))
        kept = jnp.where(scope.step == 0, now, scope.memory["permutation"])
        keys = jax.random.split(jax.random.wrap_key_data(kept), copies)
        teacher = scope.frozen["teacher"]
        each = [
            scope.apply("teacher", image, params=permuted_inputs(key, teacher))[0].logits
            for key in keys
        ]
        shuffled = sum(each) / copies
        alike = jnp.argmax(shuffled, axis=-1) == jnp.argmax(taught, axis=-1)
        values = softened_kl_divergence(shuffled, taught, temperature=1.0) / taught.shape[-1]
        terms["vaccine"] = term(-values, where=alike, weight=scope.hyper["vaccine"])
        return terms, {**updates, "memory": {"permutation": kept}}

    def reflect(scope):
        terms, updates = imitate.objective(scope)
        image = jax.lax.stop_gradient(_images(scope, **made))
        student = scope.apply("student", image)[0].logits

        def change(shift):
            moved = scope.apply("student", image + shift[None])[0].logits
            return softened_kl_divergence(moved, student, temperature=1.0)

        def ascend(shift, _):
            slope = jax.grad(lambda shift: jnp.mean(change(shift)))(shift)
            step = 2 * radius / inner_steps * _unit(slope)
            return _within(shift + step, radius), None

        # At no shift at all the slope is zero.
        first = radius / inner_steps * _unit(jax.random.normal(scope.rng("shift"), image_shape))
        shift, _ = jax.lax.scan(ascend, first, None, length=inner_steps)
        weight = scope.hyper["retrospection"] * (scope.step >= start)
        terms["retrospection"] = term(change(jax.lax.stop_gradient(shift)), weight=weight)
        return terms, updates

    return method._replace(
        phases=(confuse._replace(objective=avoid), imitate._replace(objective=reflect)),
        hyper={**method.hyper, "vaccine": vaccine, "retrospection": retrospection},
        memory={"permutation": jnp.zeros(2, jnp.uint32)},
    )


def permuted_inputs(key, params):
    """A network's parameters with the inputs of every dense layer but the first in another order."""
    layers = sorted(name for name in params if name.startswith("dense"))[1:]
    layers += [name for name in params if name == "head"]
    changed = dict(params)
    for number, name in enumerate(layers):
        order = jax.random.permutation(
            jax.random.fold_in(key, number), params[name]["kernel"].shape[0]
        )
        changed[name] = {**params[name], "kernel": params[name]["kernel"][order]}
    return changed


def _generator(image_shape, hidden):
    def make(shapes):
        del shapes
        network = multilayer_perceptron(math.prod(image_shape), widths=(hidden, hidden))
        return network, jax.ShapeDtypeStruct((1, NOISE), jnp.float32)

    return make


def _images(scope, *, image_shape, image_range):
    """`[B, H, W, C]`, made from noise of this phase and repeat."""
    keys = scope.rng("noise", classification.transfer_batch(scope)["index"])
    noise = jax.vmap(lambda key: jax.random.normal(key, (NOISE,)))(keys)
    raw = scope.apply("generator", noise)[0].logits
    low, high = image_range
    return (low + (high - low) * jax.nn.sigmoid(raw)).reshape(-1, *image_shape)


def _confuse(made, teacher_feature):
    """What the generator minimises."""

    def objective(scope):
        image = _images(scope, **made)
        teacher = scope.apply("teacher", image)[0]
        student = scope.apply("student", image)[0].logits
        logits = scope.gather(teacher.logits)
        terms = {
            "confidence": term(one_hot_cross_entropy(teacher.logits)),
            "balance": term(
                negative_information_entropy(logits) / math.log(10),
                weight=scope.hyper["balance"],
                couples=True,
                gathered=True,
            ),
            "activation": term(
                negative_activation(teacher.features[teacher_feature]),
                weight=scope.hyper["activation"],
            ),
            # T² is no part of the authors' distance.
            "difference": term(
                -generalized_jensen_shannon_divergence(student, teacher.logits, temperature=3.0)
                / 9.0
            ),
        }
        return terms, {}

    return objective


def _unit(x):
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _within(x, radius):
    return x * jnp.minimum(1, radius / jnp.maximum(jnp.linalg.norm(x), 1e-12))


def _check(image_range, balance, activation, student_steps):
    check_not_negative(balance=balance, activation=activation)
    check_at_least_one(student_steps=student_steps)
    if not image_range[0] < image_range[1]:
        raise ValueError(f"image_range must rise, got {tuple(image_range)}")
