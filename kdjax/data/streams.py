"""What the training loop sees of data: a plan, columns, and what is done to each example.

A column is an array whose leading axis counts the source's examples. `resident` columns live on the
device and are gathered inside the scan; a host-read stream reads the same examples by the same plan
and hands them to the scan. Both give the same batches, augmentation included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from kdjax.data import plans

RESERVED = ("index", "where")


@dataclass(frozen=True, eq=False)
class Stream:
    """A named supply of batches.

    Args:
        plan: which examples each (seed, step) sees.
        resident: columns `[examples, ...]` that are kept on the device.
        read: `indices [...] -> {column: [..., shape]}`, for the columns that are read on the host
            instead. A stream may have both: labels resident and images read, say.
        augment: `(key, example) -> example`, pure jax, for one example as a dict; what turns uint8
            into normalised floats belongs here. It runs once, so student and teacher see one view.

    >>> stream = Stream(plans.IndexPlan(np.arange(6), 2), {"image": np.zeros((6, 8, 8, 1))})
    >>> x = jax.tree.map(lambda leaf: leaf[0], stream.xs(0, 0, 5))
    >>> sorted(stream.batch(stream.resident, x, jax.random.key(0)))
    ['image', 'index']
    """

    plan: plans.IndexPlan
    resident: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    augment: Callable[[Any, dict[str, Any]], dict[str, Any]] | None = None

    def __post_init__(self):
        if not self.resident and self.read is None:
            raise ValueError("a stream needs resident columns, a read function, or both")
        _check_names(self.resident)
        lengths = {name: len(column) for name, column in self.resident.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"resident columns must have one length, got {lengths}")

    def xs(self, seeds: int | Sequence[int], start: int, steps: int) -> dict[str, np.ndarray]:
        """The scan's `xs` for steps `start` to `start + steps`.

        Returns:
            `{"index": int32[steps, B]}` for one seed and `int32[steps, seeds, B]` for a sequence
            of them, plus the columns that are read on the host, with those leading axes.
        """
        return self._columns_of(self.plan.chunk(seeds, start, steps))

    def epoch(self, seed: int = 0, start: int = 0, steps: int | None = None):
        """The `xs` of one pass over the plan's examples in their order, for evaluation.

        The last batch is filled up with the first example, under `where` False: a total over
        `where` is exact for any batch size and number of devices.

        Args:
            seed: which subset, where the plan's examples depend on the seed.
            start: the first batch.
            steps: how many batches; all that are left by default.

        Returns:
            `{"index": int32[batches, B], "where": bool[batches, B]}` plus the host-read columns.
        """
        examples, size = self.plan.examples_of(seed), self.plan.batch_size
        batches = -(-len(examples) // size)
        stop = batches if steps is None else min(start + steps, batches)
        position = np.arange(start * size, stop * size).reshape(-1, size)
        where = position < len(examples)
        index = examples[np.where(where, position, 0)]
        return {**self._columns_of(index), "where": where}

    def batch(self, resident, x, key):
        """One batch, traced: gather, then augment each example.

        Args:
            resident: the stream's resident columns as device arrays.
            x: one step of `xs` (or of `epoch`), without the axes of steps and seeds.
            key: the step's key. Example i uses `fold_in(key, i)`, so neither its place in the batch
                nor on the devices changes what is drawn for it.

        Returns:
            `{"index": int32[B], column: [B, ...]}`.
        """
        index = x["index"]
        columns = {**{name: column[index] for name, column in resident.items()}, **x}
        if self.augment is None:
            return columns
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        return jax.vmap(self.augment)(keys, columns)

    def _columns_of(self, index):
        rows = min((len(column) for column in self.resident.values()), default=None)
        if rows is not None and index.size and index.max() >= rows:
            raise ValueError(
                f"the plan names example {index.max()} and the resident columns have {rows} rows"
            )
        if self.read is None:
            return {"index": index}
        columns = self.read(index)
        _check_names(columns)
        twice = sorted(set(columns) & set(self.resident))
        if twice:
            raise ValueError(f"columns {twice} are both resident and read on the host")
        return {**columns, "index": index}


def host_reader(columns: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], dict]:
    """A `read` over arrays that stay on the host, a `np.memmap` as well."""
    return lambda index: {name: column[index] for name, column in columns.items()}


def epoch_batches(columns, batch_size, *, prepare=None):
    """The rows of `columns` once, in order, as full batches on the device.

    Args:
        columns: `{name: [N, ...]}`.
        batch_size: B.
        prepare: the stream's per-example function without its random part, e.g. `normalise`.

    Returns:
        `{name: [⌈N / B⌉, B, ...]}` with `"index"`, and `"where"`, False where the last batch is
        filled up.

    >>> batches = epoch_batches({"label": np.arange(5)}, 2)
    >>> batches["label"].shape, int(batches["where"].sum())
    ((3, 2), 5)
    """
    rows = len(next(iter(columns.values())))
    stream = Stream(plans.IndexPlan(np.arange(rows), batch_size), columns, augment=prepare)

    def batches(resident, xs):
        return jax.lax.map(lambda x: stream.batch(resident, x, jax.random.key(0)), xs)

    return jax.jit(batches)(dict(columns), stream.epoch())


def _check_names(columns):
    reserved = [name for name in columns if name in RESERVED]
    if reserved:
        raise ValueError(f"column names {reserved} are the stream's own: rename them")
