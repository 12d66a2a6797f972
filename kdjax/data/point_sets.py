"""Point sets in the plane: from images' light or contours, and in patches of neighbours."""

import jax
import jax.numpy as jnp
import numpy as np


def drawn_points(rng, image, count: int) -> np.ndarray:
    """`float32[N, count, 2]`: points drawn with the brightness of `image` `[N, H, W]`, within [-1, 1].

    Inside its pixel a point lies anywhere. An image without light gives points all over.
    """
    height, width = image.shape[1:]
    mass = np.cumsum(image.reshape(len(image), -1).astype(np.float64) + 1e-6, axis=1)
    wanted = rng.random((len(image), count)) * mass[:, -1:]
    pixel = np.stack([np.searchsorted(m, w) for m, w in zip(mass, wanted, strict=True)])
    pixel = np.minimum(pixel, height * width - 1)
    inside = rng.random((2, len(image), count))
    y, x = (pixel // width + inside[0]) / height, (pixel % width + inside[1]) / width
    return (2 * np.stack([y, x], axis=-1) - 1).astype(np.float32)


def grouped(points, patches: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(the `size` points nearest to each centre, from it `[N, P, size, 2]`; centres `[N, P, 2]`).

    The first centre is the first point, each next one the point farthest from those there are.

    Raises:
        ValueError: fewer points than patches, or than a patch holds.

    >>> line = np.array([[[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]]])
    >>> grouped(line, 2, 1)[1][0].tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    number, count = points.shape[:2]
    if count < max(patches, size):
        raise ValueError(f"{count} points make no {patches} patches of {size}")
    every = np.arange(number)
    chosen = np.zeros((number, patches), np.int64)
    nearest = np.full((number, count), np.inf)
    for i in range(1, patches):
        last = points[every, chosen[:, i - 1]]
        nearest = np.minimum(nearest, np.square(points - last[:, None]).sum(-1))
        chosen[:, i] = nearest.argmax(axis=1)
    centres = points[every[:, None], chosen]
    squared = np.square(points[:, None] - centres[:, :, None]).sum(-1)
    order = np.argsort(squared, axis=-1, kind="stable")[..., :size]
    near = points[every[:, None, None], order]
    return near - centres[:, :, None], centres


def contours(image, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines between neighbouring pixels cross half of the ink: points in [-1, 1]².

    Args:
        image: `[N, H, H]` in [0, 1].
        size: M, how many crossings are kept at most.

    Returns:
        `float32[N, M, 2]` (x, y), the first repeated behind the last, and how many there are, `int32[N]`.

    Raises:
        ValueError: an image that no line crosses.

    >>> [x.tolist() for x in contours(np.array([[[0.0, 0.0], [1.0, 1.0]]]), 2)]
    [[[[-1.0, 0.0], [1.0, 0.0]]], [2]]
    """
    found = np.zeros((len(image), size, 2), np.float32)
    counts = np.zeros(len(image), np.int32)
    side = image.shape[1] - 1
    for number, ink in enumerate(image - 0.5):
        points = []
        for axis in (0, 1):
            first, second = (np.moveaxis(ink, axis, 0)[cut] for cut in (slice(-1), slice(1, None)))
            along, across = np.nonzero(first * second < 0)
            part = first[along, across] / (first[along, across] - second[along, across])
            pair = (across, along + part) if axis == 0 else (along + part, across)
            points.append(np.stack(pair, axis=1))
        every = 2 * np.concatenate(points) / side - 1
        if not len(every):
            raise ValueError(f"image {number} has no contour")
        kept = every[np.linspace(0, len(every) - 1, min(size, len(every))).astype(int)]
        found[number, : len(kept)], counts[number] = kept, len(kept)
        found[number, len(kept) :] = kept[0]
    return found, counts


def contour_samples(points: int, queries: int, spread: float):
    """`(key, example) -> example`: `points` drawn from a `contour`, `queries` and their `distances`.

    Half of the queries lie about points of the contour, with a standard deviation of `spread`, half
    anywhere in the square.

    Args:
        points: how many points; an example's are `contour` `[M, 2]`, of which `count` are drawn from.
        queries: how many; `queries` `[Q, 2]` and `distances` `[Q]` to the nearest of `contour`.
        spread: of queries about the contour.
    """

    def sample(key, example):
        keys = jax.random.split(key, 4)
        contour, count = example["contour"], example["count"]

        def some(key, number):
            return contour[jax.random.randint(key, (number,), 0, count)]

        near = some(keys[1], queries // 2)
        near = near + spread * jax.random.normal(keys[2], near.shape)
        anywhere = jax.random.uniform(keys[3], (queries - len(near), 2), minval=-1, maxval=1)
        asked = jnp.concatenate([near, anywhere])
        squared = jnp.sum(jnp.square(asked[:, None] - contour[None]), axis=-1)
        return {
            "points": some(keys[0], points),
            "queries": asked,
            "distances": jnp.sqrt(jnp.min(squared, axis=1)),
        }

    return sample
