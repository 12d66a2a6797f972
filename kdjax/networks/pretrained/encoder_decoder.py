"""Families of `encoder_decoder_transformer`: T5, plain and gated."""

import jax

from kdjax.networks.pretrained.architecture import (
    Architecture,
    LayoutError,
    Rule,
    activation,
    attention,
    model_class,
    transposed,
    wanted,
)


def t5(config) -> Architecture:
    """T5; untied and with gated layers also T5 1.1, Flan and UL2."""
    written, _ = model_class(config, {"ForConditionalGeneration": None})
    parts = config.get("feed_forward_proj", "relu").split("-")
    if len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        raise LayoutError(f"config.json: feed_forward_proj is {config['feed_forward_proj']!r}")
    gated = len(parts) == 2
    # In this family "gated-gelu" is the approximate one, whatever the name says elsewhere.
    kind = {"act": "gelu_new" if parts == ["gated", "gelu"] else parts[-1]}
    # Older files say with `tie_word_embeddings` whether the decoder's output is scaled.
    tied = config.get("tie_word_embeddings", True) is not False
    depth = wanted(config, "num_layers")
    options = {
        "vocabulary": wanted(config, "vocab_size"),
        "width": wanted(config, "d_model"),
        "depth": depth,
        "decoder_depth": config.get("num_decoder_layers") or depth,
        "heads": wanted(config, "num_heads"),
        "head_width": wanted(config, "d_kv"),
        "hidden": wanted(config, "d_ff"),
        "activation": activation(kind, "act", "relu"),
        "gated": gated,
        "tied": tied,
        "scaled": config.get("scale_decoder_outputs", tied),
        "buckets": config.get("relative_attention_num_buckets", 32),
        "max_distance": config.get("relative_attention_max_distance", 128),
        "epsilon": config.get("layer_norm_epsilon", 1e-6),
    }
    rules = [Rule("shared.weight", "embedding")]
    for name, dense in (("encoder", 1), ("decoder", 2)):
        rules += _stack(name, dense, options)
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if tied:
        copies.append("lm_head.weight")
    else:
        rules.append(Rule("lm_head.weight", "head", transposed, transposed))
    tokens = jax.ShapeDtypeStruct((1, 8), "int32")
    return Architecture(
        "encoder_decoder_transformer",
        options,
        rules,
        dict.fromkeys(copies, "shared.weight"),
        {**config, "architectures": [written]},
        unused=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
        inputs={"tokens": tokens, "targets": tokens},
    )


def _stack(name, dense, options):
    layer, ours = f"{name}.block.{{i}}.layer", f"{name}{{n}}"
    first = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    rules = [
        Rule(first, f"{name}_positions"),
        *_attention(f"{layer}.0.SelfAttention", f"{ours}/attention", options),
        Rule(f"{layer}.0.layer_norm.weight", f"{ours}/attention_norm/scale"),
        Rule(f"{layer}.{dense}.layer_norm.weight", f"{ours}/dense_norm/scale"),
        Rule(f"{name}.final_layer_norm.weight", f"{name}_norm/scale"),
    ]
    if name == "decoder":
        rules += _attention(f"{layer}.1.EncDecAttention", f"{ours}/cross", options)
        rules.append(Rule(f"{layer}.1.layer_norm.weight", f"{ours}/cross_norm/scale"))
    wide = {"wi_0": "gate", "wi_1": "up"} if options["gated"] else {"wi": "up"}
    for theirs, our in {**wide, "wo": "down"}.items():
        weight = f"{layer}.{dense}.DenseReluDense.{theirs}.weight"
        rules.append(Rule(weight, f"{ours}/{our}/kernel", transposed, transposed))
    return rules


def _attention(theirs, ours, options):
    names = tuple(f"{theirs}.{name}" for name in ("q", "k", "v", "o"))
    return attention(options["heads"], names, ours, bias=False, out_bias=False)


FAMILIES = {"t5": t5}
