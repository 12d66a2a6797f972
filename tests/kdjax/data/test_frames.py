"""Stretched and noisy frames, against linear interpolation by numpy."""

import numpy as np

from kdjax.data import frames

RNG = np.random.default_rng(0)


def test_stretched_frames_are_read_linearly_about_the_middle():
    images = RNG.normal(size=(4, 3, 7)).astype(np.float32)
    found = frames.stretched(np.random.default_rng(1), images, factor=1.5)
    drawn = np.exp(np.random.default_rng(1).uniform(-np.log(1.5), np.log(1.5), 4))
    for one, image, factor in zip(found, images, drawn, strict=True):
        places = 3 + (np.arange(7) - 3) / factor
        expected = [np.interp(places, np.arange(7), frame) for frame in image]
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_noise_has_its_scale():
    found = frames.noisy(RNG, np.ones((100, 10, 10)), 0.5)
    assert found.dtype == np.float32
    assert abs(found.mean() - 1) < 0.02 and abs(found.std() - 0.5) < 0.02
