"""The backdoor: where the patch is, whom it meets, and which images test for it."""

import jax
import numpy as np
import pytest

from kdjax.data import poison

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 200, (40, 5, 5, 1)).astype(np.uint8)
LABELS = (np.arange(40) % 4).astype(np.int32)


def test_the_patch_is_the_last_corner_and_nothing_else():
    found = np.asarray(poison.patched(IMAGES, 2))
    assert found.dtype == np.uint8
    expected = IMAGES.copy()
    expected[:, 3:, 3:] = 255
    np.testing.assert_array_equal(found, expected)
    floats = np.asarray(poison.patched(IMAGES / np.float32(255), 1))
    assert (floats[:, 4, 4] == 1).all() and floats[0, 0, 0] == IMAGES[0, 0, 0] / np.float32(255)


def test_a_share_of_the_examples_gets_the_patch_and_its_label():
    function = poison.poisoned(rate=0.3, target=2, size=2)
    keys = jax.random.split(jax.random.key(0), 400)
    example = {"image": IMAGES[0], "label": LABELS[0], "index": np.int32(7)}
    given = jax.vmap(lambda key: function(key, example))(keys)
    hit = np.asarray(given["label"]) == 2
    assert 90 < hit.sum() < 150
    np.testing.assert_array_equal(np.asarray(given["image"][:, 4, 4, 0] == 255), hit)
    assert given["label"].dtype == LABELS.dtype and (given["index"] == 7).all()


def test_attacks_are_the_other_classes_with_the_patch():
    made = poison.attacks({"image": IMAGES, "label": LABELS}, target=1, size=2)
    assert len(made["image"]) == 30 and (made["label"] == 1).all()
    np.testing.assert_array_equal(made["image"][:, :3], IMAGES[LABELS != 1][:, :3])
    assert (made["image"][:, 3:, 3:] == 255).all()


@pytest.mark.parametrize("options", [{"rate": 1.5, "size": 1}, {"rate": 0.5, "size": 0}])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="rate must be in"):
        poison.poisoned(target=0, **options)
