"""Families of `vision_transformer`: ViT and DeiT."""

import jax
import numpy as np

from kdjax.networks.pretrained.architecture import (
    Architecture,
    Rule,
    activation,
    attention,
    classes,
    convolution_kernel,
    dense,
    model_class,
    norm,
    refuse,
    wanted,
)

_HEADS = {
    "ForImageClassificationWithTeacher": "both",
    "ForImageClassification": "one",
    "Model": None,
}


def vit(config) -> Architecture:
    """ViT, with its class head or with its pooling layer."""
    heads = {name: head for name, head in _HEADS.items() if head != "both"}
    return _architecture(config, "vit", *model_class(config, heads))


def deit(config) -> Architecture:
    """DeiT: a ViT with a distillation token, and one head or two."""
    return _architecture(config, "deit", *model_class(config, _HEADS))


def images(config):
    """What the network of such a configuration is created with."""
    size = config.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return jax.ShapeDtypeStruct((1, height, width, config.get("num_channels", 3)), np.float32)


def _architecture(config, family, written, head):
    refuse(config, pooler_act=("tanh",))
    prefix = "" if head is None else f"{family}."
    count = wanted(config, "num_attention_heads")
    bias = config.get("qkv_bias", True)
    embeddings, layer = f"{prefix}embeddings", f"{prefix}encoder.layer.{{i}}"
    inside = f"{layer}.attention"
    names = (
        f"{inside}.attention.query",
        f"{inside}.attention.key",
        f"{inside}.attention.value",
        f"{inside}.output.dense",
    )
    projection = f"{embeddings}.patch_embeddings.projection"
    rules = [
        Rule(f"{embeddings}.cls_token", "class_token"),
        Rule(f"{embeddings}.position_embeddings", "positions"),
        Rule(f"{projection}.weight", "patches/kernel", *convolution_kernel()),
        Rule(f"{projection}.bias", "patches/bias"),
        *norm(f"{layer}.layernorm_before", "block{n}/norm1"),
        *attention(count, names, "block{n}/attention", bias=bias),
        *norm(f"{layer}.layernorm_after", "block{n}/norm2"),
        *dense(f"{layer}.intermediate.dense", "block{n}/dense1"),
        *dense(f"{layer}.output.dense", "block{n}/dense2"),
        *norm(f"{prefix}layernorm", "norm"),
    ]
    if family == "deit":
        rules.append(Rule(f"{embeddings}.distillation_token", "distillation_token"))
    if head == "both":
        rules += dense("cls_classifier", "head")
        rules += dense("distillation_classifier", "distillation_head")
    elif head == "one":
        rules += dense("classifier", "head")
    else:
        rules += dense("pooler.dense", "pooler")
    patch = wanted(config, "patch_size")
    options = {
        "classes": classes(config) if head else None,
        "width": wanted(config, "hidden_size"),
        "depth": wanted(config, "num_hidden_layers"),
        "heads": count,
        "patch": patch if isinstance(patch, int) else patch[0],
        "hidden": wanted(config, "intermediate_size"),
        "activation": activation(config, "hidden_act", "gelu"),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "attention_bias": bias,
        "distillation": family == "deit",
        "distillation_head": head == "both",
        "pooler": head is None,
    }
    return Architecture(
        "vision_transformer",
        options,
        rules,
        {},
        {**config, "architectures": [written]},
        unused=(r".*\.embeddings\.mask_token", r".*\.pooler\..*")
        if head
        else (r"embeddings\.mask_token",),
        inputs=images(config),
    )


FAMILIES = {"vit": vit, "deit": deit}
