"""A fingerprint changes with everything that makes parameters what they are, and nothing else."""

import hashlib
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.networks.fingerprint import fingerprint

TREE = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(())}, "c": np.ones(0)}


def changed(**leaves):
    return {**TREE, "a": {**TREE["a"], **leaves}}


def test_it_is_the_sha256_of_what_it_says():
    x = np.array([1.5, -2.0], np.float32)
    expected = hashlib.sha256(b"['w']\0(2,)\0float32\0" + x.tobytes()).hexdigest()
    assert fingerprint({"w": x}) == expected == fingerprint({"w": jnp.asarray(x)})


def test_order_of_a_dictionary_and_memory_do_not_count():
    backwards = {"c": TREE["c"], "a": {k: TREE["a"][k] for k in ("b", "w")}}
    assert list(backwards) != list(TREE)
    assert fingerprint(backwards) == fingerprint(TREE)
    ordered = [OrderedDict(tree) for tree in (TREE, backwards)]
    assert fingerprint(ordered[0]) == fingerprint(ordered[1]) == fingerprint(TREE)
    assert fingerprint(changed(w=np.asfortranarray(TREE["a"]["w"]))) == fingerprint(TREE)


def test_names_shapes_types_and_bits_count():
    flipped = TREE["a"]["w"].copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    negative_zero = TREE["a"]["w"].copy()
    negative_zero[0, 0] = -0.0
    others = [
        {"a": {"v": TREE["a"]["w"], "b": TREE["a"]["b"]}, "c": TREE["c"]},
        {"a/w": TREE["a"]["w"], "a": {"b": TREE["a"]["b"]}, "c": TREE["c"]},
        changed(w=flipped),
        changed(w=negative_zero),
        changed(w=TREE["a"]["w"].view(np.int32)),
        changed(w=TREE["a"]["w"].reshape(3, 2)),
        changed(w=TREE["a"]["w"].astype(jnp.bfloat16)),
        changed(w=TREE["a"]["w"].astype(np.float16)),
        {"a": TREE["a"]},
    ]
    assert len({fingerprint(tree) for tree in [TREE, *others]}) == len(others) + 1


def test_random_keys_have_one_too():
    one, two = (fingerprint({"key": jax.random.key(seed)}) for seed in (0, 1))
    assert one != two
    assert one != fingerprint({"key": jax.random.key_data(jax.random.key(0))})
