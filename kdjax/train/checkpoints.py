"""Checkpoints that are verified: Orbax restores a flipped bit without a word, a sha256 does not."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from kdjax.networks.fingerprint import fingerprint
from kdjax.train.placement import fetch

_log = logging.getLogger(__name__)

# What Orbax and TensorStore raise on a file that is cut, changed or missing.
_DAMAGE = (ValueError, KeyError, TypeError, OSError, RuntimeError)


class Restored(NamedTuple):
    """What a checkpoint held; the record has what was `handed`, where something was."""

    state: Any
    record: dict[str, Any]


class Checkpoints:
    """The saves of one row of a run, `DIRECTORY/STEP`: the state and a JSON record beside it.

    The record holds the step, the sha256 of the state and whatever the caller adds (configuration,
    seeds, layout, the teachers' fingerprints). Teachers are not in it. A round of a repetition also
    keeps what it was `handed` by the one before, whose own save it replaces, with a sha256 too.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2):
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._manager = self._open()

    def _open(self):
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True)
        return ocp.CheckpointManager(self._directory, options=options)

    def latest_step(self) -> int | None:
        """The newest step on disk, verified or not."""
        return self._manager.latest_step()

    def save(self, step: int, state, record: Mapping[str, Any], handed=None) -> None:
        """Writes in the background; `close` waits. Saving a step that is there does nothing.

        Raises:
            TypeError: `handed` is not made of dicts with string keys, lists, None and arrays.
        """
        if step in self._manager.all_steps():
            return
        plain = _without_keys(state)
        held = fetch(plain)
        entry = {**record, "step": step, "structure": _structure(state)}
        entry["sha256"] = fingerprint(held)
        entry["players"] = {name: fingerprint(x) for name, x in getattr(held, "params", {}).items()}
        items = {"state": ocp.args.StandardSave(plain)}
        if handed is not None:
            leaves, entry["handed"] = _described(handed)
            if leaves:
                items["handed"] = ocp.args.StandardSave(leaves)
        args = ocp.args.Composite(**items, record=ocp.args.JsonSave(entry))
        if not self._manager.save(step, args=args):
            raise RuntimeError(f"{self._directory}: the checkpoint of step {step} was not written")

    def restore(self, like: Any | Callable[[Any], Any]) -> Restored | None:
        """The newest checkpoint that verifies, laid out like the state `like`; None if there is none.

        `like` may be a function of what the checkpoint was `handed`. A step that is damaged is moved
        to `damaged/` beside the row's directory, said so, and the one before it is tried.

        Raises:
            ValueError: a sound checkpoint of a state with other names, shapes or dtypes.
        """
        self._manager.wait_until_finished()
        while (step := self._manager.latest_step()) is not None:
            try:
                record = self._read_record(step)
                structure, digest = record["structure"], record["sha256"]
                handed = self._read_handed(step, record)
            except _DAMAGE as error:
                self._set_aside(step, error)
                continue
            template = like(handed) if callable(like) else like
            if structure != _structure(template):
                raise ValueError(
                    f"{self._directory}/{step} holds another state: other names, shapes or dtypes"
                )
            try:
                state = self._read_state(step, template, digest)
            except _DAMAGE as error:
                self._set_aside(step, error)
                continue
            return Restored(state, record if handed is None else {**record, "handed": handed})
        return None

    def read(self) -> Restored | None:
        """The newest checkpoint as nested dicts of arrays, for a tool that has no state like it.

        Raises:
            ValueError: parameters of a player that are not those that were saved.
        """
        record = self.record()
        if record is None:
            return None
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state = fetch(self._manager.restore(record["step"], args=args)["state"])
        for name, digest in record.get("players", {}).items():
            _verify(state["params"][name], digest, f"player {name!r}")
        return Restored(state, record)

    def record(self) -> dict[str, Any] | None:
        """The record of the newest checkpoint whose record can be read; None without one."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read_record(step)
            except _DAMAGE as error:
                _log.warning("%s/%d: no record: %s", self._directory, step, _first_line(error))
        return None

    def _read_record(self, step):
        args = ocp.args.Composite(record=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["record"]

    def _read_handed(self, step, record):
        if "handed" not in record:
            return None
        entry, leaves = record["handed"], {}
        if entry["leaves"]:
            # NumPy's own arrays: on a device, 64 bits would become 32.
            like = {
                name: np.zeros(shape, dtype) for name, (shape, dtype) in entry["leaves"].items()
            }
            args = ocp.args.Composite(handed=ocp.args.StandardRestore(like))
            leaves = self._manager.restore(step, args=args)["handed"]
        _verify(leaves, entry["sha256"], "handed")
        return jax.tree.map(lambda name: leaves[name], entry["tree"])

    def _read_state(self, step, like, digest):
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _without_keys(like))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        state = self._manager.restore(step, args=args)["state"]
        _verify(fetch(state), digest, "state")
        return _with_keys(state, like)

    def _set_aside(self, step, error):
        aside = self._directory.parent / "damaged"
        aside.mkdir(exist_ok=True)
        number = len(list(aside.iterdir()))
        target = aside / f"{self._directory.name}-{step}-{number}"
        _log.warning(
            "%s/%d is damaged (%s): moved to %s", self._directory, step, _first_line(error), target
        )
        self._manager.close()
        if jax.process_index() == 0:
            shutil.move(self._directory / str(step), target)
        multihost_utils.sync_global_devices(f"{self._directory.name}-{step} is set aside")
        self._manager = self._open()

    def wait(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the directory."""
        self.wait()
        self._manager.close()


def _verify(tree, digest, what):
    found = fingerprint(tree)
    if found != digest:
        raise ValueError(f"its {what}'s sha256 is {found[:12]}, the record says {digest[:12]}")


def _described(handed):
    """(the leaves by number, the JSON that tells their tree, shapes, dtypes and sha256)."""
    found, structure = jax.tree.flatten(handed)
    leaves = {str(number): np.asarray(x) for number, x in enumerate(fetch(found))}
    tree = jax.tree.unflatten(structure, list(leaves))
    try:
        same = jax.tree.structure(json.loads(json.dumps(tree))) == structure
    except TypeError:
        same = False
    if not same:
        raise TypeError(
            "what a repeated stage is handed must be made of dicts with string keys, lists, None and "
            f"arrays, to be read back from a checkpoint: got {structure}"
        )
    shapes = {name: [list(x.shape), x.dtype.name] for name, x in leaves.items()}
    return leaves, {"tree": tree, "leaves": shapes, "sha256": fingerprint(leaves)}


def _structure(state):
    """One line that changes with any name, shape or dtype."""
    leaves = jax.tree.leaves_with_path(_without_keys(state))
    lines = [f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}" for path, x in leaves]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _without_keys(tree):
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _with_keys(tree, like):
    return jax.tree.map(lambda x, l: jax.random.wrap_key_data(x) if _is_key(l) else x, tree, like)


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
