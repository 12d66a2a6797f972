"""A name for a set of parameters: two trees have the same one if and only if they are the same."""

import hashlib
from typing import Any

import jax
import numpy as np


def fingerprint(tree: Any) -> str:
    """The sha256, as a hex string, of the sorted names, shapes, dtypes and bytes of a tree's leaves.

    >>> fingerprint({"w": np.zeros(2)}) == fingerprint({"w": np.zeros(2, np.float32)})
    False
    """
    leaves = {
        jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    digest = hashlib.sha256()
    for name in sorted(leaves):
        x = leaves[name]
        kind = getattr(x, "dtype", None)
        if kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        digest.update(f"{name}\0{x.shape}\0{kind or x.dtype}\0".encode())
        digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
