"""Families of `encoder_transformer`: BERT, RoBERTa, MobileBERT, DistilBERT."""

import numpy as np

from kdjax.networks.pretrained.architecture import (
    Architecture,
    Rule,
    activation,
    attention,
    classes,
    dense,
    model_class,
    norm,
    refuse,
    wanted,
)

_HEADS = {
    "ForMaskedLM": "masked",
    "ForPreTraining": "masked",
    "ForSequenceClassification": "classification",
    "Model": None,
}
# Older files call a norm's weight gamma and its bias beta.
_RENAMED = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
_BIDIRECTIONAL = {
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "position_embedding_type": ("absolute",),
    "tie_word_embeddings": (True,),
}


def bert(config) -> Architecture:
    """BERT; the head for next sentences of a `BertForPreTraining` is not read."""
    written, head = model_class(config, _HEADS)
    prefix = "" if head is None else "bert."
    rules = [*_body(config, prefix), *_masked_head(head), *_classifier(head, "classifier")]
    if head != "masked":
        rules += dense(f"{prefix}pooler.dense", "pooler")
    return Architecture(
        "encoder_transformer",
        {**_options(config, head), "pooler": None if head == "masked" else "tanh"},
        rules,
        _copies(prefix, head),
        _written(config, written),
        unused=(r"cls\.seq_relationship\..*", *_unused_pooler(prefix, head)),
        renamed=_RENAMED,
    )


def roberta(config) -> Architecture:
    """RoBERTa: BERT whose positions are counted over the tokens that are not padding."""
    refuse(config, hidden_act=("gelu",))  # its head has it whatever the layers have
    written, head = model_class(config, {k: v for k, v in _HEADS.items() if k != "ForPreTraining"})
    prefix = "" if head is None else "roberta."
    rules = [
        *_body(config, prefix),
        *_masked_head(head, "lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
        *_classifier(head, "classifier.out_proj"),
    ]
    if head == "classification":
        rules += dense("classifier.dense", "pooler")
    if head is None:
        rules += dense("pooler.dense", "pooler")
    copies = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }
    return Architecture(
        "encoder_transformer",
        {
            **_options(config, head),
            "pooler": None if head == "masked" else "tanh",
            "padding": config.get("pad_token_id", 1),
        },
        rules,
        copies if head == "masked" else {},
        _written(config, written),
        unused=(r"roberta\.pooler\..*",),
        renamed=_RENAMED,
    )


def mobilebert(config) -> Architecture:
    """MobileBERT, with or without bottlenecks."""
    refuse(config, normalization_type=("no_norm", "layer_norm"))
    written, head = model_class(config, _HEADS)
    prefix = "" if head is None else "mobilebert."
    bottleneck = config.get("use_bottleneck", True)
    inside = bottleneck and config.get("use_bottleneck_attention", False)
    shared = bottleneck and not inside and config.get("key_query_shared_bottleneck", True)
    trigrams = config.get("trigram_input", True)
    width, narrow = wanted(config, "hidden_size"), config.get("embedding_size", 128)
    count = config.get("num_feedforward_networks", 4)
    pools = head != "masked" and config.get("classifier_activation", True)

    rules = [*_body(config, prefix), *_masked_head(head), *_classifier(head, "classifier")]
    if trigrams or narrow != width:
        rules += dense(f"{prefix}embeddings.embedding_transformation", "embedding_projection")
    if head == "masked" and narrow != width:
        rules.append(Rule("cls.predictions.dense.weight", "head_extra"))
    if pools:
        rules += dense(f"{prefix}pooler.dense", "pooler")
    layer = f"{prefix}encoder.layer.{{i}}"
    for name, ours, there in (
        ("bottleneck.input", "bottleneck_input", bottleneck),
        ("bottleneck.attention", "bottleneck_attention", shared),
        ("output.bottleneck", "bottleneck_output", bottleneck),
    ):
        if there:
            rules += dense(f"{layer}.{name}.dense", f"layer{{n}}/{ours}")
            rules += norm(f"{layer}.{name}.LayerNorm", f"layer{{n}}/{ours}_norm")
    for number in range(1, count):
        inner = f"{layer}.ffn.{number - 1}"
        rules += dense(f"{inner}.intermediate.dense", f"layer{{n}}/up{number}")
        rules += dense(f"{inner}.output.dense", f"layer{{n}}/down{number}")
        rules += norm(f"{inner}.output.LayerNorm", f"layer{{n}}/dense_norm{number}")
    # Where the attention reads the bottleneck, files still have the shared one that nothing reads.
    idle = {}
    if inside and config.get("key_query_shared_bottleneck", True):
        inner = config.get("intra_bottleneck_size", 128)
        for i in range(wanted(config, "num_hidden_layers")):
            name = f"{layer.format(i=i)}.bottleneck.attention"
            idle[f"{name}.dense.weight"] = np.zeros((inner, width), np.float32)
            for vector in ("dense.bias", "LayerNorm.weight", "LayerNorm.bias"):
                idle[f"{name}.{vector}"] = np.zeros(inner, np.float32)
    options = {
        **_options(config, head, activation_default="relu"),
        "pooler": "tanh" if pools else None,
        "embedding_width": narrow,
        "trigrams": trigrams,
        "bottleneck": config.get("intra_bottleneck_size", 128) if bottleneck else None,
        "bottleneck_attention": inside,
        "shared_bottleneck": shared,
        "dense_layers": count,
        "norm": "affine" if config.get("normalization_type", "no_norm") == "no_norm" else "layer",
        "loose_epsilon": 1e-5,
    }
    return Architecture(
        "encoder_transformer",
        options,
        rules,
        _copies(prefix, head),
        _written(config, written),
        unused=(
            r"cls\.seq_relationship\..*",
            *_unused_pooler(prefix, head),
            *(r".*\.bottleneck\.attention\..*" for _ in idle),
        ),
        renamed=_RENAMED,
        constants=idle,
    )


def distilbert(config) -> Architecture:
    """DistilBERT: no kinds of tokens, and a rectified pooling layer before its classifier."""
    refuse(config, sinusoidal_pos_embds=(False, True), tie_word_embeddings=(True,))
    written, head = model_class(config, {k: v for k, v in _HEADS.items() if k != "ForPreTraining"})
    prefix = "" if head is None else "distilbert."
    layer = f"{prefix}transformer.layer.{{i}}"
    heads = wanted(config, "n_heads")
    names = ("q_lin", "k_lin", "v_lin", "out_lin")
    rules = [
        Rule(f"{prefix}embeddings.word_embeddings.weight", "embedding"),
        Rule(f"{prefix}embeddings.position_embeddings.weight", "positions"),
        *norm(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
        *attention(heads, _under(f"{layer}.attention", names), "layer{n}/attention"),
        *norm(f"{layer}.sa_layer_norm", "layer{n}/attention_norm"),
        *dense(f"{layer}.ffn.lin1", "layer{n}/up"),
        *dense(f"{layer}.ffn.lin2", "layer{n}/down"),
        *norm(f"{layer}.output_layer_norm", "layer{n}/output_norm"),
        *_masked_head(head, "vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
        *_classifier(head, "classifier"),
    ]
    if head == "classification":
        rules += dense("pre_classifier", "pooler")
    copies = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    options = {
        "vocabulary": wanted(config, "vocab_size"),
        "width": wanted(config, "dim"),
        "depth": wanted(config, "n_layers"),
        "heads": heads,
        "hidden": wanted(config, "hidden_dim"),
        "positions": wanted(config, "max_position_embeddings"),
        "kinds": 0,
        "activation": activation(config, "activation", "gelu"),
        "head": head,
        "classes": classes(config) if head == "classification" else None,
        "pooler": "relu" if head == "classification" else None,
    }
    return Architecture(
        "encoder_transformer",
        options,
        rules,
        copies if head == "masked" else {},
        _written(config, written),
    )


def _options(config, head, activation_default="gelu"):
    refuse(config, **_BIDIRECTIONAL)
    return {
        "vocabulary": wanted(config, "vocab_size"),
        "width": wanted(config, "hidden_size"),
        "depth": wanted(config, "num_hidden_layers"),
        "heads": wanted(config, "num_attention_heads"),
        "hidden": wanted(config, "intermediate_size"),
        "positions": wanted(config, "max_position_embeddings"),
        "kinds": config.get("type_vocab_size", 2),
        "activation": activation(config, "hidden_act", activation_default),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "head": head,
        "classes": classes(config) if head == "classification" else None,
    }


def _body(config, prefix):
    layer = f"{prefix}encoder.layer.{{i}}"
    names = ("self.query", "self.key", "self.value", "output.dense")
    heads = wanted(config, "num_attention_heads")
    return [
        Rule(f"{prefix}embeddings.word_embeddings.weight", "embedding"),
        Rule(f"{prefix}embeddings.position_embeddings.weight", "positions"),
        Rule(f"{prefix}embeddings.token_type_embeddings.weight", "kinds"),
        *norm(f"{prefix}embeddings.LayerNorm", "embedding_norm"),
        *attention(heads, _under(f"{layer}.attention", names), "layer{n}/attention"),
        *norm(f"{layer}.attention.output.LayerNorm", "layer{n}/attention_norm"),
        *dense(f"{layer}.intermediate.dense", "layer{n}/up"),
        *dense(f"{layer}.output.dense", "layer{n}/down"),
        *norm(f"{layer}.output.LayerNorm", "layer{n}/output_norm"),
    ]


def _under(prefix, names):
    return tuple(f"{prefix}.{name}" for name in names)


def _masked_head(
    head,
    transform="cls.predictions.transform.dense",
    transform_norm="cls.predictions.transform.LayerNorm",
    bias="cls.predictions.bias",
):
    if head != "masked":
        return []
    return [
        *dense(transform, "transform"),
        *norm(transform_norm, "transform_norm"),
        Rule(bias, "head_bias"),
    ]


def _classifier(head, name):
    return dense(name, "head") if head == "classification" else []


def _copies(prefix, head):
    if head != "masked":
        return {}
    return {
        "cls.predictions.decoder.weight": f"{prefix}embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }


def _unused_pooler(prefix, head):
    return (rf"{prefix}pooler\..*",) if head == "masked" else ()


def _written(config, name):
    """A model for pre-training comes back as the masked language model that was read of it."""
    return {**config, "architectures": [name.replace("ForPreTraining", "ForMaskedLM")]}


FAMILIES = {
    "bert": bert,
    "roberta": roberta,
    "mobilebert": mobilebert,
    "distilbert": distilbert,
}
