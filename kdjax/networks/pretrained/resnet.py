"""The family of `imagenet_resnet`."""

import re

import numpy as np

from kdjax.networks.pretrained import vit
from kdjax.networks.pretrained.architecture import (
    Architecture,
    Rule,
    classes,
    convolution_kernel,
    dense,
    model_class,
    norm,
    refuse,
)


def resnet(config) -> Architecture:
    """ResNet, with its class head or without."""
    refuse(config, hidden_act=("relu",), layer_type=("bottleneck", "basic"))
    written, head = model_class(config, {"ForImageClassification": "one", "Model": None})
    prefix = "" if head is None else "resnet."
    block = config.get("layer_type", "bottleneck")
    depths = config.get("depths", (3, 4, 6, 3))
    rules = _convolution(f"{prefix}embedder.embedder", "stem", "stem_norm")
    for stage in range(1, len(depths) + 1):
        layer = f"{prefix}encoder.stages.{stage - 1}.layers"
        ours = f"stage{stage}_block{{n}}"
        for number in range(1, 4 if block == "bottleneck" else 3):
            theirs = f"{layer}.{{i}}.layer.{number - 1}"
            rules += _convolution(theirs, f"{ours}/conv{number}", f"{ours}/norm{number}")
        if _changes(config, stage):
            first = f"stage{stage}_block1"
            rules += _convolution(
                f"{layer}.0.shortcut", f"{first}/shortcut", f"{first}/shortcut_norm"
            )
    if head:
        rules += dense("classifier.1", "head")
    options = {
        "classes": classes(config) if head else None,
        "depths": tuple(depths),
        "widths": tuple(_widths(config)),
        "block": block,
        "stem": config.get("embedding_size", 64),
        "first_stride": 2 if config.get("downsample_in_first_stage", False) else 1,
        "early_stride": config.get("downsample_in_bottleneck", False),
    }
    # Any size will do: only the number of channels is in the weights.
    inputs = vit.images({"image_size": 64, "num_channels": config.get("num_channels", 3)})
    return Architecture(
        "imagenet_resnet",
        options,
        rules,
        {},
        {**config, "architectures": [written]},
        inputs=inputs,
        constants=_counters(rules, depths),
    )


def _counters(rules, depths):
    """How many batches each normalisation has seen, which only training there without momentum uses."""
    counters = {}
    for rule in rules:
        if rule.theirs.endswith(".running_mean"):
            name = rule.theirs.replace(".running_mean", ".num_batches_tracked")
            stage = re.search(r"stages\.(\d+)", name)
            for i in range(depths[int(stage[1])] if stage else 1):
                counters[name.format(i=i)] = np.zeros((), np.int64)
    return counters


def _widths(config):
    return config.get("hidden_sizes", (256, 512, 1024, 2048))


def _changes(config, stage):
    """Whether the first block of a stage has a shortcut of its own."""
    widths = [config.get("embedding_size", 64), *_widths(config)]
    halves = stage > 1 or config.get("downsample_in_first_stage", False)
    return halves or widths[stage - 1] != widths[stage]


def _convolution(theirs, convolution, normalisation):
    """A convolution and its batch normalisation, whose statistics are state."""
    statistics = f"batch_stats/{normalisation}"
    return [
        Rule(f"{theirs}.convolution.weight", f"{convolution}/kernel", *convolution_kernel()),
        *norm(f"{theirs}.normalization", normalisation),
        Rule(f"{theirs}.normalization.running_mean", f"{statistics}/mean", collection="model"),
        Rule(f"{theirs}.normalization.running_var", f"{statistics}/var", collection="model"),
    ]


FAMILIES = {"resnet": resnet}
