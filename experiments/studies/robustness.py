"""Studies of images that are perturbed: noise, blur, shifts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import augment
from kdjax.methods.robustness import HEADS, choose_head, disagreement


def robust_heads(bench):
    """A small robust network teaches the last layers of a large one that has seen clean images only.

    `linear` trains the head alone, `single` the last layer too, `full` everything, on perturbed images;
    `three` the last layer, on every image as it is and perturbed.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    ways = (
        augment.additive_noise(options.noise),
        augment.random_crop(options.shift),
        augment.box_blur(),
    )
    perturb = augment.one_of(*ways)
    tested = {}
    for part in ("validation", "test"):
        clean = data.image[getattr(data.parts, part)]
        tested[part] = [clean, *(_every(way, clean) for way in ways)]

    def measures(logits_of):
        """What to measure of `logits_of(trained, images) [S, N, C]`, and the score that is its mean."""

        def measure(trained, part):
            labels = data.label[getattr(data.parts, part)]
            clean, *others = (study.right(logits_of(trained, x), labels) for x in tested[part])
            return {"clean": clean, "corrupted": np.mean(others, axis=0)}

        def score(trained):
            return np.mean(list(measure(trained, "validation").values()), axis=0)

        return {"measure": measure, "score": score}

    width = options.width
    small = networks.multilayer_perceptron(data.classes, widths=(options.teacher,))
    large = networks.multilayer_perceptron(data.classes, widths=(width,) * 3)
    teacher = images.teach(bench, small, data, augment=perturb)
    before = images.teach(bench, large, data, row="pretrained", steps=options.teacher_steps)
    own, plain = before.frozen["teacher"], measures(study.Trained.logits)
    found = bench.compare(
        {"full": methods.supervised()}, {"student": large}, data.shape,
        {"labelled": data.stream(options.batch, augment=perturb)},
        start=study.shared({"student": own}), **plain,
    )  # fmt: skip
    for name, taught in (("pretrained", before), ("teacher", teacher)):
        found[name] = plain["measure"](taught.trained, "test")

    def both(key, example):
        return {**example, "perturbed": perturb(key, example)["image"]}

    def row(method, depth=2):
        trunk, top = (
            networks.multilayer_perceptron(data.classes, widths=widths, features=("embedding",))
            for widths in ((width,) * depth, (width,) * (3 - depth))
        )
        start = {player: {"head": own["head"]} for player in ("student", *method.players)}
        if depth == 2:
            start["student"]["dense1"] = own["dense3"]
        nets = {"trunk": trunk, "student": top, "teacher": small}
        return {"method": method, "nets": nets, "start": study.shared(start)}

    given = {
        "inputs": {
            "trunk": data.shape, "teacher": data.shape,
            "student": jax.ShapeDtypeStruct((1, width), jnp.float32),
        },
        "data": {"labelled": data.stream(options.batch, augment=both)},
        "frozen": {"trunk": own, "teacher": teacher.frozen["teacher"]},
    }  # fmt: skip
    logits_of = functools.partial(_logits, own)
    chosen = measures(
        functools.partial(_chosen, logits_of, tested["validation"][0], options.percentile)
    )
    rows = {
        "linear": row(methods.three_heads(single=True, weight=0.0), depth=3),
        "single": row(methods.three_heads(single=True)),
        "untaught": row(methods.three_heads(weight=0.0)),
    }
    three = bench.fit("three", **row(methods.three_heads()), **given, score=chosen["score"])

    def oracle(trained, x):
        """What a head says that is right, where there is one, of the images of the test part."""
        heads = jnp.stack(logits_of(trained, x))
        right = jnp.argmax(heads, axis=-1) == data.label[data.parts.test][None, None]
        return jnp.take_along_axis(heads, jnp.argmax(right, axis=0)[None, ..., None], axis=0)[0]

    bench.costs["oracle"] = bench.costs["three"]
    return {
        **found,
        **bench.compare(rows, {}, **given, **chosen),
        "three": chosen["measure"](three, "test"),
        "oracle": measures(oracle)["measure"](three, "test"),
    }


def _logits(below, trained, x):
    """[existing, clean, robust] logits `[S, N, C]`, or [existing] where there is one head."""
    trunk = study.predict(trained.nets["trunk"], study.repeated(below, [0]), x)
    given = trained.outputs(trunk.features["embedding"][0])
    heads = [trained.params[player]["head"] for player in HEADS if player in trained.params]
    others = [
        jnp.einsum("snd,sdc->snc", given.features["embedding"], head["kernel"])
        + head["bias"][:, None]
        for head in heads
    ]
    return [given.logits, *others]


def _chosen(logits_of, clean, percentile, trained, x):
    """What the head says that is chosen for every image, the threshold from clean images."""
    heads = logits_of(trained, x)
    if len(heads) == 1:
        return heads[0]
    usual = disagreement(*logits_of(trained, clean)[1:])
    threshold = jnp.percentile(usual, percentile, axis=1)[:, None]
    return choose_head(*heads, threshold=threshold)


def _every(way, x):
    """All images `[N, H, W, 1]` perturbed in one way, for an evaluation."""

    def one(key, image):
        return way(jax.random.split(key)[1], {"image": image})["image"]

    keys = jax.random.split(jax.random.key(0), len(x))
    return np.asarray(jax.jit(jax.vmap(one))(keys, x))
