"""A target that answers with a class and nothing else, and the generator that learns to ask it."""

import math

import jax
import jax.numpy as jnp
import optax

from kdjax.losses._arrays import check_at_least_one, check_not_negative
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.train.method import Method, Phase, term


def target_assisted_gan(
    *,
    classes: int,
    image_shape: tuple[int, int, int],
    image_range: tuple[float, float],
    weight: float = 1.5,
    warmup: int = 100,
    inner: int = 5,
    latent: int = 32,
    hidden: int = 96,
) -> Method:
    """A class-conditional generator beside a discriminator whose classes are the target's answers.

    With x = G(z, y), z ~ N(0, I) and y uniform, `inner` times a step: BCE(D(public), 1) + BCE(D(x), 0) +
    weight · CE(C(x), argmax target(x)); then once for G: BCE(D(x), 1) + weight · CE(C(x), y). D and C are
    heads of one trunk, the last and the first `classes` logits of the player `critic`. For the first
    `warmup` steps the weight is 0. `batch["public"]` has real images of other classes; each of the
    inner updates asks the target once for every one of them.

    Nguyen, Chandrasegaran, Abdollahzadeh, Cheung, "Label-Only Model Inversion Attacks via Knowledge
    Transfer", 2023: five inner steps, a weight of 1.5 behind 1,000 steps and more of warm-up, Adam of
    2e-4, residual networks with spectral normalisation.
    """
    check_not_negative(weight=weight, warmup=warmup)
    check_at_least_one(inner=inner, latent=latent, hidden=hidden)

    def generator(shapes):
        del shapes
        return conditional_generator(
            classes, image_shape=image_shape, image_range=image_range, latent=latent, hidden=hidden
        )

    def critic(shapes):
        del shapes
        network = multilayer_perceptron(classes + 1, widths=(hidden, hidden))
        return network, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)

    def made(scope):
        index = scope.batch["public"]["index"]
        keys = scope.rng("made", index)
        noise = jax.vmap(lambda key: jax.random.normal(key, (latent,)))(keys)
        wanted = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(
            scope.rng("wanted", index)
        )
        inputs = {"noise": noise, "label": wanted}
        return scope.apply("generator", inputs)[0].features["image"], wanted

    def on(scope):
        return scope.hyper["weight"] * (scope.step >= warmup)

    def discern(scope):
        image = jax.lax.stop_gradient(made(scope)[0])
        answer = jnp.argmax(scope.apply("target", image)[0].logits, axis=-1)
        fake = scope.apply("critic", image)[0].logits
        real = scope.apply("critic", scope.batch["public"]["image"])[0].logits
        named = optax.softmax_cross_entropy_with_integer_labels(fake[:, :classes], answer)
        return {
            "real": term(_binary(real, 1.0)),
            "fake": term(_binary(fake, 0.0)),
            "answers": term(named, weight=on(scope)),
        }, {}

    def generate(scope):
        image, wanted = made(scope)
        logits = scope.apply("critic", image)[0].logits
        named = optax.softmax_cross_entropy_with_integer_labels(logits[:, :classes], wanted)
        return {
            "deceived": term(_binary(logits, 1.0)),
            "wanted": term(named, weight=on(scope)),
        }, {}

    return Method(
        players={"generator": generator, "critic": critic},
        phases=(Phase(discern, ("critic",), repeats=inner), Phase(generate, ("generator",))),
        hyper={"weight": weight},
    )


def conditional_generator(classes, *, image_shape, image_range, latent, hidden):
    """(Network of `{"noise", "label"}` to the feature `image`, the shapes of its inputs)."""
    trunk = multilayer_perceptron(math.prod(image_shape), widths=(hidden, hidden))
    low, high = image_range

    def apply(variables, inputs, *, train, rngs):
        label = jax.nn.one_hot(inputs["label"], classes)
        x = jnp.concatenate([inputs["noise"], 3 * label], axis=-1)
        given, model = trunk.apply(variables, x, train=train, rngs=rngs)
        image = low + (high - low) * jax.nn.sigmoid(given.logits)
        return given._replace(
            logits=None, features={"image": image.reshape(-1, *image_shape)}
        ), model

    def init(key, inputs):
        del inputs
        return trunk.init(key, jax.ShapeDtypeStruct((1, latent + classes), jnp.float32))

    shapes = {
        "noise": jax.ShapeDtypeStruct((1, latent), jnp.float32),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    return trunk._replace(init=init, apply=apply), shapes


def _binary(logits, truth):
    return optax.sigmoid_binary_cross_entropy(logits[:, -1], truth)
