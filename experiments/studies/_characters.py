"""Characters of the standard library's sources, as windows of whole numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import text

MASK = 97
VOCABULARY = 98  # 0 any other character, 1 the end of a line, 2 .. 96 those from space to ~


def windows(length: int, train: int, held: int = 0) -> dict[str, np.ndarray]:
    """`{split: int32[n, length]}`, evenly spread over the documents of each split.

    Args:
        length: characters in a window.
        train: how many windows of the training documents.
        held: how many of those for validation, and of those for test.
    """
    documents = text.standard_library()
    parts = text.split_documents(documents, validation=0.1, test=0.1)
    found = {}
    for split, count in {"train": train, "validation": held, "test": held}.items():
        whole = "".join(documents[name] for name in getattr(parts, split))
        codes = np.frombuffer(whole.encode("ascii", "replace"), np.uint8).astype(np.int32)
        numbers = np.where(codes == 10, 1, np.where((codes >= 32) & (codes < 127), codes - 30, 0))
        starts = np.linspace(0, len(numbers) - length, count).astype(int)
        found[split] = numbers[starts[:, None] + np.arange(length)].astype(np.int32)
    return found


def masking(share: float):
    """`(key, example) -> example`: `target` as it is, `tokens` with a share of them `masked`."""

    def mask(key, example):
        masked = jax.random.bernoulli(key, share, example["target"].shape)
        return {**example, "tokens": jnp.where(masked, MASK, example["target"]), "masked": masked}

    return mask


def masked(rows, share: float, seed: int = 0):
    """Windows `[N, L]` masked once for an evaluation: `{"target", "tokens", "masked"}`."""
    chosen = np.random.default_rng(seed).random(rows.shape) < share
    return {"target": rows, "tokens": np.where(chosen, MASK, rows), "masked": chosen}


def loss(logits, targets, where=None) -> np.ndarray:
    """Mean negative log-likelihood in nats a character, by seed: `[S, N, L, V]`, `[N, L]` -> `[S]`."""
    log_q = jax.nn.log_softmax(logits)
    values = -jnp.take_along_axis(log_q, jnp.asarray(targets)[None, ..., None], axis=-1)[..., 0]
    kept = jnp.ones(targets.shape, bool) if where is None else jnp.asarray(where)
    return np.asarray(jnp.sum(jnp.where(kept[None], values, 0), axis=(1, 2)) / kept.sum())
