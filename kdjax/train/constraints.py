"""What placement asks of the inside of a step, as functions that know the mesh for those who do not.

Models name the axes of their activations and hand them to `constrain(x, names)`; objectives hand a
loss with a large gradient of its own to `per_shard(function)`. Both are arguments: a model or a method
works the same without them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.train.placement import DATA_AXES

Axis = str | tuple[str, ...] | None


def constrainer(mesh: Mesh, axes: Mapping[str, Axis]) -> Callable[..., jax.Array]:
    """`constrain(x, names)`: x, split over the mesh axes that `axes` has for its axes' names.

    A name that `axes` does not have is not split, nor an axis of size one: networks are created with
    a single example.

    Raises:
        ValueError: a mesh axis that the mesh does not have; at the first trace, names that do not fit
            an array, a mesh axis that does not divide it.
    """
    for name, axis in axes.items():
        unknown = [a for a in _tuple(axis) if a not in mesh.shape]
        if unknown:
            raise ValueError(f"{name}: the mesh has no axes {unknown}, only {tuple(mesh.shape)}")

    def constrain(x, names):
        if len(names) != x.ndim:
            raise ValueError(f"an array {x.shape} has not the axes {names}")
        spec = []
        for size, name in zip(x.shape, names, strict=True):
            axis = None if size == 1 else axes.get(name)
            parts = math.prod(mesh.shape[part] for part in _tuple(axis))
            if size % parts:
                raise ValueError(f"{name} {axis}: {parts} do not divide the {size} of {x.shape}")
            spec.append(axis)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*spec)))

    return constrain


def per_shard(mesh: Mesh) -> Callable[..., Any]:
    """`split(function)(examples, shared)`: the sum of `function` over the parts of the batch.

    `examples` is a tree of arrays split along their first axis over the mesh's data axes, `shared` one
    that every part reads whole; over other mesh axes both stay split as they are. `function` returns
    sums over its examples. What it accumulates, the gradient of a large head say, is then added up
    over devices once, and not wherever the batch is reduced inside.
    """
    axes = tuple(name for name in DATA_AXES if name in mesh.shape)

    parts = math.prod(mesh.shape[name] for name in axes)
    by_part = PartitionSpec(axes)

    def split(function):
        def part(examples, shared):
            own = jax.tree.map(lambda x: x[0], shared)
            return jax.tree.map(lambda x: x[None], function(examples, own))

        def whole(examples, shared):
            # A copy for each part, so that its gradient leaves as a part's and is summed outside:
            # inside, XLA's CPU compiler aborts on a sum of bfloat16 over devices (jaxlib 0.10.2).
            copies = jax.tree.map(lambda x: jnp.broadcast_to(x[None], (parts, *x.shape)), shared)
            mapped = jax.shard_map(
                part,
                mesh=mesh,
                in_specs=(by_part, by_part),
                out_specs=by_part,
                axis_names=set(axes),
                # The loss starts its sums from plain zeros; nothing is reduced inside.
                check_vma=False,
            )
            return jax.tree.map(lambda x: x.sum(axis=0), mapped(examples, copies))

        return whole

    return split


def _tuple(axis: Axis) -> tuple[str, ...]:
    if axis is None:
        return ()
    return axis if isinstance(axis, tuple) else (axis,)
