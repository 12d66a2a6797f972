"""Canvases: pixels are labelled as drawn; segments partition an image, and the inner ones are ahead."""

import types

import numpy as np
from ml_collections import ConfigDict

from experiments.studies import _canvases as canvases
from kdjax.data import sources


def test_canvases_label_the_pixels_of_their_digit_and_find_it_inside():
    rng = np.random.default_rng(0)
    images = np.zeros((20, 8, 8, 1), np.uint8)
    images[:, 1:7, 2:6] = rng.integers(150, 255, (20, 6, 4, 1))
    source = sources.load_arrays(name="boxes", image=images, label=np.arange(20) % 4)
    drawn = canvases.draw(source, 12, 14, digit_size=8, digits=3, contrast=0.0)
    assert drawn.image.shape == (12, 14, 14, 1) and drawn.mask.shape == (12, 14, 14)
    for mask, digit, image in zip(drawn.mask, drawn.digit, drawn.image[..., 0], strict=True):
        assert digit < 3 and set(np.unique(mask)) == {0, digit + 1} and (mask > 0).sum() == 24
        assert image[mask > 0].min() > image[mask == 0].mean()
    parts = canvases.segments(drawn.image, 4)
    ahead = canvases.inner_segments(parts, 4, 1)
    assert parts.min() >= 0 and parts.max() < 4 and (ahead.sum(1) == 1).all()
    inside = np.take_along_axis(ahead, parts.reshape(12, -1), axis=1).reshape(parts.shape)
    assert (drawn.mask[inside] > 0).mean() > 0.6 > 2 * (drawn.mask > 0).mean()


def test_prepared_canvases_are_split_as_the_options_say():
    images = np.full((20, 8, 8, 1), 200, np.uint8)
    source = sources.load_arrays(name="boxes", image=images, label=np.arange(20) % 4)
    options = {"images": 10, "held": 9, "size": 14, "digit_size": 8, "digits": 3}
    parts = canvases.prepare(types.SimpleNamespace(source=source, options=ConfigDict(options)))
    assert {part: len(own.image) for part, own in parts.items()} == {
        "train": 10, "validation": 3, "test": 6
    }  # fmt: skip
    whole = canvases.draw(source, 19, 14, digit_size=8, digits=3)
    np.testing.assert_array_equal(parts["test"].mask, whole.mask[13:])
    assert parts["train"].shape.shape == (1, 14, 14, 1)
