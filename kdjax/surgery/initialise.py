"""Students that begin as parts of their teacher."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

_LAYER = re.compile(r"(layer|block)(\d+)")


def kept_layers(params: Mapping[str, Any], depth: int) -> dict[str, Any]:
    """The parameters of a network with `depth` of the layers, spread evenly, and all that is shared.

    The first and the last layer stay, where there are two or more.

    Args:
        params: those of a network whose layers are `layer1`, `layer2`, ... (or `block1`, ...), or are
            stacked along the first axis of `layers`.
        depth: how many to keep.

    Raises:
        ValueError: no layers, or fewer than `depth`.

    >>> sorted(kept_layers({"head": 0, "layer1": 1, "layer2": 2, "layer3": 3}, 2).items())
    [('head', 0), ('layer1', 1), ('layer2', 3)]
    """
    found = {name: match for name in params if (match := _LAYER.fullmatch(name))}
    names = {int(match[2]): name for name, match in found.items()}
    stacked = params.get("layers")
    there = jax.tree.leaves(stacked)[0].shape[0] if stacked is not None else len(names)
    if not 1 <= depth <= there:
        raise ValueError(f"depth must be between 1 and the {there} layers there are, got {depth}")
    kept = [round(i * (there - 1) / max(depth - 1, 1)) for i in range(depth)]
    if stacked is not None:
        chosen = np.asarray(kept)
        return {**params, "layers": jax.tree.map(lambda x: x[chosen], stacked)}
    rest = {name: tree for name, tree in params.items() if name not in found}
    prefix = found[names[1]][1]
    return rest | {f"{prefix}{i}": params[names[k + 1]] for i, k in enumerate(kept, 1)}
