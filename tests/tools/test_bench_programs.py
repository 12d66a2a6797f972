"""The suites of `tools.bench` that compare whole programs: their deterministic parts and plumbing."""

import importlib.util
import json

import jax
import numpy as np
import optax
import pytest

from kdjax.networks.cnn import CNN
from kdjax.networks.mlp import MLP
from tools.bench import __main__ as command
from tools.bench import _pairs, _timing, cache, loader, seeds, step
from tools.bench import torch as torch_suite


@pytest.fixture
def small():
    """The demo's pair in little, with two layers before the head."""
    return _pairs.demo()._replace(
        student=MLP(10, (32, 32)), teacher=CNN(10, (8,), 16), batch=16, optimiser=optax.sgd(0.05)
    )


def largest_difference(left, right):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left, right)))


def test_the_built_step_compiles_to_the_program_written_by_hand():
    """FLOPs and bytes as XLA counts them, for the networks, batch and optimiser of the demo."""
    costs = step.costs(_pairs.demo())
    assert abs(costs["flops_ratio"] - 1) < 0.01 and abs(costs["bytes_ratio"] - 1) < 0.01, costs


@pytest.mark.full
@pytest.mark.parametrize("steps", [None, 2])
def test_the_built_step_and_the_one_by_hand_do_the_same(steps, small):
    built, by_hand = step.built(small, steps), step.by_hand(small, steps)
    before = jax.tree.map(np.asarray, built.state.params["student"])
    for _ in range(3):
        built(), by_hand()
    after = built.state.params["student"]
    assert largest_difference(after, by_hand.state["params"]) < 1e-6
    assert largest_difference(after, before) > 1e-3


@pytest.mark.full
def test_a_cached_teacher_teaches_as_the_live_one(small):
    runs = [cache.run(small, 4, cached=cached) for cached in (False, True)]
    for run in runs:
        run()
    live, cached = (run.state.params["student"] for run in runs)
    assert largest_difference(live, cached) < 1e-6
    assert largest_difference(live, small.state().params["student"]) > 1e-3


def test_the_flops_of_a_cache_are_those_of_forward_passes():
    pair = _pairs.demo()._replace(student=MLP(10, (16, 256, 256)))
    found = cache.flops(pair)
    # The gradient of the images, which nobody asks for, is 1 % of this student.
    assert found["flops_ratio"] == pytest.approx(found["expected"], rel=0.02)
    assert found["flops_ratio"] > 1.1


@pytest.mark.full
def test_replicas_start_and_move_apart(small):
    tried = small._replace(optimiser=optax.inject_hyperparams(optax.sgd)(0.05))
    for pair, trials in ((small, False), (tried, True)):
        chunk, state = seeds.program(pair, 3, trials)
        state, _ = chunk(state, pair.frozen(), seeds.batches(pair, 2, 3))
        first, second = (jax.tree.map(lambda x, k=k: x[k], state.params) for k in (0, 1))
        assert largest_difference(first, second) > 1e-3


@pytest.mark.full
def test_the_decision_says_what_was_faster(small):
    row = seeds.measure(small, 2, 10, 1, replicas=2)
    assert row["faster"] == ("together" if row["ratio_with_compilation"] < 1 else "in turn")
    assert row["replicas"] == 2 and row["ratio"] > 0 and row["spread"] >= 0


@pytest.mark.full
def test_resident_and_host_read_digits_load_the_same_batches():
    """The two rows of the loader time one job: the batches that its chunk sees are the same."""
    (_, resident, _, _, numbers, _), (_, read, *_) = loader.digits_resident(), loader.digits_read()
    key = jax.random.key(0)
    for name, stream in resident.items():
        xs, other = stream.xs(numbers, 0, 1), read[name].xs(numbers, 0, 1)
        x, y = ({k: v[0, 1] for k, v in both.items()} for both in (xs, other))
        assert set(other) > set(xs)
        left, right = stream.batch(stream.resident, x, key), read[name].batch({}, y, key)
        jax.tree.map(np.testing.assert_array_equal, left, dict(right))


@pytest.mark.full
def test_rows_reach_the_table_and_the_file(tmp_path, capsys, monkeypatch, small):
    monkeypatch.setattr(cache, "CASES", {"small": (lambda: small, 2), "other": (None, 0)})
    monkeypatch.setattr(cache, "ROUNDS", 2)
    path = tmp_path / "rows.json"
    assert command.main(["cache", "--only", "small", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())
    assert row["name"] == "small" and row["ratio"] > 0 and row["spread"] >= 0
    assert capsys.readouterr().out.split()[:3] == ["name", "ratio", "spread"]


def test_what_is_timed_is_interleaved_and_not_compiled_under_the_clock():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = _timing.interleaved(runs, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert all(taken.shape == (3,) for taken in seconds.values())


def test_a_ratio_is_taken_round_by_round():
    """A round in which everything is ten times slower changes neither ratio nor spread."""
    found = _timing.compared([2.0, 20.0, 2.2], [1.0, 10.0, 1.1])
    assert found["ratio"] == pytest.approx(2) and found["spread"] == pytest.approx(0)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_its_suite_says_what_names_it():
    with pytest.raises(SystemExit, match="requirements-parity.txt"):
        torch_suite.rows()
