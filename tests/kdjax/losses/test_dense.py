"""Losses of dense prediction, against loops in float64 NumPy, and what masks and symmetries ask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses

B, H, W, C = 2, 3, 4, 5
P = H * W
PIXELS = np.random.default_rng(9).uniform(size=(B, H, W)) < 0.6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def maps(rng):
    return rng.normal(size=(2, B, H, W, C))


def rows(f):
    return f.reshape(f.shape[0], -1, f.shape[-1])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def divergence(p, q):
    return np.sum(p * np.log(p / q), axis=-1)


def test_channel_wise_divergence_is_its_definition(maps):
    s, t = (np.moveaxis(rows(f), 1, 2) / 3.0 for f in maps)
    wanted = 9.0 * divergence(softmax(t), softmax(s))
    np.testing.assert_allclose(losses.channel_wise_divergence(*maps, temperature=3.0), wanted, 1e-9)


def test_channel_wise_divergence_ignores_pixels_at_minus_infinity_on_both_sides(maps):
    hidden = np.where(np.arange(W)[:, None] < 2, maps, -np.inf)
    wanted = losses.channel_wise_divergence(*maps[:, :, :, :2])
    np.testing.assert_allclose(losses.channel_wise_divergence(*hidden), wanted, 1e-9)
    gradient = jax.grad(lambda s: jnp.sum(losses.channel_wise_divergence(s, hidden[1])))(hidden[0])
    assert np.all(gradient[:, :, 2:] == 0)


@pytest.mark.parametrize("kept", [np.ones((B, C), bool), np.arange(C) < [[5], [2]]])
def test_category_similarity_is_its_definition_between_sizes(rng, maps, kept):
    other = rng.normal(size=(B, H + 1, W, C))
    q, p = (softmax(np.moveaxis(rows(f), 1, 2) / 2.0) for f in (maps[0], other))
    wanted = np.zeros((B, C))
    for b, i in np.argwhere(kept):
        pairs = np.flatnonzero(kept[b])
        wanted[b, i] = np.mean([(q[b, i] @ q[b, j] - p[b, i] @ p[b, j]) ** 2 for j in pairs])
    values = losses.category_similarity(maps[0], other, temperature=2.0, where=kept)
    np.testing.assert_allclose(values, wanted, 1e-9)


@pytest.mark.parametrize("kept", [np.ones((B, H, W), bool), PIXELS], ids=["all", "some"])
def test_cross_image_relation_is_its_definition_between_widths(rng, maps, kept):
    other = rng.normal(size=(B, H, W, C + 2))
    s, t, flat = unit(rows(maps[0])), unit(rows(other)), kept.reshape(B, P)
    wanted = np.zeros((B, P))
    for b, i in np.argwhere(flat):
        wanted[b, i] = np.mean(
            [
                divergence(
                    softmax(t[k, flat[k]] @ t[b, i] / 0.3), softmax(s[k, flat[k]] @ s[b, i] / 0.3)
                )
                for k in range(B)
            ]
        )
    values = losses.cross_image_relation(maps[0], other, temperature=0.3, where=kept)
    np.testing.assert_allclose(values, wanted.reshape(B, H, W), 1e-9)


def test_cross_image_relation_does_not_count_an_image_without_kept_pixels(maps):
    kept = np.stack([np.ones((H, W), bool), np.zeros((H, W), bool)])
    wanted = losses.cross_image_relation(*maps[:, :1])
    values = losses.cross_image_relation(*maps, where=kept)
    np.testing.assert_allclose(values[:1], wanted, 1e-9)
    assert np.all(values[1] == 0)


@pytest.mark.parametrize("kept", [np.ones((B, H, W), bool), PIXELS], ids=["all", "some"])
def test_pairwise_similarity_is_its_definition_between_widths(rng, maps, kept):
    other = rng.normal(size=(B, H, W, C + 2))
    s, t, flat = unit(rows(maps[0])), unit(rows(other)), kept.reshape(B, P)
    wanted = np.zeros((B, P))
    for b, i in np.argwhere(flat):
        pairs = np.flatnonzero(flat[b])
        wanted[b, i] = np.mean([(s[b, i] @ s[b, j] - t[b, i] @ t[b, j]) ** 2 for j in pairs])
    values = losses.pairwise_similarity(maps[0], other, where=kept)
    np.testing.assert_allclose(values, wanted.reshape(B, H, W), 1e-9)


@pytest.mark.parametrize("kept", [np.ones((B, H, W), bool), PIXELS], ids=["all", "some"])
def test_intra_class_variation_is_its_definition_and_ignores_other_labels(rng, maps, kept):
    labels = rng.integers(-1, 4, size=(B, H, W)).astype(np.int32)
    wanted = np.zeros((B, H, W))
    for b, i, j in np.argwhere(kept & (labels >= 0) & (labels < 3)):
        members = kept[b] & (labels[b] == labels[b, i, j])
        cosines = [unit(f[b, i, j]) @ unit(f[b][members].mean(0)) for f in maps]
        wanted[b, i, j] = (cosines[0] - cosines[1]) ** 2
    values = losses.intra_class_variation(*maps, labels, classes=3, where=kept)
    np.testing.assert_allclose(values, wanted, 1e-8, atol=1e-15)


def spatial(f):
    return unit(np.sum(rows(f) ** 2, axis=-1))


def test_attention_residual_is_its_definition(rng, maps):
    later = rng.normal(size=(2, B, H, W, C + 1))
    r_s, r_t = (
        unit(spatial(late) - spatial(early)) for early, late in zip(maps, later, strict=True)
    )
    values = losses.attention_residual(*maps, *later)
    np.testing.assert_allclose(values, np.mean((r_s - r_t) ** 2, axis=1), 1e-9)


def test_attention_that_does_not_change_has_no_residual_and_no_gradient(maps):
    early = maps[0]
    # The same attention up to rounding, whatever the scale of the map.
    value, gradient = jax.value_and_grad(
        lambda late: jnp.sum(losses.attention_residual(early, maps[1], late, maps[1] ** 2))
    )(early * np.pi)
    np.testing.assert_allclose(value, B / P, 1e-9)
    assert np.all(gradient == 0)


@pytest.mark.parametrize("kept", [np.ones((B, H, W), bool), PIXELS], ids=["all", "some"])
def test_focal_feature_difference_is_its_definition(rng, maps, kept):
    weights = rng.uniform(size=(B, H, W))
    wanted = np.zeros((B, H, W))
    for b in range(B):
        s, t = (f[b][kept[b]] for f in maps)
        over_pixels = len(t) * softmax(np.abs(t).mean(1) / 0.4)
        over_channels = C * softmax(np.abs(t).mean(0) / 0.4)
        wanted[b][kept[b]] = weights[b][kept[b]] * over_pixels * ((s - t) ** 2 @ over_channels)
    values = losses.focal_feature_difference(*maps, weights, temperature=0.4, where=kept)
    np.testing.assert_allclose(values, wanted, 1e-9)


def test_attention_mask_distance_is_its_definition(maps):
    wanted = 0
    for axis, size in ((-1, P), (-2, C)):
        s, t = (size * softmax(np.abs(rows(f)).mean(axis) / 0.5) for f in maps)
        wanted = wanted + np.abs(s - t).sum(-1)
    np.testing.assert_allclose(losses.attention_mask_distance(*maps), wanted, 1e-9)


@pytest.mark.parametrize("kept", [np.ones((B, H, W), bool), PIXELS], ids=["all", "some"])
def test_affine_invariant_depth_is_its_definition(rng, kept):
    depths = rng.normal(size=(2, B, H, W))
    wanted = np.zeros((B, H, W))
    for b in range(B):
        normal = [d[b][kept[b]] - np.median(d[b][kept[b]]) for d in depths]
        normal = [d / np.mean(np.abs(d)) for d in normal]
        wanted[b][kept[b]] = np.abs(normal[0] - normal[1])
    values = losses.affine_invariant_depth(*depths, where=kept)
    np.testing.assert_allclose(values, wanted, 1e-9)
    moved = losses.affine_invariant_depth(3 * depths[0] - 8, depths[1], where=kept)
    np.testing.assert_allclose(moved, values, 1e-9)


def dice_distance(q, m):
    return 1 - 2 * np.sum(q * m) / (np.sum(q**2) + np.sum(m**2))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_mask_dice_distance_is_its_definition(rng):
    s, t = rng.normal(size=(2, B, H, W))
    wanted = [dice_distance(sigmoid(a), sigmoid(b)) for a, b in zip(s, t, strict=True)]
    np.testing.assert_allclose(losses.mask_dice_distance(s, t), wanted, 1e-9)


def test_box_projection_distance_is_its_definition(rng):
    s, box = rng.normal(size=(B, H, W)), np.zeros((B, H, W))
    box[:, 1:, 1:3] = 1
    wanted = [
        sum(dice_distance(sigmoid(a).max(axis), m.max(axis)) for axis in (0, 1))
        for a, m in zip(s, box, strict=True)
    ]
    np.testing.assert_allclose(losses.box_projection_distance(s, box), wanted, 1e-9)


def test_residual_hint_is_its_definition(rng):
    r, t, a = rng.normal(size=(3, B, H, W, C))
    missing = np.abs(t - a)
    top = missing.reshape(B, -1).max(1).reshape(B, 1, 1, 1)
    target = np.where(missing < 0.5 * top, 0, missing)
    values = losses.residual_hint(r, t, a, threshold=0.5)
    np.testing.assert_allclose(values, np.mean((r - target) ** 2, axis=(1, 2, 3)), 1e-9)
    assert 0 < np.mean(target != 0) < 1


ROTATION_BLIND = ("cross_image_relation", "pairwise_similarity", "intra_class_variation")


@pytest.mark.parametrize("name", ROTATION_BLIND)
def test_relations_of_pixels_see_neither_a_rotation_nor_the_scale_of_a_map(rng, maps, name):
    labels, keywords = (), {}
    if name == "intra_class_variation":
        labels, keywords = (np.zeros((B, H, W), np.int32),), {"classes": 1}
    rotation = np.linalg.qr(rng.normal(size=(C, C)))[0]
    loss = getattr(losses, name)
    plain = loss(*maps, *labels, **keywords)
    turned = loss(5 * maps[0] @ rotation, maps[1], *labels, **keywords)
    np.testing.assert_allclose(turned, plain, 1e-7)
    assert np.all(plain > 0)


PIXEL_MASKED = ("cross_image_relation", "pairwise_similarity", "focal_feature_difference")


@pytest.mark.parametrize("name", PIXEL_MASKED)
def test_dropped_pixels_do_not_count_at_either_end_of_a_pair(rng, maps, name):
    more = (rng.uniform(size=(B, H, W)),) if name == "focal_feature_difference" else ()
    loss = getattr(losses, name)
    spoiled = np.where(PIXELS[..., None], maps, np.nan)
    plain = loss(*maps, *more, where=PIXELS)
    np.testing.assert_array_equal(loss(*spoiled, *more, where=PIXELS), plain)
    gradient = jax.grad(lambda s: jnp.sum(loss(s, spoiled[1], *more, where=PIXELS)))(spoiled[0])
    assert np.all(gradient[~PIXELS] == 0) and np.all(np.isfinite(gradient))
    assert np.all(plain[~PIXELS] == 0)


def test_cross_image_relation_never_holds_the_relations_of_all_pairs():
    f = jnp.ones((8, 8, 8, 4), jnp.float32)
    value = jax.jit(jax.value_and_grad(lambda s: jnp.sum(losses.cross_image_relation(s, f))))
    all_pairs = 4 * (8 * 64) ** 2
    assert value.lower(f).compile().memory_analysis().temp_size_in_bytes < 1.25 * all_pairs


def test_bad_input_is_refused_by_name(rng, maps):
    s, t = maps
    labels = np.zeros((B, H, W), np.int32)
    with pytest.raises(ValueError, match="student_maps .* teacher_maps"):
        losses.channel_wise_divergence(s, t[..., 1:])
    with pytest.raises(ValueError, match="differ in channels"):
        losses.category_similarity(s, t[..., 1:])
    with pytest.raises(ValueError, match="first 3 axes"):
        losses.pairwise_similarity(s, t[:, 1:])
    with pytest.raises(TypeError, match="labels must be integers"):
        losses.intra_class_variation(s, t, labels.astype(float), classes=3)
    with pytest.raises(ValueError, match="labels must have shape"):
        losses.intra_class_variation(s, t, labels[:, 1:], classes=3)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        losses.cross_image_relation(s, t, temperature=-1.0)
    with pytest.raises(ValueError, match="weights must have shape"):
        losses.focal_feature_difference(s, t, np.ones((B, H)))
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        losses.residual_hint(s, t, t, threshold=2.0)
