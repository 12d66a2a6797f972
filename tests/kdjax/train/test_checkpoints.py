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
