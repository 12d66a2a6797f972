"""The family of `clip_model`."""

import jax

from kdjax.networks.pretrained import vit
from kdjax.networks.pretrained.architecture import (
    Architecture,
    Rule,
    activation,
    attention,
    convolution_kernel,
    dense,
    model_class,
    norm,
    transposed,
    wanted,
)

# What a configuration of a tower leaves out is what `transformers` takes for it.
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
_IMAGE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_OLD_END = 2  # of configurations that do not say where a text ends: it is at its largest token


def clip(config) -> Architecture:
    """CLIP, both towers."""
    written, _ = model_class(config, {"CLIPModel": None, "Model": None})
    text = {**_TEXT, **wanted(config, "text_config"), **(config.get("text_config_dict") or {})}
    image = {
        **_IMAGE,
        **wanted(config, "vision_config"),
        **(config.get("vision_config_dict") or {}),
    }
    end = text["eos_token_id"]
    options = {
        "projection": wanted({"projection_dim": 512, **config}, "projection_dim"),
        "text": {
            **_sizes(text),
            "vocabulary": text["vocab_size"],
            "positions": text["max_position_embeddings"],
            "end": None if end == _OLD_END else end,
        },
        "image": {**_sizes(image), "patch": image["patch_size"]},
    }
    embeddings = "vision_model.embeddings"
    rules = [
        Rule("logit_scale", "log_scale"),
        Rule("text_model.embeddings.token_embedding.weight", "text/embedding"),
        Rule("text_model.embeddings.position_embedding.weight", "text/positions"),
        *_tower("text_model", "text", options["text"]),
        *norm("text_model.final_layer_norm", "text/norm"),
        Rule("text_projection.weight", "text/projection/kernel", transposed, transposed),
        Rule(f"{embeddings}.class_embedding", "image/class_token"),
        Rule(f"{embeddings}.patch_embedding.weight", "image/patches/kernel", *convolution_kernel()),
        Rule(f"{embeddings}.position_embedding.weight", "image/positions"),
        *norm("vision_model.pre_layrnorm", "image/norm_before"),
        *_tower("vision_model", "image", options["image"]),
        *norm("vision_model.post_layernorm", "image/norm"),
        Rule("visual_projection.weight", "image/projection/kernel", transposed, transposed),
    ]
    inputs = {"images": vit.images(image), "tokens": jax.ShapeDtypeStruct((1, 8), "int32")}
    return Architecture(
        "clip_model", options, rules, {}, {**config, "architectures": [written]}, inputs=inputs
    )


def _sizes(config):
    return {
        "width": config["hidden_size"],
        "depth": config["num_hidden_layers"],
        "heads": config["num_attention_heads"],
        "hidden": config["intermediate_size"],
        "activation": activation(config, "hidden_act", "quick_gelu"),
        "epsilon": config.get("layer_norm_eps", 1e-5),
    }


def _tower(theirs, ours, options):
    layer, block = f"{theirs}.encoder.layers.{{i}}", f"{ours}/block{{n}}"
    inside = f"{layer}.self_attn"
    names = tuple(f"{inside}.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj"))
    return [
        *norm(f"{layer}.layer_norm1", f"{block}/norm1"),
        *attention(options["heads"], names, f"{block}/attention"),
        *norm(f"{layer}.layer_norm2", f"{block}/norm2"),
        *dense(f"{layer}.mlp.fc1", f"{block}/dense1"),
        *dense(f"{layer}.mlp.fc2", f"{block}/dense2"),
    ]


FAMILIES = {"clip": clip}
