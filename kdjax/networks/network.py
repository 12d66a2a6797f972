"""The seam between kdjax and any model: a pair of pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax


class Outputs(NamedTuple):
    """What a network gives: logits `[..., C]` and the features that were asked for, by name.

    `logits` is None for what does not classify (a projector: its result is a feature).
    """

    logits: jax.Array | None
    features: Mapping[str, jax.Array] = {}


class Network(NamedTuple):
    """A model as losses and steps see it.

    `init(key, inputs) -> {"params": tree, "model": tree}`, where `model` is state that the forward
    pass updates (batch statistics) and may be empty. `inputs` may be `jax.ShapeDtypeStruct`s.
    `apply(variables, inputs, *, train, rngs) -> (Outputs, new_model_state)` with
    `variables = {"params", "frozen", "model"}`; `frozen` is merged under `params`. With
    `train=False` the state comes back as it went in. `rngs` are keys by stream; a key per example,
    shape `[B]`, makes the draw of an example independent of its place in the batch.
    `couples` says that examples influence each other (batch statistics in training).
    """

    init: Callable[..., dict[str, Any]]
    apply: Callable[..., tuple[Outputs, Any]]
    couples: bool = False
