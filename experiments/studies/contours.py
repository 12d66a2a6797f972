"""Studies of shapes given as points: the contours of written digits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.metrics import probes


def contours_of_digits(bench):
    """Codes of digits' contours, from a distance field or from the points themselves."""
    options = bench.options
    parts = images.prepare(bench).parts
    image = bench.source.columns["image"][..., 0].astype(np.float32) / 255.0
    contour, count = _contours(image, options.crossings)
    columns = {"contour": contour, "count": count}
    sampled = _sampling(options.points, options.queries, options.spread)
    stream = study.stream(columns, options.batch, examples=parts.train)
    data = {"labelled": dataclasses.replace(stream, augment=sampled)}
    encoder = networks.point_encoder(widths=(options.width, 2 * options.width), code=options.code)
    inputs = jax.ShapeDtypeStruct((1, options.points, 2), jnp.float32)
    label = bench.source.columns["label"]

    def draw(numbers, draws):
        keys = jax.random.split(jax.random.key(1), len(numbers) * draws)
        keys = keys.reshape(draws, len(numbers))
        given = {name: x[numbers] for name, x in columns.items()}
        one = jax.vmap(lambda key, example: sampled(key, example)["points"])
        return np.asarray(jax.jit(jax.vmap(one, (0, None)))(keys, given))

    few = parts.train[: options.labelled]
    points = {"train": draw(few, 1)[0]}
    for part in ("validation", "test"):
        points[part] = draw(getattr(parts, part), options.draws)

    def probed(state, part):
        """Accuracy of a linear map of the codes, and how much of their variance is resampling."""
        params = state.params["student"]

        def codes(x):
            return np.asarray(study.predict(encoder, params, x).features["code"], np.float64)

        own = codes(points["train"])
        many = points[part].reshape(-1, *points[part].shape[2:])
        there = codes(many).reshape(len(own), options.draws, -1, own.shape[-1])
        within = there.var(axis=1).sum(-1).mean(-1)
        whole = there.reshape(len(own), -1, own.shape[-1]).var(axis=1).sum(-1)
        wanted = label[getattr(parts, part)]
        told = probes.probe(own, there[:, 0], label[few], regularisation=options.ridge)
        return {"accuracy": np.mean(told == wanted, axis=1), "resampling": within / whole}

    found = {}
    rows = {
        "implicit": methods.implicit_autoencoder(hidden=options.hidden),
        "chamfer": methods.chamfer_autoencoder(points=options.points, hidden=options.hidden),
        "untrained": methods.implicit_autoencoder(hidden=options.hidden),
    }
    for name, method in rows.items():
        state = bench.fit(
            name, method, {"student": encoder}, inputs, data,
            score=lambda state, seeds: probed(state, "validation")["accuracy"],
            steps=1 if name == "untrained" else options.steps,
            rate=0.0 if name == "untrained" else options.rate, batch=options.batch,
        )  # fmt: skip
        found[name] = probed(state, "test")
    return found


def _contours(image, size: int):
    """Where the lines between neighbouring pixels cross half of the ink: points in [-1, 1]².

    Args:
        image: `[N, H, W]` in [0, 1].
        size: M, how many crossings are kept at most.

    Returns:
        `float32[N, M, 2]` (x, y), the first repeated behind the last, and how many there are, `int32[N]`.
    """
    found = np.zeros((len(image), size, 2), np.float32)
    counts = np.zeros(len(image), np.int32)
    side = image.shape[1] - 1
    for number, ink in enumerate(image - 0.5):
        points = []
        for axis in (0, 1):
            first, second = (np.moveaxis(ink, axis, 0)[cut] for cut in (slice(-1), slice(1, None)))
            along, across = np.nonzero(first * second < 0)
            part = first[along, across] / (first[along, across] - second[along, across])
            pair = (across, along + part) if axis == 0 else (along + part, across)
            points.append(np.stack(pair, axis=1))
        every = 2 * np.concatenate(points) / side - 1
        kept = every[np.linspace(0, len(every) - 1, min(size, len(every))).astype(int)]
        found[number, : len(kept)], counts[number] = kept, len(kept)
        found[number, len(kept) :] = kept[0]
    return found, counts


def _sampling(points: int, queries: int, spread: float):
    """`(key, example) -> example`: `points` drawn from a `contour`, `queries` and their `distances`.

    Half of the queries lie about points of the contour, with a standard deviation of `spread`, half
    anywhere in the square.
    """

    def sample(key, example):
        keys = jax.random.split(key, 4)
        contour, count = example["contour"], example["count"]

        def some(key, number):
            return contour[jax.random.randint(key, (number,), 0, count)]

        near = some(keys[1], queries // 2)
        near = near + spread * jax.random.normal(keys[2], near.shape)
        anywhere = jax.random.uniform(keys[3], (queries - len(near), 2), minval=-1, maxval=1)
        asked = jnp.concatenate([near, anywhere])
        squared = jnp.sum(jnp.square(asked[:, None] - contour[None]), axis=-1)
        return {
            "points": some(keys[0], points),
            "queries": asked,
            "distances": jnp.sqrt(jnp.min(squared, axis=1)),
        }

    return sample
