"""Labelling the pixels of canvases with digits on textured ground."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _canvases as canvases
from kdjax import methods, networks
from kdjax.data import plans, streams
from kdjax.methods.segments import VIEWS
from kdjax.metrics import probes
from kdjax.metrics.segmentation import mean_overlap


def collaborative_pixels(bench):
    """A convolutional network and a transformer: apart, as mutual learners, and by who is reliable."""
    options = bench.options
    count = options.images + options.held
    drawn = canvases.draw(
        bench.source, count, options.size, digit_size=options.digit_size, digits=options.digits
    )
    train = np.arange(options.images)
    validation, test = np.split(np.arange(options.images, count), [options.held // 3])
    classes = 1 + options.digits
    nets = {
        "convolutional": networks.unfolded_cnn(
            classes, widths=tuple(options.widths), strides=tuple(options.strides), by_pixel=True,
            features={"low": "stage1", "high": f"stage{len(options.widths)}"},
        ),
        "transformer": networks.patch_segmenter(
            classes, patch=options.patch, width=options.width, depth=2, heads=2,
            features=("low", "high"),
        ),
    }  # fmt: skip
    shape = jax.ShapeDtypeStruct((1, options.size, options.size, 1), jnp.float32)
    given = {"labelled": {"image": drawn.image[train], "label": drawn.mask[train]}}

    def overlaps(state, numbers):
        return {
            name: mean_overlap(
                np.argmax(study.predict(net, state.params[name], drawn.image[numbers]).logits, -1),
                drawn.mask[numbers],
                classes,
            )
            for name, net in nets.items()
        }

    def score(state, seeds):
        del seeds
        return np.mean(list(overlaps(state, validation).values()), axis=0)

    alone = {"region_weight": 0.0, "low_weight": 0.0}
    rows = {
        "independent": {**alone, "pixel_weight": 0.0},
        "mutual": {**alone, "selective": False},
        "pixels": alone,
        "collaborative": {},
    }
    found = {}
    for name, settings in rows.items():
        method = methods.collaborative_segmentation(regions=options.regions, **settings)
        state = bench.fit(
            name, method, nets, shape, given, steps=options.steps,
            batch=options.batch, rate=options.rate, score=score,
        )  # fmt: skip
        found[name] = overlaps(state, test)
        found[name]["both"] = np.mean(list(found[name].values()), axis=0)
    return found


def foreground_pretraining(bench):
    """Pixel features learned without labels: from points anywhere, and from segments in the foreground.

    Judged by the pixels of unseen canvases, labelled by a linear probe of a few labelled canvases.
    """
    options = bench.options
    count = options.images + options.held
    drawn = canvases.draw(
        bench.source, count, options.size, digit_size=options.digit_size,
        digits=options.digits, contrast=options.contrast,
    )  # fmt: skip
    segments = canvases.segments(drawn.image[: options.images], options.segments)
    ahead = canvases.inner_segments(segments, options.segments, options.ahead)
    high = f"stage{len(options.widths)}"
    net = networks.unfolded_cnn(
        1, widths=tuple(options.widths), strides=tuple(options.strides), features=(high,)
    )
    shape = jax.ShapeDtypeStruct((1, options.size, options.size, 1), jnp.float32)

    def views(key, example):
        made = {}
        for name, own in zip(VIEWS, jax.random.split(key), strict=True):
            scale, shift, noise = jax.random.split(own, 3)
            image = example["image"] * jax.random.uniform(scale, minval=0.7, maxval=1.3)
            image += 0.3 * jax.random.normal(shift)
            made[name] = image + options.noise * jax.random.normal(noise, image.shape)
        kept = ("index", "segments", "foreground")
        return {**{name: example[name] for name in kept}, **made}

    columns = {
        "image": drawn.image[: options.images],
        "segments": segments,
        "foreground": ahead,
    }
    plan = plans.IndexPlan(np.arange(options.images), options.batch)
    given = {"views": streams.Stream(plan, columns, augment=views)}
    everyone = dataclasses.replace(
        given["views"], resident={**columns, "foreground": np.ones_like(ahead)}
    )
    validation, test = np.split(np.arange(options.images, count), [options.held // 3])
    few = _few_of_each(drawn.digit[: options.images], options.labelled)

    def probed(state, numbers):
        seen, unseen = (
            study.predict(net, state.params["student"], drawn.image[n]).features[high]
            for n in (few, numbers)
        )
        predicted = probes.probe(
            *(x.reshape(len(x), -1, x.shape[-1]) for x in (seen, unseen)),
            drawn.mask[few].reshape(-1),
        )
        predicted = predicted.reshape(len(predicted), *drawn.mask[numbers].shape)
        return mean_overlap(predicted, drawn.mask[numbers], 1 + options.digits)

    def score(state, seeds):
        del seeds
        return probed(state, validation)

    points = {"feature": high, "points": options.points}
    rows = {
        "points": (methods.point_contrast(**points), given["views"]),
        "segments": (methods.fac(**points), everyone),
        "fac": (methods.fac(**points), given["views"]),
    }
    found = {}
    for name, (method, stream) in rows.items():
        state = bench.fit(
            name, method, {"student": net}, shape, {"views": stream}, steps=options.steps,
            batch=options.batch, rate=options.rate, score=score,
        )  # fmt: skip
        found[name] = {"overlap": probed(state, test)}
    return found


def _few_of_each(labels, count):
    """The numbers of the first `count` examples of every label."""
    return np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)])
