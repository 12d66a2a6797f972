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
    teacher = networks.resnet8(data.classes, features=("stage3",))
    taught = images.teach(bench, teacher, data, features=["stage3"])
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
    nets = {"student": student, "teacher": teacher}
    found = bench.compare(rows, nets, data.shape, few, frozen=taught.frozen, measure=data.accuracy)
    return {"teacher": taught.accuracy, **found}


def path_sums(bench):
    """A transformer as a sum of paths: scaled, distilled from the long sum to the short, and pruned."""
    options = bench.options
    data = images.prepare(bench, options.size)
    few = {"labelled": data.stream(options.batch, options.labelled)}
    shape = {
        "width": options.width, "depth": options.depth, "heads": options.heads,
        "patch": options.patch, "features": ("paths", "exits"),
    }  # fmt: skip
    plain, scaled = (
        {"student": networks.path_ensemble(data.classes, scaled=scaled, **shape)}
        for scaled in (False, True)
    )
    rows = {
        "scaled": methods.supervised(),
        "supervised": methods.path_distillation(soft=False),
        "distilled": methods.path_distillation(),
    }

    def accuracies(trained, part):
        return {
            "accuracy": data.accuracy(trained, part),
            "first_exit": data.right(
                lambda x: trained.outputs(x).features["exits"][..., 0, :], part
            ),
        }

    fit = {"score": lambda trained: data.accuracy(trained, "validation")}
    whole = bench.fit("plain", methods.supervised(), plain, data.shape, few, **fit)
    found = bench.compare(rows, scaled, data.shape, few, measure=accuracies, **fit)
    heads = whole.params["student"]["heads"]
    validation, test = (
        (whole.outputs(data.image[part]).features["paths"], data.label[part])
        for part in (data.parts.validation, data.parts.test)
    )
    removed = _accuracies_without(heads, *validation)
    kept = removed[:, 1:] <= removed[:, :1]
    pruned = study.right(_logits_of(heads, test[0], kept), test[1])
    bench.costs["pruned"] = bench.costs["plain"]
    return {
        "plain": accuracies(whole, "test"),
        "pruned": {"accuracy": pruned, "paths": kept.sum(1)},
        **found,
    }


def _logits_of(heads, paths, kept):
    """Logits `[S, N, C]` from paths `[S, N, P, D]`, of which `kept` `[S, P]` are summed."""
    module = PathHeads(heads["head"]["bias"].shape[-1], scaled=False)

    def one(params, paths, kept):
        return module.apply({"params": params}, paths * kept[None, :, None]).logits

    return jax.jit(jax.vmap(one))(heads, paths, jnp.asarray(kept, jnp.float32))


def _accuracies_without(heads, paths, labels):
    """`[S, 1 + P]` accuracies: with all paths, and without each of them."""
    everything = np.ones((1, paths.shape[2]))
    masks = np.concatenate([everything, everything - np.eye(paths.shape[2])])
    return np.stack(
        [study.right(_logits_of(heads, paths, np.tile(m, (len(paths), 1))), labels) for m in masks],
        axis=1,
    )
