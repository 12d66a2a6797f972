"""Where a step runs: one device, a mesh of them by jit, or pmap. The mathematics does not change."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
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
    return _by_rule(mesh, rules, "", (tree, 0))[0]


def state_sharding(
    mesh: Mesh, state, frozen, rules: Mapping[str, Rules], *, replicas: bool = False
) -> tuple[Any, Any]:
    """(shardings of a `State`, of `frozen`) from the rules of each player and teacher by name.

    The rules of a name hold for its trained and its frozen parameters, for its moving average, and
    for whatever in its optimiser's state lies under a parameter's path in the parameter's shape.
    Everything else is replicated.

    Args:
        mesh: from `make_mesh`.
        state, frozen: arrays, or their shapes from `jax.eval_shape`: `jax.jit` with these shardings
            as `out_shardings` makes a state that was never whole on one device.
        rules: `{name: rules}`, see `tree_sharding`.
        replicas: whether the state leads with an axis of replicas, which the rules do not count.

    Raises:
        ValueError: rules of a name that is in neither; and as `tree_sharding`.
    """
    unknown = sorted(set(rules) - set(state.params) - set(frozen))
    if unknown:
        names = sorted({*state.params, *frozen})
        raise ValueError(f"sharding rules of {unknown}; there are {names}")
    everywhere = replicated(mesh)
    whole = jax.tree.map(lambda x: everywhere, state)
    params, opt, average = dict(whole.params), dict(whole.opt), dict(whole.average)
    kept = jax.tree.map(lambda x: everywhere, dict(frozen))
    for name, of_name in rules.items():
        # Replicas share what is frozen: it lacks their axis.
        trees = [(state.params.get(name, {}), int(replicas)), (frozen.get(name, {}), 0)]
        trained, base = _by_rule(mesh, of_name, f"{name}: ", *trees)
        if name in frozen:
            kept[name] = base
        if name in state.params:
            params[name] = trained
            leaves = jax.tree.leaves_with_path(state.params[name])
            found = {
                _names(path): (x.shape, sharding)
                for (path, x), sharding in zip(leaves, jax.tree.leaves(trained), strict=True)
            }
            opt[name] = _follow(state.opt[name], found, everywhere)
            if name in average:
                average[name] = trained
    return whole.replace(params=params, opt=opt, average=average), kept


def _by_rule(mesh, rules, owner, *trees):
    """The shardings of each of `trees` = (tree, number of leading axes that rules do not count)."""
    matched = [0] * len(rules)
    names = []

    def sharding(path, leaf, skip):
        name = "/".join(_names(path))
        names.append(name)
        for number, (pattern, axes) in enumerate(rules):
            if re.search(pattern, name):
                matched[number] += 1
                return _checked(mesh, f"{owner}{name}", leaf.shape[skip:], axes, skip)
        return replicated(mesh)

    shardings = [
        jax.tree_util.tree_map_with_path(
            lambda path, leaf, skip=skip: sharding(path, leaf, skip), t
        )
        for t, skip in trees
    ]
    idle = [pattern for (pattern, _), hits in zip(rules, matched, strict=True) if not hits]
    if idle:
        raise ValueError(f"{owner}rules {idle} match no parameter; there are {names}")
    return shardings


def _follow(tree, found, otherwise):
    """The sharding of the parameter whose path a leaf's path ends with, where the shapes agree."""

    def one(path, leaf):
        names = _names(path)
        for start in range(len(names)):
            shape, sharding = found.get(names[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return otherwise

    return jax.tree_util.tree_map_with_path(one, tree)


def _names(path):
    return tuple(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def _checked(mesh, name, shape, axes, skip):
    if len(axes) > len(shape):
        raise ValueError(f"{name} {shape} has fewer axes than its rule {tuple(axes)}")
    for size, axis in zip(shape, axes, strict=False):
        if axis is not None and axis not in mesh.shape:
            raise ValueError(f"{name}: the mesh has no axis {axis!r}, only {tuple(mesh.shape)}")
        if axis is not None and size % mesh.shape[axis]:
            raise ValueError(f"{name} {shape}: {axis}={mesh.shape[axis]} does not divide {size}")
    return NamedSharding(mesh, PartitionSpec(*[None] * skip, *axes))


def put(tree, sharding):
    """Arrays that every process holds whole, as global arrays of `sharding` (or a tree of them).

    An array that is global already is laid out anew where its sharding differs.
    """

    def one(x, s):
        if s.is_fully_addressable or not getattr(x, "is_fully_addressable", True):
            return jax.device_put(x, s)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), s))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, s, lambda index: x[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda x: one(x, sharding), tree)
    return jax.tree.map(one, tree, sharding)


def put_local(tree, sharding: NamedSharding):
    """The rows that each process holds of its own, as global arrays; `put` takes them as they are.

    Every process gives the rows that its devices get under `sharding`, in their order.
    """
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def settle(tree, mesh: Mesh):
    """Arrays that lie on the mesh keep their sharding; the others get a copy on every device."""

    def wanted(x):
        sharding = getattr(x, "sharding", None)
        there = isinstance(sharding, NamedSharding) and sharding.mesh == mesh
        return sharding if there else replicated(mesh)

    return put(tree, jax.tree.map(wanted, tree))


def fetch(tree):
    """The whole tree as NumPy arrays, on every process."""

    def one(x):
        if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
            return jax.device_get(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(one, tree)


def share_reader(read: Callable[[np.ndarray], Mapping[str, np.ndarray]], mesh: Mesh):
    """A stream's `read` where every process reads only its own share of each batch.

    Args:
        read: `indices [...] -> {column: [..., shape]}`, see `kdjax.data.streams.Stream`.
        mesh: the mesh that the stream's batches are trained on.

    Returns:
        A function like `read` whose columns are global arrays.
    """
    parts = _data_parts(mesh)

    def read_share(index):
        _check_divides({"index": index}, index.ndim - 1, parts)
        sharding = batch_sharding(mesh, index.ndim - 1)
        places = sharding.addressable_devices_indices_map(index.shape).values()
        rows = sorted({each[-1].indices(index.shape[-1])[:2] for each in places})
        mine = np.concatenate([index[..., start:stop] for start, stop in rows], axis=-1)
        return put_local(read(mine), sharding)

    return read_share


def _data_parts(mesh):
    return math.prod(mesh.shape[name] for name in DATA_AXES if name in mesh.shape)


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
        how: `"pjit"` is `jax.jit` over the mesh, where state and `frozen` keep the sharding they come
            with (see `settle`, `state_sharding`) and the batch is split over the data axes. `"pmap"` maps over the mesh's devices.
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
    compiled: dict[Any, Callable[..., Any]] = {}
    sharding = batch_sharding(mesh, examples)
    parts = _data_parts(mesh)

    def run(state, frozen, batch):
        _check_divides(batch, examples, parts)
        leaves, structure = jax.tree.flatten(state)
        layout = tuple(getattr(x, "sharding", None) for x in leaves)
        key = (structure, layout)
        if key not in compiled:
            # The state leaves as it came, so that no step compiles anew for the layout of the last
            # one; metrics are whole everywhere, so that every process can read them.
            named = [s if isinstance(s, NamedSharding) else None for s in layout]
            out = (jax.tree.unflatten(structure, named), replicated(mesh))
            compiled[key] = jax.jit(function, donate_argnums=0, out_shardings=out)
        return compiled[key](state, frozen, put(batch, sharding))

    return run


def _pmap(function, mesh, examples):
    devices = list(mesh.devices.flat)
    if len(devices) > len(mesh.local_devices):
        raise ValueError("pmap runs in one process; several need how='pjit'")
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
            name = "/".join(_names(path))
            raise ValueError(
                f"{parts} devices do not divide the {leaf.shape[axis]} examples of {name}"
            )
