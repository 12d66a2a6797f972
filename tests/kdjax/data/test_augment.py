"""Augmentation: shapes, values against plain restatements, distributions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.data import augment

IMAGE = jnp.asarray(np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8))
KEYS = jax.random.split(jax.random.key(0), 400)


def views(function, image=IMAGE):
    return np.asarray(
        jax.vmap(lambda key: function(key, {"image": image, "label": 1})["image"])(KEYS)
    )


def test_a_crop_is_one_of_the_shifts_of_the_padded_image():
    got = views(augment.random_crop(2))
    assert got.shape == (400, 6, 5, 3) and got.dtype == np.uint8
    padded = np.pad(np.asarray(IMAGE), ((2, 2), (2, 2), (0, 0)))
    shifts = [padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
    which = (got[:, None] == np.stack(shifts)[None]).all(axis=(2, 3, 4))
    assert (which.sum(axis=1) == 1).all()
    assert which.any(axis=0).all()  # each of the 25 shifts occurs
    np.testing.assert_array_equal(views(augment.random_crop(0)), np.broadcast_to(IMAGE, got.shape))


def test_a_flip_mirrors_columns_with_its_probability():
    got = views(augment.random_flip())
    mirrored = (got == np.asarray(IMAGE)[None, :, ::-1]).all(axis=(1, 2, 3))
    same = (got == np.asarray(IMAGE)[None]).all(axis=(1, 2, 3))
    assert (mirrored ^ same).all()
    assert 150 < mirrored.sum() < 250
    always = views(augment.random_flip(probability=1.0))
    np.testing.assert_array_equal(always, np.broadcast_to(IMAGE[:, ::-1], always.shape))


def test_noise_has_its_scale():
    image = jnp.full((6, 5, 3), 0.5)
    got = views(augment.additive_noise(0.2), image)
    assert abs(got.mean() - 0.5) < 0.01 and abs(got.std() - 0.2) < 0.01


def test_normalise_divides_uint8_by_255_and_floats_not():
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    function = augment.normalise(mean, std)
    want = (np.asarray(IMAGE, np.float64) / 255 - mean) / std
    got = function(None, {"image": IMAGE})["image"]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    floats = function(None, {"image": IMAGE.astype(jnp.float32) / 255})["image"]
    np.testing.assert_allclose(floats, want, rtol=1e-5, atol=1e-6)
    vector = augment.normalise(1.0, 2.0, column="x")(None, {"x": jnp.array([3.0, 5.0])})["x"]
    np.testing.assert_allclose(vector, [1.0, 2.0])


def test_a_composition_draws_apart_and_keeps_the_rest():
    noise = augment.additive_noise(1.0)
    example = {"image": jnp.zeros((4, 4, 1)), "label": jnp.int32(3)}
    twice = augment.compose(noise, noise)(jax.random.key(1), example)
    first = noise(jax.random.fold_in(jax.random.key(1), 0), example)["image"]
    second = noise(jax.random.fold_in(jax.random.key(1), 1), example)["image"]
    assert not np.allclose(first, second)
    np.testing.assert_allclose(twice["image"], first + second, atol=1e-6)
    assert twice["label"] == 3 and (example["image"] == 0).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: augment.random_crop(-1), ValueError, "padding must be at least 0, got -1"),
        (lambda: augment.random_flip(probability=1.5), ValueError, "probability must be between"),
        (lambda: augment.additive_noise(-0.1), ValueError, "scale must be at least 0"),
        (lambda: augment.normalise(0.5, 0.0), ValueError, "std must be above 0"),
        (lambda: augment.normalise(np.eye(2)), ValueError, "numbers or one per channel"),
        (
            lambda: augment.normalise((0.1, 0.2))(None, {"image": IMAGE}),
            ValueError,
            "mean has 2 values, image has shape \\(6, 5, 3\\)",
        ),
        (
            lambda: augment.additive_noise(1.0)(KEYS[0], {"image": IMAGE}),
            TypeError,
            "needs floats, got uint8",
        ),
        (
            lambda: augment.random_crop(1)(KEYS[0], {"image": IMAGE[..., 0]}),
            ValueError,
            "image must be \\[H, W, C\\], got shape \\(6, 5\\)",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_blurred_pixel_is_the_mean_around_it_and_the_edge_is_repeated():
    image = np.asarray(IMAGE, np.float32)
    blurred = augment.box_blur()(None, {"image": jnp.asarray(image), "label": 1})
    assert blurred["label"] == 1
    np.testing.assert_allclose(blurred["image"][2, 3], image[1:4, 2:5].mean((0, 1)), rtol=1e-5)
    corner = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")[:3, :3].mean((0, 1))
    np.testing.assert_allclose(blurred["image"][0, 0], corner, rtol=1e-5)


def test_one_of_functions_is_drawn_equally_often():
    image = jnp.asarray(IMAGE, jnp.float32)
    ways = [augment.additive_noise(0.5), augment.random_crop(2), augment.box_blur()]
    got = views(augment.one_of(*ways), image)
    blurred = np.asarray(ways[2](None, {"image": image})["image"])
    padded = np.pad(np.asarray(image), ((2, 2), (2, 2), (0, 0)))
    shifts = np.stack([padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)])
    of_blur = np.isclose(got, blurred, rtol=1e-5).all((1, 2, 3))
    of_shift = (got[:, None] == shifts[None]).all((2, 3, 4)).any(1)
    noise = got[~of_blur & ~of_shift] - np.asarray(image)
    assert 0.45 < noise.std() < 0.55
    for share in (of_blur.mean(), of_shift.mean()):
        assert abs(share - 1 / 3) < 0.08
