"""Images read at other places: turned, scaled and moved, interpolated linearly; their edges continue."""

import jax
import jax.numpy as jnp
import numpy as np


def rotated(image, degrees: float) -> np.ndarray:
    """Images `[N, H, W, C]` turned counter-clockwise about their centre.

    >>> image = np.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    >>> rotated(image, 90.0)[0, :, :, 0].round(3).tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """
    height, width = image.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    angle = np.deg2rad(degrees)
    places = [
        np.cos(angle) * y + np.sin(angle) * x + (height - 1) / 2,
        np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2,
    ]
    return np.asarray(jax.vmap(_read, (0, None))(jnp.asarray(image), places))


def distorted(rng, image, *, turn: float, scale: float, shift: float) -> np.ndarray:
    """Images `[..., H, W, C]`, each turned, scaled and moved by numbers of its own, uniformly drawn.

    Args:
        rng: a NumPy generator.
        image: `[..., H, W, C]`
        turn: up to so many radians each way.
        scale: by factors from 1 - `scale` to 1 + `scale`.
        shift: up to so many pixels each way.
    """
    image, size = np.asarray(image, np.float32), image.shape[:-3]
    angle, factor = rng.uniform(-turn, turn, size), rng.uniform(1 - scale, 1 + scale, size)
    move = rng.uniform(-shift, shift, (*size, 2))
    middle = (np.array(image.shape[-3:-1])[None, None] - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[-3:-1]), indexing="ij"), -1) - middle

    def one(image, angle, factor, move):
        matrix = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        return _read(image, jnp.moveaxis(grid @ matrix / factor + middle + move[None, None], -1, 0))

    each = jnp.vectorize(one, signature="(h,w,c),(),(),(d)->(h,w,c)")
    return np.asarray(jax.jit(each)(image, angle, factor, move))


def _read(image, places):
    """An image `[H, W, C]` at `places`, (rows `[H, W]`, columns `[H, W]`)."""

    def one(channel):
        return jax.scipy.ndimage.map_coordinates(channel, places, order=1, mode="nearest")

    return jax.vmap(one, -1, -1)(image)
