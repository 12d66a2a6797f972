"""Digits as points in the plane, beside a network that sees their pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import point_sets
from kdjax.methods import hidden_points
from kdjax.metrics import probes
from kdjax.networks.point_transformer import point_transformer

TEXT = 32  # numbers that stand for the name of a class


def points_of_digits(bench):
    """Digits of 64 points learned by rebuilding, by teachers, or both; a linear probe of few labels.

    The teachers are a network of pixels and a fixed vector per class name, which the points of all
    training images learn from, as theirs do from captions; the probe has labels of its own. So every
    row but `generative` has learned from all labels before the probe.
    """
    options = bench.options
    digits = images.prepare(bench)
    rng = np.random.default_rng(0)
    light = bench.source.columns["image"][..., 0] / 255.0
    patches, centres = point_sets.grouped(
        point_sets.drawn_points(rng, light, options.points), options.patches, options.size
    )
    pixels = networks.multilayer_perceptron(
        digits.classes, widths=(256, 64), features=("embedding",)
    )
    learned = bench.fit(
        "pixels", methods.supervised(), {"student": pixels}, digits.shape,
        {"labelled": digits.stream(64)}, steps=options.teacher_steps, batch=64, rate=1e-3, seeds=[0],
    )  # fmt: skip
    seen = study.predict(pixels, learned.params["student"], digits.image).features["embedding"][0]
    names = rng.normal(size=(digits.classes, TEXT)).astype(np.float32)
    columns = {
        "patches": patches,
        "centres": centres,
        "label": digits.label,
        "image_feature": np.asarray((seen - seen.mean(axis=0, keepdims=True)) / seen.std()),
        "text_feature": names[digits.label],
    }
    stream = study.stream(columns, options.batch, digits.parts.train)
    shapes = {
        "patches": jax.ShapeDtypeStruct((1, *patches.shape[1:]), jnp.float32),
        "centres": jax.ShapeDtypeStruct((1, *centres.shape[1:]), jnp.float32),
        "hidden": jax.ShapeDtypeStruct((1, options.patches), jnp.bool_),
    }
    whole = {
        "patches": patches,
        "centres": centres,
        "hidden": np.zeros(centres.shape[:2], bool),
    }
    rows = {
        "recon": (True, {}),
        "attached": (False, {}),
        "generative": (True, {"contrastive": 0.0}),
        "contrastive": (True, {"generative": 0.0}),
    }
    found = {}
    for row, (detached, changes) in rows.items():
        network = point_transformer(width=options.width, depth=2, detached=detached)

        def probed(state, seeds, part="validation", network=network):
            given = study.predict(network, state.params["student"], whole).features
            tokens = np.asarray(given["tokens"]).reshape(*given["tokens"].shape[:2], -1)
            x = np.concatenate([np.asarray(given["local"]).max(axis=2), tokens], axis=-1)
            return _probe(digits, x, seeds, part, options)

        state = bench.fit(
            row, hidden_points.recon(image_width=seen.shape[-1], text_width=TEXT, **changes),
            {"student": network}, {"student": shapes}, {"points": stream},
            steps=options.steps, batch=options.batch, rate=3e-3, score=probed,
        )  # fmt: skip
        found[row] = {"accuracy": probed(state, bench.seeds, "test")}
    found["pixels"] = {"accuracy": digits.scored(pixels)(learned, [0]).repeat(len(bench.seeds))}
    return found


def _probe(digits, features, seeds, part, options):
    """`[S]`, the accuracy of a linear probe of a few labels; its strength suits the validation part."""
    found = []
    for seed, x in zip(seeds, features, strict=True):
        few = digits.parts.labelled(options.labelled, seed)
        best = {}
        for strength in options.strengths:
            given = probes.probe(
                x[None, few], x[None], digits.label[few], regularisation=strength / len(few)
            )
            right = given[0] == digits.label
            best[right[digits.parts.validation].mean()] = right[getattr(digits.parts, part)].mean()
        found.append(best[max(best)])
    return np.array(found)
