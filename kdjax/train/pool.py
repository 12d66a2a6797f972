"""Examples that the run itself makes: kept in its state, and so in its checkpoints."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from kdjax.data.streams import Stream


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(Stream):
    """A stream over examples that the run makes (generated, selected, remembered from old tasks).

    The examples are a tree of arrays in `state.memory[memory]`, from `Pool.empty` and `Pool.add`: a
    phase, a `fit` or a host function fills it, checkpoints keep it, and under vmapped seeds every
    seed has its own. Examples that can be made again from (stage, seed) need no pool: a plain
    `Stream` from `Stage.streams(previous)` is rebuilt when a run goes on.

    Args:
        plan: over `np.arange(capacity)`. While the pool holds n < capacity examples, number i means
            example i mod n; a batch's `where` is false as long as it holds none.
        augment: see `Stream`; the example has `where` too.
        memory: where the state keeps the examples.

    >>> kept = Pool.empty(4, {"label": jnp.int32(0)})
    >>> kept = Pool.add(kept, {"label": jnp.array([7, 8, 9])}, jnp.array([True, False, True]))
    >>> kept["columns"]["label"], int(kept["written"])
    (Array([7, 9, 0, 0], dtype=int32), 2)
    """

    memory: str = "pool"

    def __post_init__(self):
        if self.resident or self.read is not None:
            raise ValueError("a pool's examples are in the state: no resident columns, no read")

    @staticmethod
    def empty(capacity: int, example) -> dict[str, Any]:
        """Room for `capacity` examples like `example`, `{column: an array or its shape}`."""
        if capacity < 1:
            raise ValueError(f"a pool's capacity must be at least 1, got {capacity}")
        columns = {name: jnp.zeros((capacity, *x.shape), x.dtype) for name, x in example.items()}
        return {"columns": columns, "written": jnp.zeros((), jnp.int32)}

    @staticmethod
    def add(held, rows, where=None) -> dict[str, Any]:
        """`held` with the rows `{column: [B, ...]}` that `where` `[B]` keeps, over the oldest.

        Raises:
            ValueError: other columns than the pool has, or more rows than it holds.
        """
        columns = held["columns"]
        if sorted(rows) != sorted(columns):
            raise ValueError(f"the pool has columns {sorted(columns)}, the rows {sorted(rows)}")
        capacity = len(next(iter(columns.values())))
        count = len(next(iter(rows.values())))
        if count > capacity:
            raise ValueError(f"{count} rows do not fit in a pool of {capacity}")
        kept = jnp.ones(count, bool) if where is None else where
        row = (held["written"] + jnp.cumsum(kept) - 1) % capacity
        row = jnp.where(kept, row, capacity)  # past the end: dropped
        written = held["written"] + kept.sum(dtype=jnp.int32)
        return {
            "columns": {
                name: x.at[row].set(rows[name], mode="drop") for name, x in columns.items()
            },
            "written": written,
        }

    def batch(self, held, x, key):
        """One batch, traced, of the examples `held` by the state, with `where`; see `Stream.batch`."""
        columns, index = held["columns"], x["index"]
        size = jnp.minimum(held["written"], len(next(iter(columns.values()))))
        if "where" in x:  # one pass in order: every example once
            where = x["where"] & (index < size)
        else:
            index = index % jnp.maximum(size, 1)
            where = jnp.broadcast_to(size > 0, index.shape)
        return super().batch(columns, {**x, "index": index, "where": where}, key)
