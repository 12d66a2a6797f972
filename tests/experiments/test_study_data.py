"""What studies make of images and of text: sizes, splits, windows, views that come again."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import _characters as characters
from experiments.studies import _images as images
from experiments.studies import patches, routing, stored
from kdjax.data import sources

RNG = np.random.default_rng(0)


def test_averaged_keeps_the_ink_and_pads_around_it():
    image = RNG.random((2, 6, 6, 1)).astype(np.float32)
    small = images.averaged(image, 4)
    assert small.shape == (2, 4, 4, 1)
    np.testing.assert_allclose(small.sum() * 4, image.sum(), rtol=1e-5)
    np.testing.assert_allclose(small[:, 1, 1], image[:, 1:3, 1:3].mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(images.averaged(image, 8)[:, 1:7, 1:7], image)


def test_prepared_images_are_normalised_and_streamed_by_part():
    source = sources.load_tfds("digits")
    data = images.prepare(types.SimpleNamespace(source=source))
    train = data.image[data.parts.train]
    assert abs(train.mean()) < 1e-4 and abs(train.std() - 1) < 1e-4 and data.classes == 10
    sizes = [len(getattr(data.parts, part)) for part in ("train", "validation", "test")]
    assert sum(sizes) == len(source) and abs(sizes[2] / len(source) - 0.25) < 0.01
    few = [data.stream(8, 20).plan.examples_of(seed) for seed in (0, 1)]
    assert len(few[0]) == 20 and set(few[0]) != set(few[1])
    assert np.bincount(data.label[few[0]]).tolist() == [2] * 10
    assert set(few[0]) <= set(data.parts.train)
    perfect = np.eye(10)[data.label[data.parts.test]]
    wrong = np.roll(perfect, 1, axis=1)
    found = data.right(lambda x: np.stack([perfect, wrong]))
    np.testing.assert_array_equal(found, [1, 0])
    low = data.only(data.label < 3).parts
    assert set(data.label[low.train]) == {0, 1, 2} and set(low.test) < set(data.parts.test)


def test_gaussian_images_lie_about_the_mean_of_their_class():
    data = images.prepare(types.SimpleNamespace(source=sources.load_tfds("digits")))
    image, label = images.gaussians(np.random.default_rng(0), data, 2000, 5)
    assert image.shape == (2000, 8, 8, 1) and np.bincount(label).tolist() == [200] * 10
    for c in range(10):
        own = data.image[data.parts.train[data.label[data.parts.train] == c]]
        assert np.abs(image[label == c].mean(0) - own.mean(0)).max() < 0.2
        drawn = image[label == c].reshape(200, -1)
        spread = np.linalg.svd(drawn - drawn.mean(0))[1]
        assert spread[5:].max() < 0.5 * spread[4], "five components, and what the clipping adds"


def test_windows_of_characters_come_from_disjoint_documents():
    rows = characters.windows(16, train=50, held=20)
    assert rows["train"].shape == (50, 16) and rows["test"].shape == (20, 16)
    assert rows["train"].min() >= 0 and rows["train"].max() < characters.MASK
    assert (
        len({row.tobytes() for row in rows["train"]} & {row.tobytes() for row in rows["test"]}) == 0
    )
    held = characters.masked(rows["test"], 0.3)
    assert (held["tokens"][held["masked"]] == characters.MASK).all()
    np.testing.assert_array_equal(held["tokens"][~held["masked"]], rows["test"][~held["masked"]])
    drawn = characters.masking(0.5)(jax.random.key(0), {"target": jnp.zeros(400, jnp.int32)})
    assert 150 < int(drawn["masked"].sum()) < 250
    np.testing.assert_array_equal(drawn["tokens"] == characters.MASK, drawn["masked"])


def test_the_loss_of_characters_counts_what_is_kept():
    logits = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    targets, where = RNG.integers(0, 5, (3, 4)), RNG.random((3, 4)) < 0.5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [
        -np.mean([np.log(p[s][i, j, targets[i, j]]) for i, j in zip(*where.nonzero(), strict=True)])
        for s in range(2)
    ]
    np.testing.assert_allclose(characters.loss(logits, targets, where), expected, rtol=1e-5)


def test_a_view_comes_again_by_its_seed_and_mixes_two_examples():
    image = jnp.asarray(RNG.random((5, 6, 6, 1)).astype(np.float32))
    view = jax.jit(lambda e, s: stored._seeded_view(image, e, s, shift=1, mixed=0.4))
    np.testing.assert_array_equal(view(2, 3), view(2, 3))
    assert float(jnp.abs(view(2, 3) - view(2, 4)).max()) > 0.05
    assert float(jnp.abs(view(2, 3) - view(1, 3)).max()) > 0.05
    alone = stored._seeded_view(image, 2, 3, shift=0, mixed=0.0)
    np.testing.assert_allclose(alone, image[2], atol=1e-6)


def test_paths_that_help_are_kept():
    heads = {
        "norm": {"scale": jnp.ones((1, 4)), "bias": jnp.zeros((1, 4))},
        "head": {"kernel": jnp.eye(4)[None], "bias": jnp.zeros((1, 4))},
    }
    label = np.arange(8) % 4
    right, wrong = np.eye(4)[label], 2 * np.eye(4)[(label + 1) % 4]
    heads["exit1_norm"], heads["exit1_head"] = heads["norm"], heads["head"]
    paths = jnp.asarray(np.stack([right, wrong, 0 * right, right, 0 * right], axis=1)[None])
    found = np.asarray(patches._logits_of(heads, paths, np.array([[1, 0, 1, 1, 1]])))
    np.testing.assert_array_equal(found[0].argmax(-1), label)
    worse = np.asarray(patches._logits_of(heads, paths, np.ones((1, 5))))
    assert (worse[0].argmax(-1) != label).any() or np.abs(worse - found).max() > 0.1


def test_settled_routes_are_of_one_depth_or_drawn_by_the_seed():
    shape = {"layers": 2, "arms": 3}
    for name in ("fixed", "random"):
        start = routing._settled(name, [0, 1, 2], shape)
        state = Held({}, {"weights": None, "mean": 0})
        weights = start(state, [0, 1, 2]).memory["weights"]["arms"]
        arms = np.asarray(weights).argmax(-1)
        assert arms.shape == (3, 2)
        assert (arms == [0, 1]).all() == (name == "fixed")


class Held:
    def __init__(self, params, memory):
        self.params, self.memory = params, memory

    def replace(self, **changes):
        return Held(**{**vars(self), **changes})
