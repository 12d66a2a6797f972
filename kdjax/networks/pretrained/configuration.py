"""The `config.json` of a decoder that was made here, so that others can load it."""

from collections.abc import Mapping
from typing import Any

from kdjax.networks.decoder import Decoder
from kdjax.networks.pretrained import families
from kdjax.networks.pretrained.architecture import LayoutError

# How a network is computed, which is in no file of weights.
_COMPUTED = {"block", "logits", "scan", "remat", "dtype", "param_dtype", "constrain", "features"}
_OLDER = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def decoder_config(options: Mapping[str, Any], *, positions: int) -> dict[str, Any]:
    """The configuration of `decoder_transformer(**options)`: a Llama, a Qwen 2 or a Qwen 3.

    Args:
        options: the keywords of the network, `vocabulary` among them.
        positions: the longest text that it is meant for.

    Raises:
        LayoutError: an option that none of the three families has.

    >>> sizes = {"vocabulary": 9, "width": 8, "depth": 1, "heads": 2, "key_heads": 1, "hidden": 16}
    >>> decoder_config({**sizes, "tied": True}, positions=64)["architectures"]
    ['LlamaForCausalLM']
    """
    fields = Decoder.__dataclass_fields__
    unknown = sorted(set(options) - set(fields) - _COMPUTED)
    if unknown:
        raise LayoutError(f"decoder_transformer has no options {unknown}")
    defaults = {name: fields[name].default for name in fields if name not in ("parent", "name")}
    given = {**defaults, **{k: v for k, v in options.items() if k not in _COMPUTED}}
    given["head_width"] = given["head_width"] or given["width"] // given["heads"]
    given["rotary_base"] = float(given["rotary_base"])
    kind = "qwen3" if given["query_key_norm"] else "qwen2" if given["attention_bias"] else "llama"
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": given["rotary_base"]}
    if given["rotary_scaling"] is not None:
        scaling = dict(zip(_SCALING, given["rotary_scaling"], strict=True))
        rotary = {**rotary, **scaling, "rope_type": "llama3"}
    config = {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "vocab_size": given["vocabulary"],
        "hidden_size": given["width"],
        "num_hidden_layers": given["depth"],
        "num_attention_heads": given["heads"],
        "num_key_value_heads": given["key_heads"],
        "intermediate_size": given["hidden"],
        "head_dim": given["head_width"],
        "hidden_act": _OLDER.get(given["activation"], given["activation"]),
        "tie_word_embeddings": given["tied"],
        "rms_norm_eps": given["epsilon"],
        "rope_theta": given["rotary_base"],
        "rope_parameters": rotary,
        "max_position_embeddings": positions,
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    # What the way back does not give is what the family does not have.
    back = {**defaults, **families.architecture(config).options}
    lost = [
        name for name in defaults if name not in _COMPUTED and not _same(given[name], back[name])
    ]
    if lost:
        had = {name: given[name] for name in lost}
        raise LayoutError(f"a {kind} has no {had}: such a decoder cannot be written for others")
    return config


def _same(ours, theirs):
    return (tuple(ours) if isinstance(ours, list) else ours) == theirs
