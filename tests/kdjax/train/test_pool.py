"""Pools: what is kept, what is overwritten, what a batch of them holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data.plans import IndexPlan
from kdjax.train import Pool


def empty(capacity=5):
    return Pool.empty(capacity, {"value": jax.ShapeDtypeStruct((2,), jnp.float32)})


def rows(*values):
    return {"value": jnp.array([[v, -v] for v in values], jnp.float32)}


def firsts(held):
    return np.asarray(held["columns"]["value"][:, 0]).tolist()


def test_the_oldest_rows_are_overwritten_and_masked_rows_never_written():
    held = Pool.add(empty(), rows(1, 2, 3))
    held = Pool.add(held, rows(4, 99, 5, 6), jnp.array([True, False, True, True]))
    assert firsts(held) == [6, 2, 3, 4, 5] and int(held["written"]) == 6
    assert firsts(Pool.add(held, rows(7), jnp.array([False]))) == firsts(held)


def test_adding_is_the_same_compiled_and_per_seed():
    held = Pool.add(empty(), rows(1, 2, 3, 4))
    new, kept = rows(5, 6, 7), jnp.array([True, True, False])
    compiled = jax.jit(Pool.add)(held, new, kept)
    assert firsts(compiled) == firsts(Pool.add(held, new, kept)) == [6, 2, 3, 4, 5]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), held, empty())
    both = jax.vmap(Pool.add, (0, None, None))(stacked, new, kept)
    assert firsts(jax.tree.map(lambda x: x[0], both)) == [6, 2, 3, 4, 5]
    assert firsts(jax.tree.map(lambda x: x[1], both)) == [5, 6, 0, 0, 0]


def read(pool, held, step):
    x = jax.tree.map(lambda leaf: leaf[0], pool.xs(0, step, 1))
    return pool.batch(held, x, jax.random.key(0))


def test_a_batch_reads_filled_rows_only():
    pool = Pool(IndexPlan(np.arange(5), 5))
    batch = read(pool, empty(), 0)
    assert not batch["where"].any()
    partly = Pool.add(empty(), rows(1, 2))
    batch = read(pool, partly, 0)
    assert batch["where"].all() and sorted(np.asarray(batch["value"][:, 0])) == [1, 1, 1, 2, 2]
    full = Pool.add(partly, rows(3, 4, 5))
    batch = read(pool, full, 3)
    assert sorted(np.asarray(batch["value"][:, 0])) == [1, 2, 3, 4, 5]
    order = IndexPlan(np.arange(5), 5).indices(0, 3)
    assert np.array_equal(batch["index"], order)
    assert np.array_equal(batch["value"][:, 0], order + 1)


def test_one_pass_sees_every_filled_row_once():
    pool = Pool(IndexPlan(np.arange(5), 2))
    held = Pool.add(empty(), rows(1, 2, 3))
    seen = []
    for batch in range(3):
        x = jax.tree.map(lambda leaf, batch=batch: leaf[batch], pool.epoch())
        got = pool.batch(held, x, jax.random.key(0))
        seen += np.asarray(got["value"][:, 0])[np.asarray(got["where"])].tolist()
    assert seen == [1, 2, 3]


def test_examples_are_augmented_with_keys_of_their_own():
    def noisy(key, example):
        return {**example, "value": example["value"] + jax.random.normal(key, (2,))}

    held = Pool.add(empty(), rows(1, 1, 1, 1, 1))
    values = read(Pool(IndexPlan(np.arange(5), 5), augment=noisy), held, 0)["value"]
    assert len(np.unique(np.asarray(values))) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pool.empty(0, {"value": jnp.zeros(2)}), "at least 1, got 0"),
        (lambda: Pool.add(empty(2), rows(1, 2, 3)), "3 rows do not fit in a pool of 2"),
        (lambda: Pool.add(empty(), {"other": jnp.zeros((1, 2))}), r"\['value'\], the rows \['other'\]"),
        (lambda: Pool(IndexPlan(np.arange(5), 2), {"value": np.zeros((5, 2))}), "no resident columns"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
