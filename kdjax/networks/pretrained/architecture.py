"""What a family of public weights is to us: a network, and the names and layouts of its tensors.

A family is a function `from_config(config) -> Architecture` of the mapping that its `config.json`
holds; a file of families ends in `FAMILIES = {model_type: from_config}`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

TOKENS = jax.ShapeDtypeStruct((1, 8), "int32")


def same(x):
    """The tensor as it is."""
    return x


class Rule(NamedTuple):
    """One tensor of theirs and the leaf of ours that it is, for every layer at once.

    `theirs` is the tensor's name with `{i}` for the number of the layer, from 0. `ours` is the path
    of the leaf, joined by "/": with `{i}` (from 0) or `{n}` (from 1) every layer has a leaf of its
    own; without either, where `theirs` has one, the layers are stacked along the leaf's first axis.
    `to_ours` and `to_theirs` take the array of one layer to the other's layout and are inverse to each
    other. Where `to_ours` gives a view (transposes, splits of an axis) only what a shard needs is
    read from the file. `collection` is "params", or "model" for the state of batch statistics.
    """

    theirs: str
    ours: str
    to_ours: Callable[[np.ndarray], np.ndarray] = same
    to_theirs: Callable[[np.ndarray], np.ndarray] = same
    collection: str = "params"


class Architecture(NamedTuple):
    """A network with public weights.

    `name` is the function in `kdjax.networks` that makes it, `options` its keyword arguments. `tied`
    maps their names that are copies to the names they copy: they may be in the files, where they must
    be equal, and are not written. `config` is what is written as `config.json`. `unused` are
    regular expressions, of whole names of theirs, for tensors that the network has no use for;
    `renamed` are (expression, replacement) for names that older files have. `inputs` is what
    `init` is given. `constants` are tensors that are written and not read.
    """

    name: str
    options: Mapping[str, Any]
    rules: Sequence[Rule]
    tied: Mapping[str, str]
    config: Mapping[str, Any]
    unused: Sequence[str] = ()
    renamed: Sequence[tuple[str, str]] = ()
    inputs: Any = TOKENS
    constants: Mapping[str, np.ndarray] = {}


class LayoutError(ValueError):
    """Files that do not hold what their configuration says."""


def wanted(config: Mapping[str, Any], key: str, *, file: str = "config.json") -> Any:
    """`config[key]`, or an error that names it.

    >>> wanted({"model_type": "llama"}, "model_type")
    'llama'
    """
    if config.get(key) is None:
        kind = f", which a {config['model_type']} needs" if config.get("model_type") else ""
        raise LayoutError(f"{file} lacks {key!r}{kind}")
    return config[key]


def transposed(x):
    """A dense kernel of theirs, `[out, in]`, as ours, `[in, out]`; its own inverse."""
    return x.T


def split_outputs(heads):
    """(to_ours, to_theirs) of a projection to heads: `[H E, D]` and our `[D, H, E]`."""
    return (
        lambda x: x.T.reshape(x.shape[1], heads, -1),
        lambda x: x.reshape(x.shape[0], -1).T,
    )


def split_inputs(heads):
    """(to_ours, to_theirs) of a projection from heads: `[D, H E]` and our `[H, E, D]`."""
    return (
        lambda x: x.T.reshape(heads, -1, x.shape[0]),
        lambda x: x.reshape(-1, x.shape[-1]).T,
    )


def split_bias(heads):
    """(to_ours, to_theirs) of the bias of a projection to heads: `[H E]` and our `[H, E]`."""
    return (lambda x: x.reshape(heads, -1), lambda x: x.reshape(-1))


def convolution_kernel():
    """(to_ours, to_theirs) of a convolution: `[out, in, h, w]` and our `[h, w, in, out]`."""
    return (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))


def dense(theirs: str, ours: str, *, bias: bool = True) -> list[Rule]:
    """A dense layer."""
    rules = [Rule(f"{theirs}.weight", f"{ours}/kernel", transposed, transposed)]
    return [*rules, Rule(f"{theirs}.bias", f"{ours}/bias")] if bias else rules


def norm(theirs: str, ours: str) -> list[Rule]:
    """A normalisation with scale and bias."""
    return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def attention(
    heads: int,
    theirs: tuple[str, str, str, str],
    ours: str,
    *,
    bias: bool = True,
    out_bias: bool = True,
) -> list[Rule]:
    """An attention: `theirs` are the names of its queries, keys, values and output projection."""
    rules = []
    for name, our in zip(theirs, ("query", "key", "value"), strict=False):
        rules.append(Rule(f"{name}.weight", f"{ours}/{our}/kernel", *split_outputs(heads)))
        if bias:
            rules.append(Rule(f"{name}.bias", f"{ours}/{our}/bias", *split_bias(heads)))
    rules.append(Rule(f"{theirs[3]}.weight", f"{ours}/out/kernel", *split_inputs(heads)))
    if out_bias:
        rules.append(Rule(f"{theirs[3]}.bias", f"{ours}/out/bias"))
    return rules


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(config: Mapping[str, Any], key: str, default: str) -> str:
    """Our name of an activation."""
    name = config.get(key, default)
    if name not in _ACTIVATIONS:
        raise LayoutError(f"config.json: {key} is {name!r}, there are {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def model_class(config: Mapping[str, Any], suffixes: Mapping[str, Any]) -> tuple[str, Any]:
    """(the class that wrote the folder, the value in `suffixes` of what its name ends with).

    >>> model_class({"architectures": ["BertForMaskedLM"]}, {"ForMaskedLM": "masked"})
    ('BertForMaskedLM', 'masked')
    """
    names = config.get("architectures") or ["Model"]
    for suffix, value in suffixes.items():
        if names[0].endswith(suffix):
            return names[0], value
    raise LayoutError(
        f"config.json: architectures is {names}, there are those that end with {list(suffixes)}"
    )


def classes(config: Mapping[str, Any]) -> int:
    """The number of labels; a configuration with two need not name them."""
    labels = config.get("id2label")
    return len(labels) if labels else config.get("num_labels", 2)


def refuse(config: Mapping[str, Any], *, file: str = "config.json", **supported: Any) -> None:
    """Refuses settings that we do not have.

    Raises:
        LayoutError: a key whose value is none of those supported.
    """
    for key, values in supported.items():
        if key in config and config[key] not in values:
            raise LayoutError(
                f"{file}: {key} is {config[key]!r}, here it can be {', '.join(map(repr, values))}"
            )
