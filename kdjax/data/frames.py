"""Frames `[N, T, F]`, as of speech: T times, F frequencies; and what augments them."""

import numpy as np


def stretched(rng, frames, *, factor: float = 1.25) -> np.ndarray:
    """The frames read along a frequency axis as long by 1 / `factor` to `factor`, drawn on a log scale.

    Each example has its own; the middle stays where it is and the ends go on.

    >>> ramp = np.arange(5.0)[None, None]
    >>> found = stretched(np.random.default_rng(0), ramp, factor=2.0)
    >>> found.shape, float(found[0, 0, 2]), bool((np.diff(found) > 0).all())
    ((1, 1, 5), 2.0, True)
    """
    last = frames.shape[-1] - 1
    factors = np.exp(rng.uniform(np.log(1 / factor), np.log(factor), len(frames)))
    places = last / 2 + (np.arange(last + 1) - last / 2) / factors[:, None]
    places = np.clip(places, 0, last)[:, None, :]
    low = np.floor(places).astype(int)
    share = places - low
    before, after = (
        np.take_along_axis(frames, at, axis=2) for at in (low, np.minimum(low + 1, last))
    )
    return ((1 - share) * before + share * after).astype(np.float32)


def noisy(rng, frames, scale: float) -> np.ndarray:
    """With normal noise of this scale.

    >>> noisy(np.random.default_rng(0), np.ones((1, 1, 2)), 0.0).tolist()
    [[[1.0, 1.0]]]
    """
    return (frames + scale * rng.normal(size=frames.shape)).astype(np.float32)
