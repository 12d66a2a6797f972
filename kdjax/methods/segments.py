"""Contrast between two views of images that were cut into segments without labels.

`batch["views"]` holds `first_view` and `second_view` `[B, H, W, C]`, pixel on pixel, `segments`
`[B, H, W]` integers below S, `foreground` `[B, S]` booleans and `index`. The network `student` gives
the map `feature` `[B, H, W, D]`.
"""

import jax
import jax.numpy as jnp

from kdjax.losses import info_nce
from kdjax.losses._arrays import check_at_least_one, check_not_negative, check_positive, unit
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term

VIEWS = ("first_view", "second_view")
COUPLED = {"couples": True, "gathered": True}


def point_contrast(*, feature: str, points: int = 8, temperature: float = 0.1) -> Method:
    """InfoNCE between the views of `points` pixels an image, drawn anywhere.

    Xie, Gu, Guo, Qi, Guibas, Litany, "PointContrast: Unsupervised Pre-training for 3D Point Cloud
    Understanding", 2020, with τ = 0.07 and thousands of points.
    """
    check_at_least_one(points=points)
    check_positive(temperature=temperature)

    def objective(scope):
        maps, model = _maps(scope, feature)
        drawn = [_drawn_pixels(scope, x, points).reshape(-1, x.shape[-1]) for x in maps]
        values = info_nce(*scope.gather(drawn), temperature=temperature)
        return {"points": term(values, **COUPLED)}, {"model": {"student": model}}

    return one_phase(objective)


def fac(
    *,
    feature: str,
    points: int = 8,
    temperature: float = 0.1,
    segment_weight: float = 1.0,
    width: int = 16,
) -> Method:
    """Foreground segments against points of the ground, and against the segments they do not match.

    A foreground segment's mean in one view is told, as the positive, in the other view from `points`
    drawn pixels of every image that lie in segments of the ground. Among the foreground segments of
    the batch it is told from the others as well, but another counts by one minus how far a Siamese
    linear head, trained to match segments across the views, takes the two to correspond (their
    cosine, if positive, detached): what is alike is not pushed apart.

    Liu, Xiao, Zhang, Lu, Shao, "FAC: 3D Representation Learning via Foreground Aware Feature Contrast",
    2023; formulas and numbers are a reconstruction from its abstract.
    """
    check_at_least_one(points=points)
    check_positive(temperature=temperature)
    check_not_negative(segment_weight=segment_weight)

    def siamese(shapes):
        wide = shapes["student"].features[feature].shape[-1]
        return linear_player(jax.ShapeDtypeStruct((1, wide), jnp.float32), width)

    def objective(scope):
        batch = scope.batch["views"]
        maps, model = _maps(scope, feature)
        count = batch["foreground"].shape[1]
        means = [segment_means(x, batch["segments"], count) for x in maps]
        rows = [x.reshape(-1, x.shape[-1]) for x in means]
        own = jnp.any(batch["segments"][..., None] == jnp.arange(count)[None, None, None], (1, 2))
        ahead = (batch["foreground"] & own).reshape(-1)
        pixels, behind = _ground(scope, maps[1], batch, points)
        heads = [scope.apply("siamese", x)[0].features[PROJECTED] for x in rows]
        a, b, ahead, pixels, behind, g, h = scope.gather([*rows, ahead, pixels, behind, *heads])
        a, b, pixels, g, h = (unit(x) for x in (a, b, pixels, g, h))
        ground = jnp.where(behind[None], a @ pixels.T / temperature, -jnp.inf)
        cosines = a @ b.T / temperature
        positive = jnp.diagonal(cosines)[:, None]
        from_ground = jax.nn.logsumexp(jnp.concatenate([positive, ground], 1), axis=1)
        alike = jax.lax.stop_gradient(jnp.maximum(g @ h.T, 0))
        weights = jnp.where(jnp.eye(len(a), dtype=bool), 1, 1 - alike) * ahead[None]
        from_segments = jax.nn.logsumexp(cosines, axis=1, b=weights + 1e-9)
        matched = info_nce(g, h, temperature=temperature, where=ahead)
        weight = scope.hyper["segment_weight"]
        terms = {
            "ground": term(from_ground - positive[:, 0], where=ahead, **COUPLED),
            "segments": term(from_segments - positive[:, 0], where=ahead, weight=weight, **COUPLED),
            "matching": term(matched, where=ahead, weight=weight, **COUPLED),
        }
        return terms, {"model": {"student": model}}

    return one_phase(objective, {"siamese": siamese}, segment_weight=segment_weight)


def segment_means(maps, segments, count: int):
    """`[B, count, D]`: the mean of a map `[B, H, W, D]` over each segment, zero for an empty one."""
    member = jax.nn.one_hot(segments, count)
    total = jnp.einsum("bhws,bhwd->bsd", member, maps)
    return total / jnp.maximum(member.sum((1, 2)), 1)[..., None]


def _maps(scope, feature):
    """(the maps of both views, the model state after the second)."""
    maps = []
    for view in VIEWS:
        outputs, model = scope.apply("student", scope.batch["views"][view])
        maps.append(outputs.features[feature])
    return maps, model


def _places(scope, pixels, points):
    """`[B, points]`: pixels of every image, the same in both views."""
    keys = scope.rng("pixels", scope.batch["views"]["index"])
    return jax.vmap(lambda key: jax.random.permutation(key, pixels)[:points])(keys)


def _drawn_pixels(scope, maps, points):
    """`[B, points, D]`"""
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    places = _places(scope, flat.shape[1], points)
    return jnp.take_along_axis(flat, places[..., None], axis=1)


def _ground(scope, maps, batch, points):
    """(drawn pixels `[B · points, D]`, which of them lie in segments of the ground)."""
    drawn = _drawn_pixels(scope, maps, points)
    segments = batch["segments"].reshape(len(maps), -1)
    chosen = jnp.take_along_axis(segments, _places(scope, segments.shape[1], points), axis=1)
    foreground = jnp.take_along_axis(batch["foreground"], chosen, axis=1)
    return drawn.reshape(-1, maps.shape[-1]), ~foreground.reshape(-1)
