"""Adapters and examples of `kdjax.losses.dense`."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses
from tools.references.registry import Example, covers, nhwc


@covers("mmrazor_cwd")
def channel_wise(x, h):
    return jnp.mean(_channel_wise(x, h["tau"]))


@covers("cirkd_cwd_kl")
def channel_wise_of_cirkd(x, h):
    return jnp.mean(_channel_wise(x, h["T"]))


def _channel_wise(x, temperature):
    return losses.channel_wise_divergence(
        nhwc(x["fmap_s"]), nhwc(x["fmap_t"]), temperature=temperature
    )


@covers("cirkd_minibatch")
def cross_image(x, h):
    values = losses.cross_image_relation(
        nhwc(x["segf_s"]), nhwc(x["segf_t"]), temperature=h["temperature"]
    )
    return jnp.mean(values)


@covers("cirkd_skd_pairwise")
def pairwise(x, h):
    nodes_s, nodes_t = (_max_pooled(nhwc(x[name]), (2, 2)) for name in ("segf_s", "segf_t"))
    return jnp.mean(losses.pairwise_similarity(nodes_s, nodes_t))


@covers("skds_pairwise")
def pairwise_with_constant_norms(x, h):
    maps = [nhwc(x[name]) for name in ("segf_s", "segf_t")]
    window = tuple(int(side * h["scale"]) for side in maps[0].shape[1:3])
    nodes_s, nodes_t = (_constant_norm(_max_pooled(each, window)) for each in maps)
    channels = nodes_s.shape[-1]
    # The sums over channels, where ours are means; the norms pass no gradient here.
    return channels**2 * jnp.mean(losses.token_gram_distance(nodes_s, nodes_t, nodes_s, nodes_t))


def _constant_norm(nodes):
    rows = nodes.reshape(nodes.shape[0], -1, nodes.shape[-1])
    return rows / (jax.lax.stop_gradient(jnp.linalg.norm(rows, axis=-1, keepdims=True)) + 1e-8)


@covers("cirkd_ifvd")
def intra_class(x, h):
    maps_s, maps_t = nhwc(x["segf_s"]), nhwc(x["segf_t"])
    labels = _nearest(jnp.asarray(x["seg_lab"]), maps_s.shape[1:3])
    values = losses.intra_class_variation(maps_s, maps_t, labels, classes=h["classes"])
    return jnp.mean(values)


def _nearest(labels, size):
    rows, columns = (
        jnp.arange(new) * old // new for new, old in zip(size, labels.shape[1:], strict=True)
    )
    return labels[:, rows][:, :, columns]


@covers("cirkd_dsd_csd")
def category(x, h):
    maps_s, maps_t = (_average_pooled(nhwc(x[name])) for name in ("segf_s", "segf_t"))
    return jnp.mean(losses.category_similarity(maps_s, maps_t, temperature=h["tau"]))


@covers("cirkd_dsd_psd")
def pixel_attention(x, h):
    maps = (nhwc(x[name]) for name in ("fmap_s", "fmap_t", "g_s1", "g_t1"))
    return jnp.mean(losses.attention_residual(*maps))


def _max_pooled(maps, window):
    return jax.lax.reduce_window(
        maps, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *window, 1), _ceil(maps, window)
    )


def _average_pooled(maps, window=(2, 2)):
    def summed(each):
        sizes = (1, *window, 1)
        return jax.lax.reduce_window(each, 0.0, jax.lax.add, sizes, sizes, _ceil(maps, window))

    return summed(maps) / summed(jnp.ones_like(maps))


def _ceil(maps, window):
    """The padding that lets a last, partial window count."""
    over = [-side % step for side, step in zip(maps.shape[1:3], window, strict=True)]
    return ((0, 0), (0, over[0]), (0, over[1]), (0, 0))


def _normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def _two_maps(channels=4, **keywords):
    def build(rng, batch):
        return tuple(_normal(rng, batch, 3, 4, channels) for _ in range(2)), dict(keywords)

    return build


def _maps_and_labels(rng, batch):
    maps, _ = _two_maps()(rng, batch)
    labels = rng.integers(-1, 3, size=(batch, 3, 4)).astype(np.int32)
    return (*maps, labels), {"classes": 3}


def _four_maps(rng, batch):
    return tuple(_normal(rng, batch, 3, 4, channels) for channels in (4, 4, 5, 5)), {}


def _maps_and_weights(rng, batch):
    maps, _ = _two_maps()(rng, batch)
    return (*maps, rng.uniform(0.1, 1.0, size=(batch, 3, 4)).astype(np.float32)), {}


def _two_planes(rng, batch):
    return tuple(_normal(rng, batch, 4, 5) for _ in range(2)), {}


def _plane_and_box(rng, batch):
    # Not a box of ones: its maxima would be ties, where the derivative by the box has a kink.
    box = rng.uniform(size=(batch, 4, 5)).astype(np.float32)
    return (_normal(rng, batch, 4, 5), box), {}


def _three_features(rng, batch):
    return tuple(_normal(rng, batch, 6) for _ in range(3)), {}


def _per_channel(batch):
    return (batch, 4)


def _per_pixel(batch):
    return (batch, 3, 4)


def questions(rng, batch):
    s, t = (2 * rng.standard_normal((batch, 5)).astype(np.float32) for _ in range(2))
    return (s, t), {"temperature": 2.0}


def answered(rng, batch):
    logits = 2 * rng.standard_normal((batch, 5)).astype(np.float32)
    return (logits, rng.integers(0, 2, (batch, 5)).astype(np.int32)), {"positive_focus": 1.0}


def bags(rng, batch):
    s, t = (rng.standard_normal((batch, k, 4)).astype(np.float32) for k in (3, 2))
    return (s, t), {"margin": 0.5}


def heads_over_places(rng, batch):
    weights = rng.uniform(0.1, 1, (batch, 3, 5)).astype(np.float32)
    return (weights / weights.sum(-1, keepdims=True),), {}


EXAMPLES = {
    "independent_cross_entropy": Example(questions, zero_at_teacher=False),
    "asymmetric_multi_label": Example(answered, teacher=(), same=False, zero_at_teacher=False),
    "bag_margin": Example(
        bags,
        same=False,
        zero_at_teacher=False,
        not_derivative="the maximum and the hinge have kinks",
    ),
    "attention_diversity": Example(
        heads_over_places, teacher=(), same=False, zero_at_teacher=False
    ),
    "channel_wise_divergence": Example(_two_maps(temperature=4.0), where=_per_channel),
    "category_similarity": Example(_two_maps(), where=_per_channel),
    "cross_image_relation": Example(_two_maps(temperature=0.5), where=_per_pixel),
    "pairwise_similarity": Example(_two_maps(), where=_per_pixel),
    "intra_class_variation": Example(_maps_and_labels, where=_per_pixel),
    "attention_residual": Example(_four_maps, student=(0, 2), teacher=(1, 3)),
    "focal_feature_difference": Example(_maps_and_weights, where=_per_pixel),
    "attention_mask_distance": Example(_two_maps()),
    "affine_invariant_depth": Example(_two_planes, where=lambda batch: (batch, 4, 5)),
    "mask_dice_distance": Example(_two_planes, classes=(0, 1)),
    "box_projection_distance": Example(_plane_and_box, zero_at_teacher=False),
    "residual_hint": Example(_three_features, teacher=(1, 2), same=False, zero_at_teacher=False),
}
