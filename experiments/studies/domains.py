"""Images of several domains, and a domain that nobody trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import plans, streams
from kdjax.methods import meta_distillation


def turned_digits(bench):
    """Five rotations have an expert each; students meet a sixth, with 24 unlabelled images of it.

    Settings are chosen on a seventh rotation. The training images are dealt to the five domains. The
    unlabelled images are among those that are scored; `experts` is the best of the five on these.
    """
    options = bench.options
    digits = images.prepare(bench, size=options.size)
    angles = list(options.angles)
    dealt = np.array_split(np.random.default_rng(0).permutation(digits.parts.train), len(angles))
    image, domain = digits.image.copy(), np.zeros(len(digits.label), np.int32)
    for number, (angle, own) in enumerate(zip(angles, dealt, strict=True)):
        image[own], domain[own] = _rotated(digits.image[own], angle), number
    columns = {"image": image, "label": digits.label, "domain": domain}
    held = {
        name: (_rotated(digits.image[numbers], angle), digits.label[numbers])
        for name, numbers, angle in (
            ("validation", digits.parts.validation, options.validation_angle),
            ("test", digits.parts.test, options.test_angle),
        )
    }
    network = networks.multilayer_perceptron(digits.classes, widths=(64,), features=("hidden1",))
    learned = bench.fit(
        "experts", methods.supervised(), {"student": network}, digits.shape,
        {"labelled": study.stream(columns, 64, lambda seed: dealt[seed])},
        steps=options.expert_steps, batch=64, rate=2e-3, seeds=range(len(angles)),
    )  # fmt: skip
    experts = learned.params["student"]
    said = study.predict(network, experts, image).logits
    mean = np.asarray(jnp.log(jax.nn.softmax(said).mean(axis=0)))

    def right(state, seeds, name="validation"):
        del seeds
        logits = study.predict(network, state.params["student"], held[name][0]).logits
        return study.right(logits, held[name][1])

    found = {"experts": {"accuracy": right(learned, None, "test").max().repeat(len(bench.seeds))}}
    plain = {
        "erm": (methods.supervised(), {}),
        "kd": (methods.kd(temperature=2.0, weight=0.5), {"teacher/logits": mean}),
    }
    numbers = np.concatenate(dealt)
    for row, (method, more) in plain.items():
        state = bench.fit(
            row, method, {"student": network}, digits.shape,
            {"labelled": study.stream({**columns, **more}, options.batch, numbers)},
            steps=options.steps, batch=options.batch, rate=2e-3, score=right,
        )  # fmt: skip
        found[row] = {"accuracy": right(state, None, "test")}
    method = meta_distillation.meta_dmoe(
        feature="hidden1", support=options.support, experts=len(angles)
    )
    after = functools.partial(_after, network, method, experts, options, held)
    state = bench.fit(
        "meta_dmoe", method, {"student": network, "expert": network}, digits.shape,
        {"domain": streams.Stream(plans.IndexPlan(numbers, options.batch, _one(domain)), columns)},
        steps=options.steps, batch=options.batch, rate=2e-3, frozen={"expert": experts},
        score=after,
    )  # fmt: skip
    found["before"] = {"accuracy": right(state, None, "test")}
    found["meta_dmoe"] = {"accuracy": after(state, None, "test")}
    return found


def _after(network, method, experts, options, held, state, seeds, name="validation"):
    """Accuracy on a domain after a step on a few of its images, the mean over draws of these. `[S]`."""
    del seeds
    image, label = held[name]
    shapes = dict.fromkeys(("student", "expert"), networks.output_shapes(network, image[:1]))
    mixer, _ = method.players["aggregator"](shapes)
    draws = np.random.default_rng(0).permutation(len(image))[: 10 * options.support]
    supports = image[draws].reshape(10, options.support, *image.shape[1:])

    def features(support):
        def of(params):
            given = {"params": params}
            return network.apply(given, support, train=False, rngs={})[0].features["hidden1"]

        return of

    def one(params, rate):
        def accuracy(support):
            tokens = meta_distillation.expert_tokens(features(support), experts)
            inputs = {"tokens": tokens, "where": jnp.ones(len(options.angles), bool)}
            target, _ = mixer.apply({"params": params["aggregator"]}, inputs, train=False, rngs={})
            moved = meta_distillation.adapted(
                features(support), params["student"], target.features["mixed"], rate=rate
            )
            logits = network.apply({"params": moved}, image, train=False, rngs={})[0].logits
            return jnp.mean(jnp.argmax(logits, axis=-1) == label)

        return jnp.mean(jax.lax.map(accuracy, supports))

    return np.asarray(jax.jit(jax.vmap(one))(dict(state.params), state.hyper["inner_rate"]))


def _one(domain):
    """A sampler whose every batch is of one domain, drawn by the step."""

    def sampler(examples, size, seed, steps):
        of = [examples[domain[examples] == number] for number in np.unique(domain[examples])]
        rows = np.empty((len(steps), size), np.int32)
        for row, step in zip(rows, steps, strict=True):
            rng = np.random.default_rng((seed, step))
            row[:] = rng.choice(of[rng.integers(len(of))], size, replace=False)
        return rows

    return sampler


def _rotated(image, degrees):
    """Images `[N, H, W, C]` turned about their centre, linearly interpolated; the edge continues."""
    height, width = image.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    angle = np.deg2rad(degrees)
    places = [
        np.cos(angle) * y + np.sin(angle) * x + (height - 1) / 2,
        np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2,
    ]

    def one(channel):
        return jax.scipy.ndimage.map_coordinates(channel, places, order=1, mode="nearest")

    turned = jax.vmap(jax.vmap(one, -1, -1))(jnp.asarray(image))
    return np.asarray(turned)
