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

KINDS = ("noise", "shift", "blur")


def robust_heads(bench):
    """A small robust network teaches the last layers of a large one that has seen clean images only.

    `linear` trains the head alone, `single` the last layer too, `full` everything, on perturbed images;
    `three` the last layer, on every image as it is and perturbed.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    width = options.width
    settings = {"batch": options.batch, "rate": options.rate}
    perturb = functools.partial(_perturbed, noise=options.noise, shift=options.shift)
    given = {
        part: {"clean": data.image[numbers]}
        | {
            kind: np.asarray(_every(perturb, kind, data.image[numbers])) for kind in KINDS
        }
        for part, numbers in (("validation", data.parts.validation), ("test", data.parts.test))
    }  # fmt: skip

    def measured(logits_of, part="test"):
        """{"clean", "corrupted"} by seed, of `logits_of(images) [S, N, C]`."""
        labels = data.label[getattr(data.parts, part)]
        right = {kind: study.right(logits_of(x), labels) for kind, x in given[part].items()}
        return {"clean": right["clean"], "corrupted": np.mean([right[k] for k in KINDS], axis=0)}

    def score(logits_of):
        return lambda state, seeds: np.mean(
            list(measured(functools.partial(logits_of, state), "validation").values()), axis=0
        )

    def of_network(network):
        return lambda state, x: study.predict(network, state.params["student"], x).logits

    small = networks.multilayer_perceptron(data.classes, widths=(options.teacher,))
    large = networks.multilayer_perceptron(data.classes, widths=(width,) * 3)
    teacher = images.teach(
        bench,
        small,
        data,
        augment=_only_perturbed(perturb),
        steps=options.teacher_steps,
        **settings,
    )
    before = images.teach(
        bench, large, data, row="pretrained", steps=options.teacher_steps, **settings
    )
    own = before.frozen["teacher"]
    everyone = {"pretrained": before.frozen["teacher"], "teacher": teacher.frozen["teacher"]}
    found = {}
    for name, network in (("pretrained", large), ("teacher", small)):
        params = study.repeated(everyone[name], bench.seeds)
        found[name] = measured(lambda x, n=network, p=params: study.predict(n, p, x).logits)

    whole = bench.fit(
        "full", methods.supervised(), {"student": large}, data.shape,
        {"labelled": data.stream(options.batch, augment=_only_perturbed(perturb))},
        start=study.carried({"student": study.repeated(own, bench.seeds)}),
        score=score(of_network(large)), steps=options.steps, **settings,
    )  # fmt: skip
    found["full"] = measured(functools.partial(of_network(large), whole))

    both = {"labelled": data.stream(options.batch, augment=_with_perturbed(perturb))}
    rows = {
        "linear": (methods.three_heads(single=True, weight=0.0), 3),
        "single": (methods.three_heads(single=True), 2),
        "untaught": (methods.three_heads(weight=0.0), 2),
        "three": (methods.three_heads(), 2),
    }
    for name, (method, depth) in rows.items():
        trunk, top = (
            networks.multilayer_perceptron(data.classes, widths=widths, features=("embedding",))
            for widths in ((width,) * depth, (width,) * (3 - depth))
        )
        start = {player: {"head": own["head"]} for player in ("student", *method.players)}
        if depth == 2:
            start["student"]["dense1"] = own["dense3"]
        logits_of = functools.partial(_logits, trunk, top, own)
        chosen = functools.partial(
            _chosen, logits_of, given["validation"]["clean"], options.percentile
        )
        state = bench.fit(
            name, method, {"trunk": trunk, "student": top, "teacher": small},
            {
                "trunk": data.shape, "teacher": data.shape,
                "student": jax.ShapeDtypeStruct((1, width), jnp.float32),
            },
            both, frozen={"trunk": own, "teacher": teacher.frozen["teacher"]},
            start=study.carried(study.repeated(start, bench.seeds)), score=score(chosen),
            steps=options.steps, **settings,
        )  # fmt: skip
        found[name] = measured(functools.partial(chosen, state))
    labels = jnp.asarray(data.label[data.parts.test])

    def oracle(x):
        heads = jnp.stack(logits_of(state, x))
        right = jnp.argmax(heads, axis=-1) == labels[None, None]
        best = jnp.argmax(right, axis=0)  # a head that is right, where there is one
        return jnp.take_along_axis(heads, best[None, ..., None], axis=0)[0]

    found["oracle"] = measured(oracle)
    bench.costs["oracle"] = bench.costs["three"]
    return found


def _logits(trunk, top, own, state, x):
    """[existing, clean, robust] logits `[S, N, C]`, or [existing] where there is one head."""
    below = study.predict(trunk, jax.tree.map(lambda p: p[None], own), x).features["embedding"][0]
    given = study.predict(top, state.params["student"], below)
    kernels = [state.params[player]["head"] for player in HEADS if player in state.params]
    others = [
        jnp.einsum("snd,sdc->snc", given.features["embedding"], head["kernel"])
        + head["bias"][:, None]
        for head in kernels
    ]
    return [given.logits, *others]


def _chosen(logits_of, clean, percentile, state, x):
    """What the head says that is chosen for every image, the threshold from clean images."""
    heads = logits_of(state, x)
    if len(heads) == 1:
        return heads[0]
    usual = disagreement(*logits_of(state, clean)[1:])
    threshold = jnp.percentile(usual, percentile, axis=1)[:, None]
    return choose_head(*heads, threshold=threshold)


def _only_perturbed(perturb):
    """`(key, example) -> example`, the image perturbed."""
    return lambda key, example: {**example, "image": perturb(key, example["image"])}


def _with_perturbed(perturb):
    """`(key, example) -> example`, the image as it is and `perturbed` beside it."""
    return lambda key, example: {**example, "perturbed": perturb(key, example["image"])}


def _perturbed(key, image, *, noise, shift, kind=None):
    """An image `[H, W, 1]` with noise, shifted or blurred, one drawn by the key or the one asked for."""
    keys = jax.random.split(key)
    ways = (
        augment.additive_noise(noise),
        augment.random_crop(shift),
        lambda key, example: {"image": _blurred(example["image"])},
    )
    number = jax.random.randint(keys[0], (), 0, 3) if kind is None else KINDS.index(kind)
    images_of = [lambda key, way=way: way(key, {"image": image})["image"] for way in ways]
    return jax.lax.switch(number, images_of, keys[1])


def _blurred(image):
    """The mean over squares of three by three pixels."""
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return sum(around) / 9


def _every(perturb, kind, x):
    """All images `[N, H, W, 1]` perturbed in one way, for an evaluation."""
    keys = jax.random.split(jax.random.key(0), len(x))
    return jax.jit(jax.vmap(functools.partial(perturb, kind=kind)))(keys, x)
