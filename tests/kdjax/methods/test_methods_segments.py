"""Contrast of segments: means, what is told from what, and what the Siamese head holds back."""

import jax.numpy as jnp
import numpy as np
from method_steps import CLASSES, RNG, prepared

from kdjax import methods, networks
from kdjax.methods.segments import segment_means

NETS = {"student": networks.unfolded_cnn(CLASSES, widths=(5,), features=("stage1",))}
VIEWS = {
    "first_view": RNG.normal(size=(2, 4, 4, 1)).astype(np.float32),
    "second_view": RNG.normal(size=(2, 4, 4, 1)).astype(np.float32),
    "segments": np.tile(np.repeat(np.arange(2), 2)[:, None], (2, 1, 4)).astype(np.int32),
    "foreground": np.array([[True, False, False], [True, True, True]]),
    "index": np.arange(2, dtype=np.int32),
}
ANCHORS = [0, 3, 4]  # of 2 x 3 segments; the third of each image is empty


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_segment_means_are_means_over_a_segments_pixels():
    maps = RNG.normal(size=(2, 4, 4, 5)).astype(np.float32)
    means = segment_means(maps, VIEWS["segments"], 3)
    np.testing.assert_allclose(means[1, 1], maps[1, 2:].mean((0, 1)), rtol=1e-5)
    assert np.all(means[:, 2] == 0)


def test_fac_tells_foreground_from_ground_and_spares_what_corresponds():
    method = methods.fac(feature="stage1", points=16, temperature=0.5, width=4)
    state, step = prepared(method, nets=NETS)
    _, terms = step(state, {}, {"views": VIEWS})
    terms = {name: (float(total / count), float(count)) for name, (total, count) in terms.items()}
    params = {"params": state.params["student"]}
    maps = [
        NETS["student"].apply(params, VIEWS[v], train=False, rngs={})[0].features["stage1"]
        for v in ("first_view", "second_view")
    ]
    rows = [np.asarray(segment_means(x, VIEWS["segments"], 3), float).reshape(6, 5) for x in maps]
    dense = {k: np.asarray(v, float) for k, v in state.params["siamese"]["dense"].items()}
    g, h = (unit((x @ dense["kernel"] + dense["bias"])[ANCHORS]) for x in rows)
    a, b = (unit(x[ANCHORS]) for x in rows)
    scores = a @ b.T / 0.5
    # All 16 pixels of an image are drawn; those of its ground are the lower half of the first image.
    ground = np.asarray(maps[1], float)[0, 2:].reshape(-1, 5)
    ground = unit(ground[ground.any(1)])
    none = 8 - len(ground)  # a pixel without features has cosine 0 with everything
    mass = np.exp(a @ ground.T / 0.5).sum(1) + none
    own = np.diag(scores)
    expected = np.mean(np.log(np.exp(own) + mass) - own)
    np.testing.assert_allclose(terms["ground"][0], expected, rtol=1e-4)
    weights = np.where(np.eye(3, dtype=bool), 1, 1 - np.maximum(g @ h.T, 0))
    expected = np.mean(np.log((weights * np.exp(scores)).sum(1)) - own)
    np.testing.assert_allclose(terms["segments"][0], expected, rtol=1e-4)
    assert {count for _, count in terms.values()} == {3.0}


def test_point_contrast_reads_the_same_pixels_in_both_views():
    method = methods.point_contrast(feature="stage1", points=16, temperature=0.5)
    state, step = prepared(method, nets=NETS)
    same = {**VIEWS, "second_view": VIEWS["first_view"]}
    values = [step(state, {}, {"views": views})[1]["points"] for views in (VIEWS, same)]
    differing, equal = (float(total / count) for total, count in values)
    assert equal < differing
    assert jnp.isfinite(differing) and values[0][1] == 32
