"""Where a step runs: one device, a mesh of them by jit, or pmap. The mathematics does not change."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXES = ("data", "fsdp")  # the axes over which a batch is split
Rules = Sequence[tuple[str, tuple[str | None, ...]]]


def make_mesh(spec: str = "data=-1", devices=None) -> Mesh:
    """A mesh from a string such as `"data=-1,fsdp=4"`: axis sizes, one of them -1 for the rest.

    The axes are of the Auto kind: `x @ x.T` on a batch split over devices means the global product.

    Raises:
        ValueError: sizes that do not divide the devices.
    """
    devices = jax.devices() if devices is None else devices
    try:
        sizes = {name: int(size) for name, size in (part.split("=") for part in spec.split(","))}
    except ValueError:
        raise ValueError(f"mesh must look like 'data=-1,fsdp=4', got {spec!r}") from None
    wild = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    bad = [name for name, size in sizes.items() if size < 1 and size != -1]
    if bad or len(wild) > 1:
        raise ValueError(f"mesh {spec!r}: sizes are above 0 and at most one is -1")
    if wild and len(devices) % known == 0:
        sizes[wild[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(f"mesh {spec!r} does not divide the {len(devices)} devices")
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def batch_sharding(mesh: Mesh, batch_axis: int = 0) -> NamedSharding:
    """Splits axis `batch_axis` over the mesh's data axes."""
    axes = tuple(name for name in DATA_AXES if name in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, axes or None))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def tree_sharding(mesh: Mesh, tree, rules: Rules = ()):
    """A sharding for every leaf: that of the first rule whose pattern is found in the leaf's path.

    A rule is `(regular expression, axis names)`, such as `("dense.*/kernel", (None, "fsdp"))`; paths
    are joined by "/". A leaf without a rule is replicated.

    Raises:
        ValueError: a rule that matches no leaf; an axis that does not divide its dimension.
    """
    matched = [0] * len(rules)

    def one(path, leaf):
        name = "/".join(_key(part) for part in path)
        for number, (pattern, axes) in enumerate(rules):
            if re.search(pattern, name):
                matched[number] += 1
                return _checked(mesh, name, leaf, axes)
        return replicated(mesh)

    shardings = jax.tree_util.tree_map_with_path(one, tree)
    idle = [pattern for (pattern, _), hits in zip(rules, matched, strict=True) if not hits]
    if idle:
        names = ["/".join(map(_key, path)) for path, _ in jax.tree.leaves_with_path(tree)]
        raise ValueError(f"rules {idle} match no parameter; there are {names}")
    return shardings


def _key(part):
    return str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part))))


def _checked(mesh, name, leaf, axes):
    for size, axis in zip(leaf.shape, axes, strict=False):
        if axis is not None and axis not in mesh.shape:
            raise ValueError(f"{name}: the mesh has no axis {axis!r}, only {tuple(mesh.shape)}")
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(
                f"{name} {leaf.shape}: {axis}={mesh.shape[axis]} does not divide {size}"
            )
    if len(axes) > len(leaf.shape):
        raise ValueError(f"{name} {leaf.shape} has fewer axes than its rule {axes}")
    return NamedSharding(mesh, PartitionSpec(*axes))


def put(tree, sharding):
    """Arrays that every process holds whole, as global arrays of `sharding` (or a tree of them)."""

    def one(x, s):
        if s.is_fully_addressable:
            return jax.device_put(x, s)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), s))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, s, lambda index: x[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)


def place(
    builder: Callable[[str | None], Callable[..., Any]],
    mesh: Mesh | None = None,
    how: str = "pjit",
    *,
    replicas: tuple[str, int] | None = None,
    batch_axis: int = 0,
) -> Callable[..., Any]:
    """Compiles `builder(axis) -> f(state, frozen, batch) -> (state, metrics)` for the devices.

    Args:
        builder: gets the mapped axis under pmap, else None; see `build_train_step`'s `axis`.
        mesh: from `make_mesh`; None is every device on the data axis.
        how: `"pjit"` is `jax.jit` over the mesh, where arrays keep the sharding they come with and
            the batch is split over the data axes. `"pmap"` maps over the mesh's devices.
        replicas: `("seed", n)` runs n states of one program: state, batch and metrics get an axis of
            n; `frozen` is shared.
        batch_axis: where examples lie in the leaves of `batch`: 0 for a step, 1 for a chunk of steps.
            A replica axis comes just before it.

    Returns:
        `f(state, frozen, batch) -> (state, metrics)`; the state is donated, `frozen` is not.

    Raises:
        ValueError: an unknown `how`, a batch that the devices do not divide.
    """
    mesh = make_mesh() if mesh is None else mesh
    if how not in ("pjit", "pmap"):
        raise ValueError(f"how must be 'pjit' or 'pmap', got {how!r}")
    function = builder("devices" if how == "pmap" else None)
    examples = batch_axis
    if replicas is not None:
        function = jax.vmap(function, in_axes=(0, None, batch_axis), out_axes=(0, batch_axis))
        examples = batch_axis + 1
    if how == "pjit":
        return _pjit(function, mesh, examples)
    return _pmap(function, mesh, examples)


def _pjit(function, mesh, examples):
    compiled = jax.jit(function, donate_argnums=0)
    sharding = batch_sharding(mesh, examples)
    parts = math.prod(mesh.shape[name] for name in DATA_AXES if name in mesh.shape)

    def run(state, frozen, batch):
        _check_divides(batch, examples, parts)
        return compiled(state, frozen, put(batch, sharding))

    return run


def _pmap(function, mesh, examples):
    devices = list(mesh.devices.flat)
    compiled = jax.pmap(
        function,
        axis_name="devices",
        in_axes=(None, None, examples),
        out_axes=None,
        devices=devices,
        donate_argnums=0,
    )

    def split(x):
        parts, rest = len(devices), x.shape[examples + 1 :]
        return x.reshape(*x.shape[:examples], parts, x.shape[examples] // parts, *rest)

    def run(state, frozen, batch):
        _check_divides(batch, examples, len(devices))
        return compiled(state, frozen, jax.tree.map(split, batch))

    return run


def _check_divides(batch, axis, parts):
    for path, leaf in jax.tree.leaves_with_path(batch):
        if leaf.shape[axis] % parts:
            name = "/".join(map(_key, path))
            raise ValueError(
                f"{parts} devices do not divide the {leaf.shape[axis]} examples of {name}"
            )
