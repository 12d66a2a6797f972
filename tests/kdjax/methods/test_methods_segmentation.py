"""Collaborative segmentation: who teaches whom, by pixel, by region and at the low layers."""

import jax
import numpy as np
import pytest
from method_steps import RNG, prepared

from kdjax import methods, networks
from kdjax.methods.segmentation import pooled

CLASSES = 3
BATCH = {
    "image": RNG.normal(size=(2, 4, 4, 1)).astype(np.float32),
    "label": RNG.integers(0, CLASSES, (2, 4, 4)).astype(np.int32),
}
NETS = {
    "convolutional": networks.unfolded_cnn(
        CLASSES, widths=(3, 4), by_pixel=True, features={"low": "stage1", "high": "stage2"}
    ),
    "transformer": networks.patch_segmenter(
        CLASSES, patch=2, width=6, depth=1, heads=1, features=("low", "high")
    ),
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cells(x, n):
    """Means over an n by n grid, by loops."""
    size = x.shape[1] // n
    rows = [
        [x[:, i * size : (i + 1) * size, j * size : (j + 1) * size].mean((1, 2)) for j in range(n)]
        for i in range(n)
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def test_collaborative_segmentation_teaches_where_the_peer_is_better():
    method = methods.collaborative_segmentation(regions=2)
    state, step = prepared(method, nets=NETS)
    after, terms = step(state, {}, {"labelled": BATCH})
    given, log_p, errors = {}, {}, {}
    for name, net in NETS.items():
        variables = {"params": state.params[name]}
        given[name] = net.apply(variables, BATCH["image"], train=False, rngs={})[0]
        log_p[name] = np.asarray(jax.nn.log_softmax(given[name].logits), float)
        chosen = np.take_along_axis(log_p[name], BATCH["label"][..., None], -1)
        errors[name] = -chosen[..., 0]
    for own, peer in (NETS, reversed(NETS)):
        better = errors[peer] < errors[own]
        assert 0 < better.mean() < 1
        kl = (np.exp(log_p[peer]) * (log_p[peer] - log_p[own])).sum(-1)
        total, count = terms[f"{own}_pixels"]
        np.testing.assert_allclose(total / count, (better * kl).mean(), rtol=1e-4)

        def projected(level, own=own):
            dense = state.params[f"{own}_{level}"]["dense"]
            kernel, bias = (np.asarray(dense[name], float) for name in ("kernel", "bias"))
            return np.asarray(given[own].features[level], float) @ kernel + bias

        high = np.asarray(given[peer].features["high"], float)
        cosine = (unit(cells(projected("high"), 2)) * unit(cells(high, 2))).sum(-1)
        behind = cells(errors[peer][..., None], 2) < cells(errors[own][..., None], 2)
        total, count = terms[f"{own}_regions"]
        np.testing.assert_allclose(total / count, (behind[..., 0] * (1 - cosine)).mean(), rtol=1e-3)
        low = np.asarray(given[peer].features["low"], float)
        gaps = (unit(cells(projected("low"), 2)) - unit(cells(low, 2))) ** 2
        total, count = terms[f"{own}_low"]
        np.testing.assert_allclose(total / count, gaps.sum(-1).mean(), rtol=1e-3)
    assert set(after.params) == {*NETS, *method.players}
    with pytest.raises(ValueError, match="3 by 3"):
        pooled(BATCH["image"], 3, 3)


def test_a_patch_segmenter_labels_the_pixels_of_its_own_patches():
    net = NETS["transformer"]
    params = net.init(jax.random.key(0), BATCH["image"])["params"]
    # Without blocks' mixing (values of attention at zero) a patch sees itself alone.
    attention = params["body"]["block1"]["attention"]
    attention["out"] = jax.tree.map(np.zeros_like, attention["out"])
    changed = BATCH["image"].copy()
    changed[:, 2:, :2] += 1.0

    def logits(image):
        return net.apply({"params": params}, image, train=False, rngs={})[0].logits

    moved = np.abs(logits(changed) - logits(BATCH["image"])).max(-1) > 1e-6
    assert moved[:, 2:, :2].all() and moved.sum() == 8
