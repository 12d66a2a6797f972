"""Decoders with public weights: Llama, Mistral, Qwen 2, Qwen 3, Gemma 2.

What a configuration leaves out is what `transformers` takes for it. A setting that our decoder does not
have (another scaling of rotary positions, a bias on other projections) is refused by name.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.networks.pretrained.architecture import (
    Architecture,
    LayoutError,
    Rule,
    split_bias,
    split_inputs,
    split_outputs,
    transposed,
    wanted,
)

# Theirs -> ours. "gelu" alone is the exact one at theirs, which our decoder does not have.
ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
NORMS = {"attention_norm": "input_layernorm", "dense_norm": "post_attention_layernorm"}
GEMMA_NORMS = {
    "attention_norm": "input_layernorm",
    "attention_output_norm": "post_attention_layernorm",
    "dense_norm": "pre_feedforward_layernorm",
    "dense_output_norm": "post_feedforward_layernorm",
}
# What differs between the families: what a configuration without the key means, and our options.
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "qwen2": {"max_window_layers": 28},
    "qwen3": {"max_window_layers": 28, "head_dim": 128},
    "gemma2": {
        "hidden_activation": "gelu_pytorch_tanh",
        "head_dim": 256,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}
# Settings that change the function and that our decoder does not have.
REFUSED = ("attention_bias", "mlp_bias", "use_bidirectional_attention")


def from_config(family: str, config: Mapping[str, Any]) -> Architecture:
    """The decoder that a `config.json` of one of the families describes.

    Raises:
        LayoutError: a setting that is missing or that the decoder does not have.
    """
    given = {**DEFAULTS[family], **config}
    for key in REFUSED:
        if given.get(key):
            raise LayoutError(f"config.json has {key} = {given[key]!r}, which the decoder has not")
    heads, width = wanted(given, "num_attention_heads"), wanted(given, "hidden_size")
    depth = wanted(given, "num_hidden_layers")
    key_heads = given.get("num_key_value_heads") or heads
    activation = given.get("hidden_activation") or given.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise LayoutError(
            f"config.json has hidden_act = {activation!r}, there are {sorted(ACTIVATIONS)}"
        )
    base, scaling = _rotary(given)
    options = {
        "vocabulary": wanted(given, "vocab_size"),
        "width": width,
        "depth": depth,
        "heads": heads,
        "key_heads": key_heads,
        "hidden": wanted(given, "intermediate_size"),
        "head_width": given.get("head_dim") or width // heads,
        "activation": ACTIVATIONS[activation],
        "tied": bool(given.get("tie_word_embeddings")),
        "epsilon": given.get("rms_norm_eps", 1e-6),
        "rotary_base": base,
        "rotary_scaling": scaling,
        "windows": _windows(family, given, depth),
        "attention_bias": family == "qwen2",
        "query_key_norm": family == "qwen3",
    }
    if family == "gemma2":
        options |= {
            "output_norms": True,
            "embedding_scale": math.sqrt(width),
            "attention_scale": given["query_pre_attn_scalar"] ** -0.5,
            "attention_softcap": given["attn_logit_softcapping"],
            "softcap": given["final_logit_softcapping"],
        }
    return Architecture(
        name="decoder_transformer",
        options=options,
        rules=_rules(family, options),
        tied={HEAD: EMBEDDING} if options["tied"] else {},
        config=dict(config),
    )


def _rotary(given):
    """(base, scaling); newer files have both under one key."""
    parameters = given.get("rope_parameters") or given.get("rope_scaling") or {}
    base = float(parameters.get("rope_theta") or given.get("rope_theta") or 10_000.0)
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in ("default", "llama3") or parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise LayoutError(
            f"config.json has rotary positions {dict(parameters)}, there are the types default and "
            "llama3, on whole heads"
        )
    if kind == "default":
        return base, None
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return base, tuple(float(wanted(parameters, key)) for key in keys)


def _windows(family, given, depth):
    """Per layer, or one for all; `()` where no layer has one."""
    window = given.get("sliding_window")
    if family == "llama" or (family.startswith("qwen") and not given.get("use_sliding_window")):
        return ()
    if window is None:
        return ()
    if family == "mistral":
        return (window,)
    kinds = given.get("layer_types")
    if kinds is not None:
        windows = tuple(window if kind == "sliding_attention" else None for kind in kinds)
    elif family == "gemma2":
        windows = tuple(None if i % 2 else window for i in range(depth))
    else:
        first = given["max_window_layers"]
        windows = tuple(window if i >= first else None for i in range(depth))
    if len(windows) != depth:
        raise LayoutError(
            f"config.json has {len(windows)} layer_types and num_hidden_layers = {depth}"
        )
    return windows if any(windows) else ()


def _rules(family, options):
    heads = {"query": options["heads"], "key": options["key_heads"], "value": options["key_heads"]}
    theirs, ours = "model.layers.{i}.", "layers/"
    attention = theirs + "self_attn."
    # Gemma's scales are stored as w of 1 + w; bfloat16 could not hold the sum.
    norm = (_plus_one, _minus_one) if family == "gemma2" else ()
    rules = [
        Rule(EMBEDDING, "embedding"),
        Rule("model.norm.weight", "norm/scale", *norm),
        *(
            Rule(f"{attention}{name[0]}_proj.weight", f"{ours}{name}/kernel", *split_outputs(count))
            for name, count in heads.items()
        ),
        Rule(attention + "o_proj.weight", ours + "out/kernel", *split_inputs(options["heads"])),
        *(
            Rule(f"{theirs}mlp.{name}_proj.weight", f"{ours}{name}/kernel", transposed, transposed)
            for name in ("gate", "up", "down")
        ),
        *(
            Rule(f"{theirs}{name}.weight", f"{ours}{ours_name}/scale", *norm)
            for ours_name, name in (GEMMA_NORMS if family == "gemma2" else NORMS).items()
        ),
    ]
    if options["attention_bias"]:
        rules += [
            Rule(f"{attention}{name[0]}_proj.bias", f"{ours}{name}/bias", *split_bias(count))
            for name, count in heads.items()
        ]
    if options["query_key_norm"]:
        rules += [
            Rule(f"{attention}{name[0]}_norm.weight", f"{ours}{name}_norm/scale")
            for name in ("query", "key")
        ]
    if not options["tied"]:
        rules.append(Rule(HEAD, "head", transposed, transposed))
    return tuple(rules)


def _plus_one(x):
    return np.float32(1) + x


def _minus_one(x):
    return x - np.float32(1)


FAMILIES = {family: functools.partial(from_config, family) for family in DEFAULTS}
