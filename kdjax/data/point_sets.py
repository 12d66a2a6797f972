"""Point sets in the plane: drawn from images, and grouped into patches of neighbours."""

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
