"""Canvases made from digits: each somewhere on textured ground, with what every pixel shows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies._images import averaged


class Canvases(NamedTuple):
    """Images `[N, S, S, 1]`, what each pixel shows `[N, S, S]` (0 the ground, else 1 + digit), digits."""

    image: np.ndarray
    mask: np.ndarray
    digit: np.ndarray

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.image.shape[1:]), jnp.float32)


def prepare(bench) -> dict[str, Canvases]:
    """The canvases that a study's options describe: `images` to "train", `held` for the other parts.

    A third of these is for "validation", the rest for "test".
    """
    options, ahead = bench.options, bench.options.images
    drawn = draw(
        bench.source, ahead + options.held, options.size, digit_size=options.digit_size,
        digits=options.digits, contrast=options.get("contrast", 1.0),
    )  # fmt: skip
    split = zip(*(np.split(x, (ahead, ahead + options.held // 3)) for x in drawn), strict=True)
    named = zip(("train", "validation", "test"), split, strict=True)
    return {part: Canvases(*own) for part, own in named}


def draw(source, count: int, size: int, *, digit_size: int, digits: int = 10, contrast=1.0, seed=0):
    """`count` canvases: a digit of `digit_size` at a drawn place, on waves of drawn directions.

    Args:
        source: with `image` `[N, H, W, 1]` of bytes and `label`; only labels below `digits` are used.
        count: how many; the digits of two canvases differ while there are enough.
        size: S.
        digit_size: what the digit's image is averaged to.
        digits: how many classes.
        contrast: the height of the waves; a digit's brightest pixel is one.
        seed: of everything that is drawn.
    """
    rng = np.random.default_rng(seed)
    whole = source.columns["image"].astype(np.float32) / source.columns["image"].max()
    small, label = averaged(whole, digit_size)[..., 0], source.columns["label"]
    there = np.flatnonzero(label < digits)
    chosen = rng.permutation(np.resize(rng.permutation(there), count))
    small = small[chosen] / small[chosen].max((1, 2), keepdims=True)
    y, x = np.mgrid[:size, :size]
    turn, step, phase = rng.uniform(0, 2 * np.pi, (3, count, 2))
    waves = np.zeros((count, size, size), np.float32)
    for i in range(2):
        along = np.cos(turn[:, i, None, None]) * x + np.sin(turn[:, i, None, None]) * y
        waves += np.sin((0.6 + step[:, i, None, None] / 6) * along + phase[:, i, None, None])
    image = contrast * waves / 2 + 0.2 * rng.normal(size=waves.shape)
    mask = np.zeros((count, size, size), np.int32)
    rows, columns = rng.integers(0, size - digit_size + 1, (2, count))
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        part = (i, slice(row, row + digit_size), slice(column, column + digit_size))
        image[part] = np.where(small[i] > 0.3, 1 + small[i], image[part])
        mask[part] = np.where(small[i] > 0.3, 1 + label[chosen[i]], 0)
    image = (image - image.mean()) / image.std()
    return Canvases(image[..., None].astype(np.float32), mask, label[chosen].astype(np.int32))


def segments(images, count: int, *, rounds: int = 8) -> np.ndarray:
    """`[N, S, S]` integers below `count`: k-means of each image's pixels by value and place."""
    size = images.shape[1]
    places = np.mgrid[:size, :size].reshape(2, -1).T / size
    points = np.concatenate(
        [images.reshape(len(images), -1, 1), np.broadcast_to(places, (len(images), *places.shape))],
        axis=2,
    )
    first = np.random.default_rng(0).permutation(size**2)[:count]
    centres = points[:, first]
    for _ in range(rounds):
        distances = np.square(points[:, :, None] - centres[:, None]).sum(-1)
        own = np.eye(count)[distances.argmin(-1)]
        sizes = own.sum(1)[..., None]
        moved = np.einsum("npc,npd->ncd", own, points) / np.maximum(sizes, 1)
        centres = np.where(sizes > 0, moved, centres)
    return distances.argmin(-1).reshape(len(images), size, size).astype(np.int32)


def inner_segments(parts, count: int, ahead: int) -> np.ndarray:
    """`[N, count]` booleans: the `ahead` segments that touch the images' frames least for their size.

    What lies behind reaches the frame: the share of frame pixels is taken for the likelihood that a
    segment `[N, S, S]` of `segments` is ground. Empty segments are ground.
    """
    own = np.eye(count)[parts]
    inner = own[:, 1:-1, 1:-1].sum((1, 2))
    sizes = own.sum((1, 2))
    share = np.where(sizes > 0, 1 - inner / np.maximum(sizes, 1), 2)
    order = np.argsort(np.argsort(share, axis=1, kind="stable"), axis=1)
    return (order < ahead) & (sizes > 0)
