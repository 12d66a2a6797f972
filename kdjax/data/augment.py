"""Augmentation of one example: pure functions `(key, example) -> example`, with static shapes.

An example is a dict of arrays without a batch axis; `Stream.batch` maps over the batch with a key
per example. Images are `[H, W, C]`. uint8 stays uint8 until `normalise`, which is last.
"""

import jax
import jax.numpy as jnp
import numpy as np


def compose(*functions):
    """The functions one after the other; number i draws from `fold_in(key, i)`.

    >>> view = compose(random_crop(4), random_flip(), normalise(0.5, 0.25))
    >>> view(jax.random.key(0), {"image": jnp.zeros((32, 32, 3), jnp.uint8)})["image"].dtype
    dtype('float32')
    """

    def composed(key, example):
        for i, function in enumerate(functions):
            example = function(jax.random.fold_in(key, i), example)
        return example

    return composed


def one_of(*functions):
    """One of the functions, all equally likely. They must give examples of the same shapes."""

    def drawn(key, example):
        which, own = jax.random.split(key)
        number = jax.random.randint(which, (), 0, len(functions))
        return jax.lax.switch(number, functions, own, example)

    return drawn


def random_crop(padding, *, column="image"):
    """A shift by up to `padding` pixels each way, zeros entering: pad, then crop the old size.

    Args:
        padding: the zero pixels added to each side; 4 is usual for 32 × 32 images.
        column: the image's name.
    """
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")

    def crop(key, example):
        image = _image(example, column)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        down, right = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return {**example, column: jax.lax.dynamic_slice(padded, (down, right, 0), image.shape)}

    return crop


def random_flip(*, probability=0.5, column="image"):
    """Left and right exchanged, with the given probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")

    def flip(key, example):
        image = _image(example, column)
        flipped = jax.random.bernoulli(key, probability)
        return {**example, column: jnp.where(flipped, image[:, ::-1], image)}

    return flip


def additive_noise(scale, *, column="image"):
    """Gaussian noise of standard deviation `scale`, for floating-point values."""
    if scale < 0:
        raise ValueError(f"scale must be at least 0, got {scale}")

    def add(key, example):
        x = example[column]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"additive_noise needs floats, got {x.dtype}: put normalise before it")
        return {**example, column: x + scale * jax.random.normal(key, x.shape, x.dtype)}

    return add


def box_blur(*, column="image"):
    """Every pixel as the mean of the three by three around it; the edge is repeated."""

    def blur(key, example):
        del key  # every function of a composition takes one
        image = _image(example, column)
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        height, width = image.shape[:2]
        around = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return {**example, column: sum(around) / 9}

    return blur


def normalise(mean=0.0, std=1.0, *, column="image"):
    """(x - mean) / std in float32; uint8 is first divided by 255, so that 255 counts as one.

    Args:
        mean: a number or one per channel (the last axis), for values in [0, 1].
        std: a number or one per channel, above zero.
        column: the name of the column.

    >>> normalise(0.5, 0.5)(None, {"image": jnp.array([[[0], [255]]], jnp.uint8)})["image"].ravel()
    Array([-1.,  1.], dtype=float32)
    """
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean.ndim > 1 or std.ndim > 1:
        raise ValueError(f"mean and std must be numbers or one per channel, got {mean} and {std}")
    if not (std > 0).all():
        raise ValueError(f"std must be above 0, got {std}")

    def apply(key, example):
        del key  # every function of a composition takes one
        x = example[column]
        for name, value in {"mean": mean, "std": std}.items():
            if value.ndim and value.shape != x.shape[-1:]:
                raise ValueError(f"{name} has {len(value)} values, {column} has shape {x.shape}")
        scaled = x.astype(jnp.float32) / (255.0 if x.dtype == jnp.uint8 else 1.0)
        broadcast = [v.reshape((1,) * (x.ndim - v.ndim) + v.shape) for v in (mean, std)]
        return {**example, column: (scaled - broadcast[0]) / broadcast[1]}

    return apply


def _image(example, column):
    if example[column].ndim != 3:
        raise ValueError(f"{column} must be [H, W, C], got shape {example[column].shape}")
    return example[column]
