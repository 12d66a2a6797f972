"""Images that are turned about their centre, and distorted by drawn numbers."""

import numpy as np

from kdjax.data import warps

RNG = np.random.default_rng(0)
IMAGE = RNG.random((3, 7, 7, 2)).astype(np.float32)


def test_a_quarter_turn_moves_pixels_and_small_ones_undo_each_other():
    turned = warps.rotated(IMAGE, 90.0)
    np.testing.assert_allclose(turned, np.rot90(IMAGE, 1, (1, 2)), atol=1e-5)
    y, x = np.mgrid[:15, :15] - 7
    bump = np.exp(-(np.square(y - 2) + np.square(x)) / 8)[None, :, :, None].astype(np.float32)
    back = warps.rotated(warps.rotated(bump, 20.0), -20.0)
    assert np.abs(back - bump).max() < 0.1 < np.abs(warps.rotated(bump, 20.0) - bump).max()


def test_distorted_images_have_numbers_of_their_own():
    def distorted(image, turn=0.0, scale=0.0, shift=0.0):
        rng = np.random.default_rng(1)
        return warps.distorted(rng, image, turn=turn, scale=scale, shift=shift)

    np.testing.assert_allclose(distorted(IMAGE), IMAGE, atol=1e-6)
    same = np.broadcast_to(IMAGE[0], (2, 3, *IMAGE.shape[1:]))
    for how in ("turn", "scale", "shift"):
        drawn = distorted(same, **{how: 0.5})
        assert drawn.shape == same.shape
        assert len(np.unique(drawn.reshape(6, -1).round(4), axis=0)) == 6
    ramp = np.broadcast_to(np.arange(9.0), (40, 9, 9))[..., None]
    moved = distorted(ramp, shift=1.5)[:, 4, 4, 0] - 4
    assert np.abs(moved).max() <= 1.5 and moved.std() > 0.6
