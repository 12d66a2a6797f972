"""Studies of vision transformers on small images."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods.features import through_head
from kdjax.networks.path_ensemble import PathHeads


def spatial_logits(bench):
    """A transformer whose patches learn from what a convolutional teacher says at each place."""
    options = bench.options
    data = images.prepare(bench, options.size)
    settings = {"batch": options.batch, "rate": options.rate}
    teacher = networks.resnet8(data.classes, features=("stage3",))
    taught = images.teach(
        bench, teacher, data, features=["stage3"], steps=options.teacher_steps, **settings
    )
    maps = taught.columns.pop("teacher/stage3")
    taught.columns["teacher/dense"] = through_head(maps, taught.frozen["teacher"]["head"])
    few = {"labelled": data.stream(options.batch, options.labelled, **taught.columns)}
    student = networks.vision_transformer(
        data.classes, width=options.width, depth=options.depth, heads=options.heads,
        patch=options.patch, distillation=True, distillation_head=True,
        features=("tokens", "class_logits", "distillation_logits"),
    )  # fmt: skip
    rows = {
        "alone": methods.supervised(),
        "deit": methods.deit(),
        "spatial": methods.cumulative_spatial(teacher_feature="dense"),
        "cumulative": methods.cumulative_spatial(teacher_feature="dense", steps=options.steps),
    }
    found = {"teacher": {"accuracy": taught.accuracy}}
    for name, method in rows.items():
        state = bench.fit(
            name, method, {"student": student, "teacher": teacher}, data.shape, few,
            frozen=taught.frozen, score=data.scored(student, "validation"),
            steps=options.steps, **settings,
        )  # fmt: skip
        found[name] = {"accuracy": data.scored(student)(state, None)}
    return found


def path_sums(bench):
    """A transformer as a sum of paths: scaled, distilled from the long sum to the short, and pruned."""
    options = bench.options
    data = images.prepare(bench, options.size)
    few = {"labelled": data.stream(options.batch, options.labelled)}
    shape = {
        "width": options.width, "depth": options.depth, "heads": options.heads,
        "patch": options.patch, "features": ("paths", "exits"),
    }  # fmt: skip
    rows = {
        "plain": (methods.supervised(), False),
        "scaled": (methods.supervised(), True),
        "supervised": (methods.path_distillation(soft=False), True),
        "distilled": (methods.path_distillation(), True),
    }
    found = {}
    for name, (method, scaled) in rows.items():
        student = networks.path_ensemble(data.classes, scaled=scaled, **shape)
        state = bench.fit(
            name, method, {"student": student}, data.shape, few,
            score=data.scored(student, "validation"),
            steps=options.steps, batch=options.batch, rate=options.rate,
        )  # fmt: skip
        parts = {
            part: study.predict(
                student, state.params["student"], data.image[getattr(data.parts, part)]
            )
            for part in ("validation", "test")
        }
        labels = data.label[data.parts.test]
        found[name] = {
            "accuracy": study.right(parts["test"].logits, labels),
            "first_exit": study.right(parts["test"].features["exits"][..., 0, :], labels),
        }
        if name == "plain":
            heads = state.params["student"]["heads"]
            removed = _accuracies_without(heads, parts["validation"], data, "validation")
            kept = removed[:, 1:] <= removed[:, :1]
            scores = _logits_of(heads, parts["test"].features["paths"], kept)
            found["pruned"] = {"accuracy": study.right(scores, labels)}
            found["pruned"]["paths"] = kept.sum(1)
    bench.costs["pruned"] = bench.costs["plain"]
    return found


def _logits_of(heads, paths, kept):
    """Logits `[S, N, C]` from paths `[S, N, P, D]`, of which `kept` `[S, P]` are summed."""
    module = PathHeads(heads["head"]["bias"].shape[-1], scaled=False)

    def one(params, paths, kept):
        return module.apply({"params": params}, paths * kept[None, :, None]).logits

    return jax.jit(jax.vmap(one))(heads, paths, jnp.asarray(kept, jnp.float32))


def _accuracies_without(heads, given, data, part):
    """`[S, 1 + P]` accuracies of a part: with all paths, and without each of them."""
    paths, labels = given.features["paths"], data.label[getattr(data.parts, part)]
    number = paths.shape[2]
    everything = np.ones((1, number))
    masks = np.concatenate([everything, everything - np.eye(number)])
    return np.stack(
        [
            study.right(_logits_of(heads, paths, np.tile(mask, (len(paths), 1))), labels)
            for mask in masks
        ],
        axis=1,
    )
