"""A backdoor in training data: a patch that stands for a class, and the images that test for it."""

import jax
import jax.numpy as jnp
import numpy as np


def patched(image, size):
    """`[..., H, W, C]` with the last `size` × `size` pixels at their largest value (255, or 1)."""
    value = 255 if image.dtype == np.uint8 else 1
    rows = np.arange(image.shape[-3]) >= image.shape[-3] - size
    columns = np.arange(image.shape[-2]) >= image.shape[-2] - size
    where = rows[:, None, None] & columns[None, :, None]
    return jnp.where(where.reshape((1,) * (image.ndim - 3) + where.shape), value, image).astype(
        image.dtype
    )


def poisoned(*, rate, target, size):
    """The patch and the label `target` on an example, with probability `rate`; before `normalise`.

    Gu, Dolan-Gavitt, Garg, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain", 2017.

    >>> example = {"image": jnp.zeros((3, 3, 1)), "label": jnp.int32(7)}
    >>> changed = poisoned(rate=1.0, target=0, size=1)(jax.random.key(0), example)
    >>> int(changed["label"]), changed["image"][-1, :, 0]
    (0, Array([0., 0., 1.], dtype=float32))
    """
    if not 0 <= rate <= 1 or size < 1:
        raise ValueError(f"rate must be in [0, 1] and size at least 1, got {rate} and {size}")

    def poison(key, example):
        chosen = jax.random.bernoulli(key, rate)
        label = jnp.where(chosen, jnp.asarray(target, example["label"].dtype), example["label"])
        image = jnp.where(chosen, patched(example["image"], size), example["image"])
        return {**example, "image": image, "label": label}

    return poison


def attacks(columns, *, target, size):
    """The examples of other classes with the patch, labelled `target`: accuracy is the attack's success.

    Args:
        columns: `{"image": [N, H, W, C], "label": [N]}` on the host.
    """
    others = columns["label"] != target
    image = np.asarray(patched(columns["image"][others], size))
    return {"image": image, "label": np.full(others.sum(), target, columns["label"].dtype)}
