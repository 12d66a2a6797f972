"""Learning without labels, judged by linear probes."""

import jax
import numpy as np

from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods.augmentation import shifted
from kdjax.methods.self_supervised import VIEWS
from kdjax.metrics import probes


def online_views(bench):
    """A convolutional network and a transformer, each by itself without labels and both together."""
    options = bench.options
    data = images.prepare(bench, options.size)
    shared = {"embedding": "embedding"}
    nets = {
        "first": networks.unfolded_cnn(
            data.classes, widths=(options.width // 2, options.width),
            features={"tokens": "stage2", **shared},
        ),
        "second": networks.vision_transformer(
            None, width=options.width, depth=2, heads=2, patch=options.patch, mean_pool=True,
            features={"tokens": "tokens", **shared},
        ),
    }  # fmt: skip

    def views(key, example):
        image = example["image"][None]
        made = {}
        for name, own in zip(VIEWS, jax.random.split(key), strict=True):
            move, hide, noise = jax.random.split(own, 3)
            moved = shifted(image, options.reach * jax.random.uniform(move, (1, 2), minval=-1))[0]
            kept = jax.random.bernoulli(hide, 1 - options.hidden_share, moved.shape)
            made[name] = kept * moved + options.noise * jax.random.normal(noise, moved.shape)
        return {"index": example["index"], **made}

    few = data.parts.train[: options.probed]

    def probed(trained, part):
        numbers, found = getattr(data.parts, part), {}
        for name in nets:
            seen, unseen = (
                trained.outputs(data.image[n], name).features["embedding"] for n in (few, numbers)
            )
            predicted = probes.probe(seen, unseen, data.label[few])
            found[name] = np.mean(predicted == data.label[numbers], axis=1)
        return {**found, "both": np.mean(list(found.values()), axis=0)}

    alone = methods.mokd(weight=0.0)
    return bench.compare(
        {
            "untrained": {"method": alone, "steps": 1, "rate": 1e-9},
            "alone": alone,
            "mokd": methods.mokd(weight=1.0),
        },
        nets, data.shape, {"views": data.stream(options.batch, augment=views)}, measure=probed,
        score=lambda trained: probed(trained, "validation")["both"],
    )  # fmt: skip
