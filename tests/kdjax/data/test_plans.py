"""Index plans: random access, epochs, Grain's order, and the frequencies of the samplers."""

import time

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdjax.data import plans

LABELS = np.random.default_rng(0).choice(5, size=200, p=[0.5, 0.2, 0.15, 0.1, 0.05])
SAMPLERS = {
    "uniform": plans.uniform,
    "class_balanced": plans.class_balanced(LABELS),
    "tempered": plans.tempered(LABELS, 0.5),
    "episodes": plans.episodes(LABELS, ways=3, shots=1, queries=3),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_any_chunking_gives_the_same_batches(sampler):
    plan = plans.IndexPlan(np.arange(10, 190), 12, sampler=sampler)
    whole = plan.chunk(3, 0, 40)
    assert whole.shape == (40, 12) and whole.dtype == np.int32
    assert whole.min() >= 10 and whole.max() < 190
    pieces = [plan.chunk(3, start, steps) for start, steps in ((0, 7), (7, 1), (8, 32))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    for step in (39, 0, 17):
        np.testing.assert_array_equal(plan.indices(3, step), whole[step])
    both = plan.chunk([3, 4], 5, 6)
    assert both.shape == (6, 2, 12)
    np.testing.assert_array_equal(both[:, 0], whole[5:11])
    np.testing.assert_array_equal(both[:, 1], plan.chunk(4, 5, 6))
    assert (both[:, 0] != both[:, 1]).any()
    assert plan.chunk(3, 5, 0).shape == (0, 12)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 70),
    batch=st.integers(1, 90),
    seed=st.integers(0, 2**32 - 1),
    start=st.integers(0, 10**6),
)
def test_every_epoch_is_a_permutation(size, batch, seed, start):
    examples = 3 * np.arange(size) + 5
    epochs = [start // 7, start // 7 + 1]
    plan = plans.IndexPlan(examples, batch)
    first, last = epochs[0] * size // batch, -(-(epochs[1] + 1) * size // batch)
    seen = plan.chunk(seed, first, last - first).ravel()
    offset = epochs[0] * size - first * batch
    for epoch in range(2):
        part = seen[offset + epoch * size : offset + (epoch + 1) * size]
        np.testing.assert_array_equal(np.sort(part), examples)


def test_epochs_and_seeds_have_orders_of_their_own():
    plan = plans.IndexPlan(np.arange(50), 50)
    orders = {tuple(row) for seed in range(4) for row in plan.chunk(seed, 0, 10)}
    assert len(orders) == 40


def test_each_example_is_equally_likely_at_each_place():
    orders = plans.IndexPlan(np.arange(6), 6).chunk(0, 0, 6000)
    counts = np.stack([np.bincount(orders[:, place], minlength=6) for place in range(6)])
    assert np.abs(counts - 1000).max() < 150  # five standard deviations


@pytest.mark.parametrize("size", [plans.GRAIN_FROM, 100_003])
def test_a_large_set_is_in_grains_order(size):
    examples = np.arange(size)[::-1]
    order = grain.MapDataset.range(size).seed(11).shuffle().repeat()
    got = plans.IndexPlan(examples, 48).chunk(11, size // 48 - 1, 3).ravel()
    begin = (size // 48 - 1) * 48
    want = [examples[order[i]] for i in range(begin, begin + 3 * 48)]
    np.testing.assert_array_equal(got, want)
    assert begin + 3 * 48 > size  # an epoch's end is inside


def test_a_large_sets_epoch_is_a_permutation(monkeypatch):
    monkeypatch.setattr(plans, "GRAIN_FROM", 1000)
    epoch = plans.IndexPlan(np.arange(1000), 100).chunk(0, 10, 10).ravel()
    np.testing.assert_array_equal(np.sort(epoch), np.arange(1000))


def test_the_recorded_order_still_holds():
    """What was trained in an order must be trainable in it again: a change here is a break."""
    np.testing.assert_array_equal(
        plans.IndexPlan(np.arange(100), 8).indices(7, 20), [43, 62, 31, 25, 58, 71, 23, 38]
    )
    sampler = plans.class_balanced(np.arange(200) % 5)
    np.testing.assert_array_equal(
        plans.IndexPlan(np.arange(200), 8, sampler=sampler).indices(7, 20),
        [45, 99, 177, 38, 11, 155, 39, 117],
    )


def test_examples_may_depend_on_the_seed():
    plan = plans.IndexPlan(lambda seed: np.arange(4) + 10 * seed, 4)
    rows = plan.chunk([1, 2], 0, 3)
    assert (np.sort(rows[:, 0]) == np.arange(10, 14)[None, :]).all()
    assert (np.sort(rows[:, 1]) == np.arange(20, 24)[None, :]).all()


def test_five_hundred_steps_of_five_seeds_take_about_a_second():
    """The demo has a hundred labelled images, where Grain's shuffle takes 0.3 ms an index."""
    plan = plans.IndexPlan(np.arange(100), 64)
    begin = time.perf_counter()
    plan.chunk(range(5), 0, 500)
    assert time.perf_counter() - begin < 3


@pytest.mark.parametrize("batch", [15, 17, 3])
def test_class_balanced_batches_hold_each_class_alike(batch):
    rows = plans.IndexPlan(np.arange(200), batch, sampler=SAMPLERS["class_balanced"]).chunk(
        0, 0, 99
    )
    counts = np.stack([np.bincount(LABELS[row], minlength=5) for row in rows])
    assert set(np.unique(counts)) <= {batch // 5, -(-batch // 5)}
    assert np.ptp(counts.sum(axis=0)) < 60  # the remainder goes to every class in turn
    assert len(np.unique(rows)) > (180 if batch > 3 else 100)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_tempered_draws_classes_by_their_power(alpha):
    plan = plans.IndexPlan(np.arange(200), 100, sampler=plans.tempered(LABELS, alpha))
    drawn = np.bincount(LABELS[plan.chunk(0, 0, 200).ravel()], minlength=5) / 20_000
    mass = np.bincount(LABELS, minlength=5) ** alpha
    np.testing.assert_allclose(drawn, mass / mass.sum(), atol=0.02)


def test_tempered_draws_alike_inside_a_class():
    plan = plans.IndexPlan(np.arange(200), 100, sampler=plans.tempered(LABELS, 1.0))
    counts = np.bincount(plan.chunk(1, 0, 1000).ravel(), minlength=200)
    assert counts.min() > 400 and counts.max() < 600


def test_episodes_have_ways_classes_of_different_examples():
    plan = plans.IndexPlan(np.arange(200), 12, sampler=SAMPLERS["episodes"])
    rows = plan.chunk(0, 0, 60).reshape(60, 3, 4)
    labels = LABELS[rows]
    assert (labels == labels[:, :, :1]).all()
    assert all(len(set(classes)) == 3 for classes in labels[:, :, 0])
    assert all(len(set(row.ravel())) == 12 for row in rows)
    assert len(np.unique(labels)) == 5


def test_episodes_leave_out_classes_that_are_too_small():
    labels = np.array([0] * 5 + [1] * 5 + [2])
    sampler = plans.episodes(labels, ways=2, shots=1, queries=1)
    rows = plans.IndexPlan(np.arange(11), 4, sampler=sampler).chunk(0, 0, 30)
    assert 10 not in rows
    with pytest.raises(ValueError, match="3 classes with at least 2 examples, got 2"):
        sampler = plans.episodes(labels, ways=3, shots=1, queries=1)
        plans.IndexPlan(np.arange(11), 6, sampler=sampler).indices(0, 0)
    with pytest.raises(ValueError, match="batch_size must be .* = 4, got 5"):
        sampler = plans.episodes(labels, ways=2, shots=1, queries=1)
        plans.IndexPlan(np.arange(11), 5, sampler=sampler).indices(0, 0)


@pytest.mark.parametrize(
    ("examples", "batch", "error", "message"),
    [
        (np.arange(3.0), 2, TypeError, "examples must be one axis of integers, got float64"),
        (np.arange(4).reshape(2, 2), 2, TypeError, "shape \\(2, 2\\)"),
        (np.arange(0), 2, ValueError, "must not be empty"),
        (np.array([-1, 2]), 2, ValueError, "got -1 to 2"),
        (np.arange(3), 0, ValueError, "batch_size must be at least 1, got 0"),
        (np.arange(3), 2.0, TypeError, "batch_size must be an integer"),
    ],
)
def test_bad_plans_are_refused(examples, batch, error, message):
    with pytest.raises(error, match=message):
        plans.IndexPlan(examples, batch)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_bad_seeds_are_refused(seed):
    with pytest.raises((ValueError, TypeError), match="seed must be a"):
        plans.IndexPlan(np.arange(3), 2).indices(seed, 0)


def test_labels_that_do_not_cover_the_plan_are_refused():
    plan = plans.IndexPlan(np.arange(201), 10, sampler=SAMPLERS["tempered"])
    with pytest.raises(ValueError, match="got 200 labels and example number 200"):
        plan.indices(0, 0)
    with pytest.raises(TypeError, match="labels must be one axis of integers"):
        plans.class_balanced(np.eye(3))


def test_opening_draws_from_the_easiest_part_first_and_from_all_in_the_second_half():
    plan = plans.IndexPlan(np.arange(40), 64, plans.opening(16))
    rows = plan.chunk(0, 0, 16)
    for step, most in [(0, 10), (1, 10), (2, 20), (4, 30), (6, 40), (15, 40)]:
        assert most - 10 <= rows[step].max() < most
        assert rows[step].min() < 10
    np.testing.assert_array_equal(rows[5], plan.indices(0, 5))
    with pytest.raises(ValueError, match="steps and parts"):
        plans.opening(0)


def test_batches_of_one_group_hold_different_examples_of_a_drawn_group():
    groups = np.array([0, 1, 2, 1, 2, 1, 2, 1, 7])
    plan = plans.IndexPlan(np.arange(1, 8), 3, plans.one_group(groups))
    rows = plan.chunk(0, 0, 30)
    assert {tuple(np.unique(groups[row])) for row in rows} == {(1,), (2,)}
    assert all(len(set(row)) == 3 for row in rows.tolist())
    np.testing.assert_array_equal(rows[5], plan.indices(0, 5))
    assert (rows != plan.chunk(1, 0, 30)).any()
