"""Learning without labels, judged by linear probes."""

import jax
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import plans, streams
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

    plan = plans.IndexPlan(data.parts.train, options.batch)
    given = {"views": streams.Stream(plan, {"image": data.image}, augment=views)}
    labelled = data.parts.train[: options.probed]

    def probed(state, part):
        numbers, found = getattr(data.parts, part), {}
        for name, net in nets.items():
            seen, unseen = (
                study.predict(net, state.params[name], data.image[n]).features["embedding"]
                for n in (labelled, numbers)
            )
            predicted = probes.probe(seen, unseen, data.label[labelled])
            found[name] = np.mean(predicted == data.label[numbers], axis=1)
        return found

    def score(state, seeds):
        del seeds
        return np.mean(list(probed(state, "validation").values()), axis=0)

    rows = {"untrained": ({"weight": 0.0}, 1), "alone": ({"weight": 0.0}, options.steps)}
    rows["mokd"] = ({"weight": 1.0}, options.steps)
    found = {}
    for name, (settings, steps) in rows.items():
        state = bench.fit(
            name, methods.mokd(**settings), nets, data.shape, given, steps=steps,
            batch=options.batch, rate=options.rate if steps > 1 else 1e-9, score=score,
        )  # fmt: skip
        found[name] = probed(state, "test")
        found[name]["both"] = np.mean(list(found[name].values()), axis=0)
    return found
