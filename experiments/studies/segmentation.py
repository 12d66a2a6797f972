"""Labelling the pixels of canvases with digits on textured ground."""

import jax
import numpy as np

from experiments import study
from experiments.studies import _canvases as canvases
from kdjax import methods, networks
from kdjax.methods.segments import VIEWS
from kdjax.metrics import probes
from kdjax.metrics.segmentation import mean_overlap


def collaborative_pixels(bench):
    """A convolutional network and a transformer: apart, as mutual learners, and by who is reliable."""
    options = bench.options
    parts = canvases.prepare(bench)
    train, classes = parts["train"], 1 + options.digits
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

    def overlaps(trained, part):
        own = parts[part]
        found = {
            name: mean_overlap(np.argmax(trained.logits(own.image, name), -1), own.mask, classes)
            for name in nets
        }
        return {**found, "both": np.mean(list(found.values()), axis=0)}

    alone = {"region_weight": 0.0, "low_weight": 0.0}
    rows = {
        "independent": {**alone, "pixel_weight": 0.0},
        "mutual": {**alone, "selective": False},
        "pixels": alone,
        "collaborative": {},
    }
    return bench.compare(
        {
            name: methods.collaborative_segmentation(regions=options.regions, **settings)
            for name, settings in rows.items()
        },
        nets, train.shape, {"labelled": {"image": train.image, "label": train.mask}},
        measure=overlaps, score=lambda trained: overlaps(trained, "validation")["both"],
    )  # fmt: skip


def foreground_pretraining(bench):
    """Pixel features learned without labels: from points anywhere, and from segments in the foreground.

    Judged by the pixels of unseen canvases, labelled by a linear probe of a few labelled canvases.
    """
    options = bench.options
    parts = canvases.prepare(bench)
    train, high = parts["train"], f"stage{len(options.widths)}"
    segments = canvases.segments(train.image, options.segments)
    ahead = canvases.inner_segments(segments, options.segments, options.ahead)

    def views(key, example):
        made = {name: example[name] for name in ("index", "segments", "foreground")}
        for name, own in zip(VIEWS, jax.random.split(key), strict=True):
            scale, shift, noise = jax.random.split(own, 3)
            image = example["image"] * jax.random.uniform(scale, minval=0.7, maxval=1.3)
            image += 0.3 * jax.random.normal(shift)
            made[name] = image + options.noise * jax.random.normal(noise, image.shape)
        return made

    def streams(foreground):
        columns = {"image": train.image, "segments": segments, "foreground": foreground}
        return {"views": study.stream(columns, options.batch, augment=views)}

    few = [np.flatnonzero(train.digit == c)[: options.labelled] for c in np.unique(train.digit)]
    few = np.concatenate(few)

    def probed(trained, part):
        own = parts[part]
        seen, unseen = (trained.outputs(x).features[high] for x in (train.image[few], own.image))
        predicted = probes.probe(
            *(x.reshape(len(x), -1, x.shape[-1]) for x in (seen, unseen)),
            train.mask[few].reshape(-1),
        )
        predicted = predicted.reshape(-1, *own.mask.shape)
        return {"overlap": mean_overlap(predicted, own.mask, 1 + options.digits)}

    points = {"feature": high, "points": options.points}
    everywhere = {"method": methods.fac(**points), "data": streams(np.ones_like(ahead))}
    net = networks.unfolded_cnn(
        1, widths=tuple(options.widths), strides=tuple(options.strides), features=(high,)
    )
    return bench.compare(
        {
            "points": methods.point_contrast(**points),
            "segments": everywhere,
            "fac": methods.fac(**points),
        },
        {"student": net}, train.shape, streams(ahead), measure=probed,
        score=lambda trained: probed(trained, "validation")["overlap"],
    )  # fmt: skip
