"""Studies of shapes given as points: the contours of written digits."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import point_sets
from kdjax.metrics import probes


def contours_of_digits(bench):
    """Codes of digits' contours, from a distance field or from the points themselves."""
    options = bench.options
    parts = images.prepare(bench).parts
    image = bench.source.columns["image"][..., 0].astype(np.float32) / 255.0
    contour, count = point_sets.contours(image, options.crossings)
    columns = {"contour": contour, "count": count}
    sampled = point_sets.contour_samples(options.points, options.queries, options.spread)
    data = {"labelled": study.stream(columns, options.batch, parts.train, sampled)}
    encoder = networks.point_encoder(widths=(options.width, 2 * options.width), code=options.code)
    inputs = jax.ShapeDtypeStruct((1, options.points, 2), jnp.float32)
    label = bench.source.columns["label"]

    def draw(numbers, draws):
        keys = jax.random.split(jax.random.key(1), (draws, len(numbers)))
        given = {name: x[numbers] for name, x in columns.items()}
        one = jax.vmap(lambda key, example: sampled(key, example)["points"])
        return np.asarray(jax.jit(jax.vmap(one, (0, None)))(keys, given))

    few = parts.train[: options.labelled]
    points = {"train": draw(few, 1)[0]}
    for part in ("validation", "test"):
        points[part] = draw(getattr(parts, part), options.draws)

    def probed(trained, part):
        """Accuracy of a linear map of the codes, and how much of their variance is resampling."""

        def codes(x):
            return np.asarray(trained.outputs(x).features["code"], np.float64)

        own = codes(points["train"])
        many = points[part].reshape(-1, *points[part].shape[2:])
        there = codes(many).reshape(len(own), options.draws, -1, own.shape[-1])
        within = there.var(axis=1).sum(-1).mean(-1)
        whole = there.reshape(len(own), -1, own.shape[-1]).var(axis=1).sum(-1)
        wanted = label[getattr(parts, part)]
        told = probes.probe(own, there[:, 0], label[few], regularisation=options.ridge)
        return {"accuracy": np.mean(told == wanted, axis=1), "resampling": within / whole}

    implicit = methods.implicit_autoencoder(hidden=options.hidden)
    rows = {
        "implicit": implicit,
        "chamfer": methods.chamfer_autoencoder(points=options.points, hidden=options.hidden),
        "untrained": {"method": implicit, "steps": 1, "rate": 0.0},
    }
    return bench.compare(
        rows, {"student": encoder}, inputs, data, measure=probed,
        score=lambda trained: probed(trained, "validation")["accuracy"],
    )  # fmt: skip
