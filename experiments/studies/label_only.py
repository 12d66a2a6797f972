"""Students of a target that gives its class and nothing more, without the data it learned."""

import dataclasses

import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import augment
from kdjax.methods import label_only

LATENT, HIDDEN = 32, 96


def label_only_surrogates(bench):
    """A target of the digits 0 to 4; its students ask about made images, noise, or digits 5 to 9.

    All students may ask equally often, but every trial of the generator's settings asks as often again.
    Agreement with the target is counted on its unseen digits, and settings are chosen by it on others.
    """
    options = bench.options
    digits = images.prepare(bench, size=options.size)
    private = {
        name: numbers[digits.label[numbers] < 5]
        for name, numbers in (
            ("train", digits.parts.train),
            ("validation", digits.parts.validation),
            ("test", digits.parts.test),
        )
    }
    other = digits.parts.train[digits.label[digits.parts.train] >= 5]
    columns = {"image": digits.image, "label": digits.label}
    network = networks.multilayer_perceptron(5, widths=(128,))
    learned = bench.fit(
        "target", methods.supervised(), {"student": network}, digits.shape,
        {"labelled": study.stream(columns, 64, private["train"])},
        steps=options.target_steps, batch=64, rate=2e-3, seeds=[0],
    )  # fmt: skip
    frozen = {"target": study.first(learned.params["student"])}

    def asked(image):
        """`[N]`, what the target answers."""
        return np.asarray(study.predict(network, learned.params["student"], image).logits)[
            0
        ].argmax(-1)

    known = {name: asked(digits.image[numbers]) for name, numbers in private.items()}
    limits = (float(digits.image.min()), float(digits.image.max()))
    shape = digits.shape.shape[1:]
    made = {"image_shape": shape, "image_range": limits, "latent": LATENT, "hidden": HIDDEN}

    def agreement(logits_of, name):
        chosen = np.asarray(logits_of(digits.image[private[name]]))[..., :5].argmax(-1)
        return np.mean(chosen == known[name], axis=1)

    critic = networks.multilayer_perceptron(6, widths=(HIDDEN, HIDDEN))
    gan = bench.fit(
        "lokt/gan",
        label_only.target_assisted_gan(classes=5, warmup=options.warmup_steps, **made),
        {"target": network}, digits.shape,
        {"public": {"image": digits.image[other]}},
        steps=options.gan_steps, batch=options.batch, rate=1e-3, frozen=frozen,
        score=lambda state, seeds: agreement(
            lambda x: study.predict(critic, state.params["critic"], x).logits, "validation"
        ),
    )  # fmt: skip
    wanted = np.repeat(np.arange(5), options.stored)
    generator, _ = label_only.conditional_generator(5, **made)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(len(wanted), LATENT)).astype(np.float32)
    drawn = study.predict(
        generator, gan.params["generator"], {"noise": latents, "label": wanted}
    ).features["image"]
    queries = 5 * options.gan_steps * options.batch + len(wanted)
    pools = {
        "lokt": np.asarray(drawn).reshape(-1, *shape),
        "noise": rng.uniform(*limits, size=(queries, *shape)).astype(np.float32),
        "public": _mixed(rng, digits.image[other], queries),
        "real": digits.image[private["train"]],
    }

    def of_seed(seed):
        return np.arange(len(wanted)) + seed * len(wanted)

    found = {}
    for row, pool in pools.items():
        student = networks.multilayer_perceptron(5, widths=(HIDDEN,))
        own = of_seed if row == "lokt" else None
        stream = study.stream({"image": pool, "label": asked(pool)}, 64, own)

        def score(state, seeds, name="validation", student=student):
            del seeds
            return agreement(
                lambda x: study.predict(student, state.params["student"], x).logits, name
            )

        state = bench.fit(
            f"{row}/student", methods.supervised(), {"student": student}, digits.shape,
            {"labelled": dataclasses.replace(stream, augment=augment.random_crop(1))},
            steps=options.student_steps, batch=64, rate=2e-3, score=score,
        )  # fmt: skip
        found[row] = {"agreement": score(state, None, "test")}
    critics = agreement(lambda x: study.predict(critic, gan.params["critic"], x).logits, "test")
    found["lokt"]["critic_agreement"] = critics
    accuracy = np.mean(known["test"] == digits.label[private["test"]])
    found["target"] = {"accuracy": np.full(len(bench.seeds), accuracy)}
    return found


def _mixed(rng, image, count):
    """Images between two of a set, as many as asked for."""
    first, second = rng.integers(len(image), size=(2, count))
    share = rng.beta(0.5, 0.5, size=(count, 1, 1, 1)).astype(np.float32)
    return share * image[first] + (1 - share) * image[second]
