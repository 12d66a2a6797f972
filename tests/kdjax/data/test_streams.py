"""Streams: the resident and the host-read path give the same batches, evaluation is exact."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import augment, plans, streams

rng = np.random.default_rng(0)
COLUMNS = {
    "image": rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8),
    "label": rng.integers(0, 10, 90).astype(np.int32),
}
VIEW = augment.compose(
    augment.random_crop(2),
    augment.random_flip(),
    augment.normalise((0.4, 0.5, 0.6), 0.25),
)
COLUMNS_ON_DEVICE = {name: jnp.asarray(column) for name, column in COLUMNS.items()}
PLAN = plans.IndexPlan(np.arange(5, 85), 12)


def scanned(stream, xs, seeds=None):
    """All batches of a chunk, as a training loop makes them: in one scan, seeds vmapped."""

    def body(step, x):
        def one(seed, x):
            key = jax.random.fold_in(jax.random.key(seed), step)
            return stream.batch(resident, x, key)

        return step + 1, one(0, x) if seeds is None else jax.vmap(one)(jnp.array(seeds), x)

    resident = {name: jnp.asarray(column) for name, column in stream.resident.items()}
    return jax.jit(lambda xs: jax.lax.scan(body, 0, xs)[1])(xs)


def forms():
    labels = {"label": COLUMNS["label"]}
    images = {"image": COLUMNS["image"]}
    return {
        "resident": streams.Stream(PLAN, COLUMNS, None, VIEW),
        "host": streams.Stream(PLAN, {}, streams.host_reader(COLUMNS), VIEW),
        "both": streams.Stream(PLAN, labels, streams.host_reader(images), VIEW),
    }


def test_resident_and_host_read_batches_are_the_same_bits():
    seeds = [0, 3]
    results = {name: scanned(s, s.xs(seeds, 4, 9), seeds) for name, s in forms().items()}
    for name in ("host", "both"):
        assert results[name].keys() == results["resident"].keys() == {"image", "label", "index"}
        for column, values in results["resident"].items():
            np.testing.assert_array_equal(results[name][column], values)


def test_a_batch_holds_the_examples_that_the_plan_names():
    stream = streams.Stream(PLAN, COLUMNS)
    batches = scanned(stream, stream.xs(2, 1, 3))
    for i in range(3):
        index = PLAN.indices(2, 1 + i)
        np.testing.assert_array_equal(batches["index"][i], index)
        np.testing.assert_array_equal(batches["image"][i], COLUMNS["image"][index])
        np.testing.assert_array_equal(batches["label"][i], COLUMNS["label"][index])
    assert batches["image"].dtype == jnp.uint8


def test_what_is_drawn_for_an_example_does_not_depend_on_its_place():
    stream = streams.Stream(PLAN, COLUMNS, None, VIEW)
    index = np.array([7, 30, 8, 50, 11, 12], np.int32)
    order = np.array([3, 5, 0, 1, 4, 2])
    key = jax.random.key(5)
    batch = jax.jit(stream.batch)
    straight = batch(COLUMNS_ON_DEVICE, {"index": index}, key)["image"]
    moved = batch(COLUMNS_ON_DEVICE, {"index": index[order]}, key)["image"]
    np.testing.assert_array_equal(moved, straight[order])
    alone = batch(COLUMNS_ON_DEVICE, {"index": index[2:3]}, key)["image"]
    np.testing.assert_array_equal(alone[0], straight[2])
    other = batch(COLUMNS_ON_DEVICE, {"index": index}, jax.random.key(6))["image"]
    assert (np.asarray(other) != np.asarray(straight)).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("batch_size", [1, 7, 16, 80, 200])
@pytest.mark.parametrize("form", ["resident", "host"])
def test_an_epoch_gives_exact_totals(batch_size, form):
    examples = PLAN.examples
    columns = {} if form == "host" else COLUMNS
    read = streams.host_reader(COLUMNS) if form == "host" else None
    stream = streams.Stream(plans.IndexPlan(examples, batch_size), columns, read)
    xs = stream.epoch()
    batches = scanned(stream, xs)
    where = np.asarray(batches["where"])
    assert where.shape == (-(-80 // batch_size), batch_size)
    np.testing.assert_array_equal(np.asarray(batches["index"])[where], examples)
    np.testing.assert_array_equal(np.asarray(batches["label"])[where], COLUMNS["label"][examples])
    if form == "host" and batch_size == 7:
        parts = [stream.epoch(start=0, steps=5), stream.epoch(start=5, steps=50)]
        for column, values in xs.items():
            np.testing.assert_array_equal(np.concatenate([p[column] for p in parts]), values)


def test_an_epoch_of_the_subset_of_a_seed():
    stream = streams.Stream(plans.IndexPlan(lambda seed: np.arange(3) + seed, 2), COLUMNS)
    np.testing.assert_array_equal(stream.epoch(seed=4)["index"], [[4, 5], [6, 4]])


def test_epoch_batches_normalise_and_pad():
    batches = streams.epoch_batches(COLUMNS, 32, prepare=augment.normalise(0.5, 0.5))
    where = np.asarray(batches["where"])
    assert batches["image"].shape == (3, 32, 8, 8, 3) and where.sum() == 90
    want = (COLUMNS["image"].astype(np.float64) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(np.asarray(batches["image"])[where], want, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(batches["label"])[where], COLUMNS["label"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: streams.Stream(PLAN), "needs resident columns, a read function, or both"),
        (lambda: streams.Stream(PLAN, {"index": np.arange(90)}), "column names \\['index'\\]"),
        (
            lambda: streams.Stream(PLAN, {**COLUMNS, "weight": np.ones(4)}),
            "one length, got .*'weight': 4",
        ),
        (
            lambda: streams.Stream(PLAN, {"label": np.arange(84)}).xs(0, 0, 8),
            "the plan names example 84 and the resident columns have 84 rows",
        ),
        (
            lambda: streams.Stream(PLAN, COLUMNS, streams.host_reader(COLUMNS)).xs(0, 0, 1),
            "columns \\['image', 'label'\\] are both resident and read",
        ),
    ],
)
def test_bad_streams_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_loops_import_is_light():
    """What the training loop imports of data loads neither TFDS nor Grain."""
    code = (
        "import sys, kdjax.data.streams, kdjax.data.plans, kdjax.data.splits, kdjax.data.augment;"
        "print([m for m in ('tensorflow_datasets', 'grain', 'sklearn', 'PIL', 'array_record')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
