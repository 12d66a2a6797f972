"""Low-rank adapters in the layout of PEFT: `adapter_config.json`, `adapter_model.safetensors`.

Every adapted module has two tensors, `base_model.model.MODULE.lora_A.weight` `[r, I]` and
`...lora_B.weight` `[O, r]`, MODULE being its name in the base model; the update of its weight `[O, I]`
is (α / r) B A. Ours are the transposes, `.../kernel/a` `[I, r]` and `.../kernel/b` `[r, O]`, with the
same α and r, see `low_rank`.

Reference:
    "PEFT checkpoint format", https://huggingface.co/docs/peft/developer_guides/checkpoint, and
    `LoraLayer.update_layer` in https://github.com/huggingface/peft for the shapes and the scale.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax.networks.pretrained import families, folder, tensors
from kdjax.networks.pretrained.architecture import LayoutError, refuse, wanted

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
# Variants whose update is another one, and what else PEFT may train beside the factors.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
}


class Adapter(NamedTuple):
    """Factors and what `low_rank(network, patterns, rank=rank, alpha=alpha)` and `merged` need."""

    params: dict[str, Any]
    patterns: dict[str, int]
    rank: int
    alpha: float
    config: dict[str, Any]


def load_adapter(path, config: Mapping[str, Any], *, dtype=None) -> Adapter:
    """The factors of a folder in the layout of PEFT, for the network that `config` describes.

    Args:
        path: the folder.
        config: the base model's `config.json`, as `load_pretrained` gives it.
        dtype: of the factors; None is at least float32.

    Raises:
        LayoutError: a pickle; another method than plain LoRA; a module that the base does not have, a
            factor that is missing, of another shape or too many: the tensor is named.
    """
    path = Path(path)
    adapter = _read_config(path)
    refuse(adapter, file=CONFIG, **_PLAIN)
    rank = int(wanted(adapter, "r", file=CONFIG))
    alpha = float(wanted(adapter, "lora_alpha", file=CONFIG))
    if adapter.get("use_rslora"):
        # There the update is scaled by alpha over the root of r.
        alpha *= math.sqrt(rank)
    if not (path / WEIGHTS).is_file():
        if (path / _PICKLE).exists():
            raise LayoutError(
                f"{path} has its weights as the pickle {_PICKLE}, which can run any code when it is "
                f"read: convert it to {WEIGHTS} first"
            )
        raise LayoutError(f"{path} has no {WEIGHTS}")
    stored = tensors.open_file(path / WEIGHTS)
    kernels = _kernels(config)
    leaves, patterns, used = {}, {}, set()
    for ours, (modules, ins, outs, inputs, stacked) in kernels.items():
        names = [_PREFIX + module + end for module in modules for end in (_A, _B)]
        if not any(name in stored for name in names):
            continue
        for end, leaf, shape in ((_A, "a", (rank, ins)), (_B, "b", (outs, rank))):
            parts = []
            for module in modules:
                name = _PREFIX + module + end
                if name not in stored:
                    raise LayoutError(f"{WEIGHTS} lacks the tensor {name!r}")
                if stored[name].shape != shape:
                    raise LayoutError(
                        f"{WEIGHTS}: tensor {name!r} has shape {stored[name].shape}, rank {rank} of "
                        f"this base has {shape}"
                    )
                parts.append(stored[name].array().T)
            found = np.stack(parts) if stacked else parts[0]
            kind = jnp.promote_types(found.dtype, jnp.float32) if dtype is None else dtype
            leaves[f"{ours}/{leaf}"] = jnp.asarray(found, kind)
        used.update(names)
        patterns[f"^{re.escape(ours)}$"] = inputs
    extra = sorted(set(stored) - used)
    if extra:
        known = [_PREFIX + m + end for m, *_ in kernels.values() for m in m for end in (_A, _B)]
        raise LayoutError(
            f"{WEIGHTS} has a tensor {extra[0]!r} that is no factor of a module of this base"
            f"{folder.near(extra[0], known)}"
        )
    if not leaves:
        raise LayoutError(f"{WEIGHTS} holds no factors")
    return Adapter(folder.nested(leaves), patterns, rank, alpha, adapter)


def save_adapter(
    path,
    params: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    alpha: float,
    base: str | None = None,
    dtype=None,
) -> None:
    """Writes the factors that `low_rank` trained as PEFT reads them; the folder appears whole.

    Args:
        path: must not exist, or be empty.
        params: the trained parameters, `{..: {"kernel": {"a", "b"}}}`.
        config: the base model's `config.json`.
        alpha: the α of `low_rank`.
        base: the name or the folder of the base model.
        dtype: of the file; None leaves that of the factors.

    Raises:
        FileExistsError: a folder that has files.
        LayoutError: factors of what is no dense kernel of the base, of another shape, or of
            different ranks.
    """
    path = Path(path)
    folder.refuse_filled(path)
    kernels = _kernels(config)
    given = dict(folder.flat(params))
    owners = sorted({name.rpartition("/")[0] for name in given})
    unknown = [owner for owner in owners if owner not in kernels]
    if unknown:
        raise LayoutError(
            f"{unknown[0]!r} is no dense kernel of this base{folder.near(unknown[0], kernels)}"
        )
    ranks = {given[f"{owner}/a"].shape[-1] for owner in owners}
    if len(ranks) != 1:
        raise LayoutError(f"the factors must have one rank, there are {sorted(ranks)}")
    rank = ranks.pop()
    pending, adapted = {}, []
    for owner in owners:
        modules, ins, outs, _, stacked = kernels[owner]
        layers = (len(modules),) if stacked else ()
        for leaf, end, shape in (("a", _A, (ins, rank)), ("b", _B, (rank, outs))):
            x = given[f"{owner}/{leaf}"]
            if x.shape != (*layers, *shape):
                raise LayoutError(
                    f"{owner}/{leaf} has shape {x.shape}, this base has {(*layers, *shape)}"
                )
            x = np.asarray(x)
            x = x.astype(x.dtype if dtype is None else dtype)
            for number, module in enumerate(modules):
                values = (x[number] if stacked else x).T
                pending[_PREFIX + module + end] = tensors.Pending(
                    values.dtype, values.shape, values.copy
                )
        adapted += modules
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if families.architecture(config).name.startswith("dec") else None,
        "base_model_name_or_path": base,
        "target_modules": _targets(adapted, [m for m, *_ in kernels.values() for m in m]),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
    }
    with folder.replacing(path) as partial:
        (partial / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        tensors.write_file(partial / WEIGHTS, pending)


def _read_config(path):
    file = path / CONFIG
    if not file.is_file():
        raise LayoutError(f"{path} has no {CONFIG}")
    try:
        found = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise LayoutError(f"{file} is no JSON object")
    return found


def _kernels(config):
    """{path of a dense kernel of ours: (its modules, I, O, its number of input axes, stacked)}."""
    architecture = families.architecture(config)
    found = {}
    for path, (shape, parts, stacked) in folder.places(architecture).items():
        collection, _, ours = path.partition("/")
        theirs = folder.their_shape(parts[0][1], shape[int(stacked) :])
        if collection != "params" or not ours.endswith("/kernel") or len(theirs) != 2:
            continue
        outs, ins = theirs
        inputs, own = 1, shape[int(stacked) :]
        while math.prod(own[:inputs]) < ins:
            inputs += 1
        modules = [name.removesuffix(".weight") for name, _ in parts]
        found[ours] = (modules, ins, outs, inputs, stacked)
    return found


def _targets(adapted, modules):
    """The modules as PEFT matches them: by the ends of their names, where that catches no other."""
    ends = sorted({module.rpartition(".")[2] for module in adapted})
    caught = {module for module in modules if module.rpartition(".")[2] in ends}
    return ends if caught == set(adapted) else sorted(adapted)
