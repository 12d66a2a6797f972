"""Students of a target that gives its class and nothing more, without the data it learned."""

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
    private = digits.only(digits.label < 5)
    other = digits.image[digits.only(digits.label >= 5).parts.train]
    network = networks.multilayer_perceptron(5, widths=(128,))
    target = images.teach(bench, network, private, row="target", batch=64, rate=2e-3)

    def asked(image):
        """`[N]`, what the target answers."""
        return np.asarray(target.logits(image)).argmax(-1)

    told = private._replace(label=asked(digits.image))
    limits = (float(digits.image.min()), float(digits.image.max()))
    shape = digits.shape.shape[1:]
    made = {"image_shape": shape, "image_range": limits, "latent": LATENT, "hidden": HIDDEN}
    critic = networks.multilayer_perceptron(6, widths=(HIDDEN, HIDDEN))

    def of_critic(trained, part):
        params = trained.params["critic"]
        return told.right(lambda x: study.predict(critic, params, x).logits[..., :5], part)

    gan = bench.fit(
        "lokt/gan",
        label_only.target_assisted_gan(classes=5, warmup=options.warmup_steps, **made),
        {"target": network}, digits.shape, {"public": {"image": other}}, rate=1e-3,
        frozen={"target": target.frozen["teacher"]},
        score=lambda trained: of_critic(trained, "validation"),
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
        "public": _mixed(rng, other, queries),
        "real": digits.image[private.parts.train],
    }

    def of_seed(seed):
        return np.arange(len(wanted)) + seed * len(wanted)

    student, found = networks.multilayer_perceptron(5, widths=(HIDDEN,)), {}
    for row, pool in pools.items():
        stream = study.stream(
            {"image": pool, "label": asked(pool)}, 64, of_seed if row == "lokt" else None,
            augment.random_crop(1),
        )  # fmt: skip
        trained = bench.fit(
            f"{row}/student", methods.supervised(), {"student": student}, digits.shape,
            {"labelled": stream}, batch=64, rate=2e-3,
            score=lambda trained: told.accuracy(trained, "validation"),
        )  # fmt: skip
        found[row] = {"agreement": told.accuracy(trained)}
    found["lokt"]["critic_agreement"] = of_critic(gan, "test")
    return {"target": target.accuracy, **found}


def _mixed(rng, image, count):
    """Images between two of a set, as many as asked for."""
    first, second = rng.integers(len(image), size=(2, count))
    share = rng.beta(0.5, 0.5, size=(count, 1, 1, 1)).astype(np.float32)
    return share * image[first] + (1 - share) * image[second]
