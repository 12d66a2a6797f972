"""Digits as points in the plane, beside a network that sees their pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import networks
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
    learned = images.teach(
        bench, pixels, digits, row="pixels", features=["embedding"],
        steps=options.teacher_steps, batch=64, rate=1e-3,
    )  # fmt: skip
    seen = jnp.asarray(learned.columns["teacher/embedding"])
    names = rng.normal(size=(digits.classes, TEXT)).astype(np.float32)
    points = {"patches": patches, "centres": centres}
    columns = {
        **points,
        "label": digits.label,
        "image_feature": np.asarray((seen - seen.mean(axis=0, keepdims=True)) / seen.std()),
        "text_feature": names[digits.label],
    }
    whole = {**points, "hidden": np.zeros(centres.shape[:2], bool)}
    shapes = {key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype) for key, x in whole.items()}

    def probed(trained, part):
        """The accuracy of a linear probe of a few labels, whose strength suits the validation part."""
        given = trained.outputs(whole).features
        tokens = np.asarray(given["tokens"]).reshape(*given["tokens"].shape[:2], -1)
        features = np.concatenate([np.asarray(given["local"]).max(axis=2), tokens], axis=-1)
        found = []
        for seed, x in zip(trained.seeds, features, strict=True):
            few, best = digits.parts.labelled(options.labelled, seed), {}
            for strength in options.strengths:
                said = probes.probe(
                    x[None, few], x[None], digits.label[few], regularisation=strength / len(few)
                )
                right = said[0] == digits.label
                held = right[digits.parts.validation].mean()
                best[held] = right[getattr(digits.parts, part)].mean()
            found.append(best[max(best)])
        return np.array(found)

    def row(detached=True, **changes):
        method = hidden_points.recon(image_width=seen.shape[-1], text_width=TEXT, **changes)
        network = point_transformer(width=options.width, depth=2, detached=detached)
        return {"method": method, "nets": {"student": network}}

    rows = {
        "recon": row(),
        "attached": row(detached=False),
        "generative": row(contrastive=0.0),
        "contrastive": row(generative=0.0),
    }
    found = bench.compare(
        rows, {}, {"student": shapes}, measure=probed, rate=3e-3,
        data={"points": study.stream(columns, options.batch, digits.parts.train)},
    )  # fmt: skip
    return {"pixels": learned.accuracy, **found}
