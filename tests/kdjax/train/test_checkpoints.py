"""Checkpoints: exact, verified, moved aside when damaged."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.train import init_state
from kdjax.train.checkpoints import Checkpoints

OPTIMISERS = {name: optax.adam(0.01) for name in small.PLAYERS}


def state_of(seed, **kwargs):
    state = init_state(jax.random.key(seed), small.networks(), small.INPUTS, OPTIMISERS, **kwargs)
    return state.replace(step=jnp.int32(seed))


def equal(left, right):
    plain = [jax.tree.map(_data, tree) for tree in (left, right)]
    return jax.tree.all(jax.tree.map(np.array_equal, *plain))


def _data(x):
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@pytest.fixture
def row(tmp_path):
    checkpoints = Checkpoints(tmp_path / "row")
    for step in (10, 20):
        checkpoints.save(step, state_of(step), {"teachers": {"teacher": "abc"}})
    checkpoints.close()
    return tmp_path / "row"


def test_the_newest_state_comes_back_bit_for_bit_with_its_record(row):
    checkpoints = Checkpoints(row)
    state, record = checkpoints.restore(state_of(0))
    assert equal(state, state_of(20)) and not equal(state, state_of(10))
    assert record["step"] == 20 and record["teachers"] == {"teacher": "abc"}
    assert len(record["sha256"]) == 64 and checkpoints.record() == record


def test_nothing_saved_gives_none(tmp_path):
    assert Checkpoints(tmp_path / "row").restore(state_of(0)) is None


def test_old_steps_are_dropped(tmp_path):
    checkpoints = Checkpoints(tmp_path / "row", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), {})
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "row").iterdir()) == ["2", "3"]


def damage_bit(step):
    """Flips one bit in the middle of the largest file of the state."""
    largest = max(
        (f for f in (step / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


def damage_cut(step):
    largest = max(
        (f for f in (step / "state").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def damage_record(step):
    for file in (step / "record").iterdir():
        file.write_text(file.read_text()[:20])


def damage_value(step):
    """A record that is sound JSON and tells another sha256."""
    (file,) = (f for f in (step / "record").iterdir() if "sha256" in f.read_text())
    file.write_text(json.dumps({**json.loads(file.read_text()), "sha256": "0" * 64}))


@pytest.mark.parametrize("damage", [damage_bit, damage_cut, damage_record, damage_value])
def test_a_damaged_step_is_moved_aside_and_the_one_before_is_taken(row, damage, caplog):
    damage(row / "20")
    checkpoints = Checkpoints(row)
    with caplog.at_level(logging.WARNING):
        state, record = checkpoints.restore(state_of(0))
    assert record["step"] == 10 and equal(state, state_of(10))
    aside = list((row.parent / "damaged").iterdir())
    assert [p.name for p in aside] == ["row-20-0"] and any(aside[0].rglob("*"))
    assert "row/20 is damaged" in caplog.text
    checkpoints.save(20, state_of(20), {})
    checkpoints.close()
    assert Checkpoints(row).restore(state_of(0)).record["step"] == 20


def test_a_sound_checkpoint_of_another_state_is_an_error_and_stays(row):
    other = state_of(0, hyper={"temperature": 4.0})
    with pytest.raises(ValueError, match="row/20 holds another state"):
        Checkpoints(row).restore(other)
    assert (row / "20").is_dir() and not (row.parent / "damaged").exists()


def test_saving_a_step_twice_keeps_the_first(row):
    checkpoints = Checkpoints(row)
    checkpoints.save(20, state_of(99), {})
    checkpoints.close()
    assert equal(Checkpoints(row).restore(state_of(0)).state, state_of(20))


HANDED = {
    "previous": {
        "task": 3,
        "seen": np.arange(4, dtype=np.int64) + 2**40,
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "parts": [np.float64(0.1), {"nothing": None, "empty": {}}],
    }
}


def with_handed(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(10, state_of(10), {}, {"previous": None})
    checkpoints.save(20, state_of(20), {}, HANDED)
    checkpoints.close()
    return folder


def test_what_was_handed_comes_back_with_its_tree_types_and_bits(tmp_path):
    """64 bits stay 64 bits; the state is laid out from what was handed."""
    given = []

    def like(handed):
        given.append(handed)
        return state_of(0)

    checkpoints = Checkpoints(with_handed(tmp_path / "row"))
    state, record = checkpoints.restore(like)
    assert equal(state, state_of(20)) and record["handed"] is given[0]
    assert jax.tree.structure(given[0]) == jax.tree.structure(HANDED)
    for found, wanted in zip(jax.tree.leaves(given[0]), jax.tree.leaves(HANDED), strict=True):
        assert found.dtype == np.asarray(wanted).dtype and np.array_equal(found, wanted)


def test_a_damaged_handed_tree_is_noticed(tmp_path, caplog):
    row = with_handed(tmp_path / "row")
    (file,) = (f for f in (row / "20" / "record").iterdir() if "sha256" in f.read_text())
    record = json.loads(file.read_text())
    record["handed"]["sha256"] = "0" * 64
    file.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        _, record = Checkpoints(row).restore(state_of(0))
    assert record["step"] == 10 and record["handed"] == {"previous": None}
    assert "row/20 is damaged (its handed's sha256" in caplog.text


@pytest.mark.parametrize("handed", [{"a": (1, 2)}, {1: np.zeros(2)}, {"a": optax.EmptyState()}])
def test_what_could_not_be_read_back_is_not_saved(tmp_path, handed):
    with pytest.raises(TypeError, match="dicts with string keys, lists, None and arrays"):
        Checkpoints(tmp_path / "row").save(1, state_of(1), {}, handed)
    assert Checkpoints(tmp_path / "row").latest_step() is None
