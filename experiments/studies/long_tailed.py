"""Classes of which few examples are seen: a subset whose counts fall from class to class."""

import jax
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks

GROUPS = {"many": slice(0, 4), "medium": slice(4, 7), "few": slice(7, 10)}


def long_tailed_experts(bench):
    """Three experts that teach each other, then balanced classifiers, on a long-tailed subset.

    Settings of the first part are chosen by its own heads; the second has the recipe's rate.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    falling = options.imbalance ** (-np.arange(data.classes) / (data.classes - 1))
    counts = np.maximum(1, np.round(options.most * falling)).astype(int)
    counts = np.minimum(counts, np.bincount(data.label[data.parts.train]))
    net = networks.fused_experts(
        data.classes, width=options.width, features=("experts", "embeddings")
    )
    given = {"labelled": study.stream(
        {"image": data.image, "label": data.label}, options.batch, _subset(data, counts)
    )}  # fmt: skip
    steps, last = options.first_steps, options.last_steps
    rows = {
        "alone": (methods.expert_labels(), steps + last),
        "balanced": (methods.expert_labels(counts=tuple(counts)), steps + last),
        "mutual": (methods.shike(negative_weight=0.0), steps),
        "shike": (methods.shike(), steps),
    }
    found = {}
    for name, (method, length) in rows.items():
        experts = bench.fit(
            name, method, {"student": net}, data.shape, given, steps=length,
            score=lambda trained: _by_class(data, trained, "validation").mean(1),
        )  # fmt: skip
        heads = None
        if length == steps:
            heads = bench.fit(
                f"{name}/heads", methods.balanced_heads(counts=tuple(counts)), {"student": net},
                data.shape, given, steps=last, rate=options.head_rate,
                start=study.carried({}, experts=experts.params["student"]),
            ).params["heads"]  # fmt: skip
        right = _by_class(data, experts, "test", heads)
        groups = {group: right[:, part].mean(1) for group, part in GROUPS.items()}
        found[name] = {"accuracy": right.mean(1), **groups}
    return found


def _subset(data, counts):
    """`chosen(seed)`: as many training examples of each class as `counts` says, drawn by the seed."""

    def chosen(seed):
        rng, train = np.random.default_rng(seed), data.parts.train
        own = [train[data.label[train] == c] for c in range(data.classes)]
        return np.concatenate(
            [
                rng.choice(examples, n, replace=False)
                for examples, n in zip(own, counts, strict=True)
            ]
        )

    return chosen


def _by_class(data, experts, part, heads=None):
    """`[S, C]`: the share of each class that is right, by the experts' own heads or by new ones."""
    numbers = getattr(data.parts, part)
    given = experts.outputs(data.image[numbers])
    logits = given.logits
    if heads is not None:
        network = networks.cosine_heads(data.classes)

        def of_one(heads, rows):
            variables = {"params": heads, "frozen": {}, "model": {}}
            return network.apply(variables, rows, train=False, rngs={})[0].logits

        logits = jax.jit(jax.vmap(of_one))(heads, given.features["embeddings"])
    right = np.argmax(np.asarray(logits), -1) == data.label[numbers]
    own = [data.label[numbers] == c for c in range(data.classes)]
    return np.stack([right[:, mask].mean(1) for mask in own], axis=1)
