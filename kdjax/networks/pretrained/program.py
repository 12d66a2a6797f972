"""A network as a program that runs without its source: StableHLO by `jax.export`, weights beside it."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from kdjax.networks.network import Network
from kdjax.networks.pretrained import folder, tensors
from kdjax.networks.pretrained.architecture import LayoutError

PROGRAM, WEIGHTS, RECORD = "program.jax_export", "variables.safetensors", "program.json"


def save_program(
    path,
    network: Network,
    variables: Mapping[str, Any],
    inputs: Any,
    *,
    batch: int | None = None,
    platforms: Sequence[str] = (),
) -> None:
    """Writes the network's forward pass without training and its weights; the folder appears whole.

    Args:
        path: must not exist, or be empty.
        network: a Linen, NNX or plain network; the features it was made with are given too.
        variables: what its `apply` takes.
        inputs: arrays or shapes, whose first axis is the batch.
        batch: the one size that the program takes; None takes any.
        platforms: `("cpu", "cuda", "tpu")` or some of them; empty is that of this process.

    Raises:
        FileExistsError: a folder that has files.
        ImportError: without the package flatbuffers, which `jax.export` writes with.
        Exception: what JAX says of a network that cannot be traced for any batch; give one then.
    """
    path = Path(path)
    folder.refuse_filled(path)

    def forward(variables, inputs):
        outputs, _ = network.apply(variables, inputs, train=False, rngs={})
        logits = {} if outputs.logits is None else {"logits": outputs.logits}
        return {**logits, **outputs.features}

    variables = {name: tree for name, tree in variables.items() if jax.tree.leaves(tree)}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    size = "batch" if batch is None else str(batch)
    arguments = export.symbolic_args_specs(inputs, f"{size}, ...")
    exported = export.export(jax.jit(forward), platforms=tuple(platforms) or None)(
        shapes, arguments
    )
    pending = {
        name: tensors.Pending(np.dtype(x.dtype), x.shape, functools.partial(np.asarray, x))
        for name, x in folder.flat(variables)
    }
    program = bytes(exported.serialize())
    record = {
        "sha256": hashlib.sha256(program).hexdigest(),
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
    }
    with folder.replacing(path) as partial:
        (partial / PROGRAM).write_bytes(program)
        (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        tensors.write_file(partial / WEIGHTS, pending)


def load_program(path) -> Callable[[Any], dict[str, jax.Array]]:
    """The function of a folder that `save_program` wrote: `inputs -> {"logits", ..features}`.

    It needs no model code.

    Raises:
        LayoutError: a file that is missing or damaged, weights that are not the program's.
    """
    path = Path(path)
    for name in (PROGRAM, WEIGHTS, RECORD):
        if not (path / name).is_file():
            raise LayoutError(f"{path} has no {name}")
    stored = tensors.open_file(path / WEIGHTS)
    program = (path / PROGRAM).read_bytes()
    if hashlib.sha256(program).hexdigest() != json.loads((path / RECORD).read_text())["sha256"]:
        raise LayoutError(
            f"{path / PROGRAM} is not the program that {RECORD} records: it is damaged"
        )
    exported = export.deserialize(bytearray(program))
    _check(exported, stored)
    variables = folder.nested({name: jnp.asarray(t.array()) for name, t in stored.items()})
    return lambda inputs: exported.call(variables, inputs)


def _check(exported, stored):
    """Holds the weights' names, shapes and dtypes against what the program was traced with."""
    count = exported.in_tree.num_leaves
    numbered = jax.tree.unflatten(exported.in_tree, exported.in_avals[:count])
    wanted = dict(folder.flat(numbered[0][0]))
    for name in sorted(wanted.keys() | stored.keys()):
        if name not in stored or name not in wanted:
            lacks = WEIGHTS if name not in stored else PROGRAM
            raise LayoutError(f"{lacks} has no {name!r}{folder.near(name, {*wanted, *stored})}")
        if (stored[name].shape, stored[name].dtype) != (wanted[name].shape, wanted[name].dtype):
            raise LayoutError(
                f"{WEIGHTS}: {name!r} is {stored[name].dtype} {stored[name].shape}, the program "
                f"takes {wanted[name].dtype} {wanted[name].shape}"
            )
