"""What an objective sees of the state, the batch and the networks."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

from kdjax.networks.network import Network, Outputs


def stream_number(name: str) -> int:
    """A 31-bit number for a stream of random numbers, the same on every machine."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


class Scope:
    """The arguments of an objective. Pure: nothing that an objective does here changes the state.

    Attributes: `params` (trained in this phase: live; the others without gradient), `frozen`,
    `average`, `memory`, `hyper`, `step`, `batch`, and `trained`: the networks that were applied as in
    training.
    """

    def __init__(self, networks, state, live, frozen, batch, key, *, axis, micro_batches):
        self.params = {**jax.lax.stop_gradient(state.params), **live}
        self.frozen: Mapping[str, Any] = frozen
        self.average, self.memory, self.hyper = state.average, state.memory, state.hyper
        self.step, self.batch = state.step, batch
        self._networks, self._model, self._live, self._key = networks, state.model, live, key
        self._axis, self._micro_batches = axis, micro_batches
        self.trained: set[str] = set()
        self._forwards: dict[Any, list[tuple[Any, Any, tuple[Outputs, Any]]]] = {}

    def apply(self, name, inputs, *, params=None, train=None, rngs=None) -> tuple[Outputs, Any]:
        """The outputs of the network `name` and its new model state.

        `train` is true by default for what this phase trains, and for nothing else. Without `rngs`,
        a training pass draws from the stream `dropout/NAME`. Objectives that are joined and ask for
        the same pass share it: one forward pass per batch however many terms read it.
        """
        if name not in self._networks:
            raise ValueError(f"there is no network {name!r}; there are {sorted(self._networks)}")
        train = name in self._live if train is None else train
        network: Network = self._networks[name]
        if train and network.couples and (self._axis is not None or self._micro_batches > 1):
            where = "pmap" if self._axis is not None else "micro_batches > 1"
            raise ValueError(
                f"network {name!r} couples the examples of a batch in training (batch statistics): "
                f"under {where} it would see a part of the batch; use pjit and micro_batches=1"
            )
        if train:
            self.trained.add(name)
        shared = params is None and rngs is None
        asked = (name, train, tuple(map(id, jax.tree.leaves(inputs))))
        # A pass inside the objective's own scan or jit ends with it: nobody outside may have it.
        trace = get_opaque_trace_state()
        for its_trace, _, result in self._forwards.get(asked, ()) if shared else ():
            if its_trace == trace:
                return result
        if rngs is None:
            rngs = {"dropout": self.rng(f"dropout/{name}")} if train else {}
        result = network.apply(self._variables(name, params), inputs, train=train, rngs=rngs)
        if shared:
            # The inputs are kept: their ids stay theirs.
            self._forwards.setdefault(asked, []).append((trace, inputs, result))
        return result

    def _variables(self, name, params):
        frozen = self.frozen.get(name, {})
        if params is None and name in self.params:
            params = self.params[name]
        elif params is None:
            params, frozen = frozen, {}  # nothing of it is trained: a teacher
        model = self._model.get(name, self.frozen.get(f"{name}/model", {}))
        return {"params": params, "frozen": frozen, "model": model}

    def rng(self, stream, index=None):
        """The key of a named stream at this step, phase and repeat; one per example for `index`.

        What is drawn per example must come from per-example keys: then placement does not change it.
        """
        key = jax.random.fold_in(self._key, stream_number(stream))
        return key if index is None else jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def gather(self, tree):
        """The global batch of every array, on every device; itself under pjit."""
        if self._axis is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self._axis, tiled=True), tree)
