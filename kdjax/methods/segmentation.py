"""Two networks that label pixels and teach each other where each is the better one.

`batch["labelled"]` holds `image` `[B, H, W, C]` and `label` `[B, H, W]`. Both networks give logits
`[B, H, W, classes]` and the maps `low` and `high` `[B, h, w, D]`, each of its own grid and width.
"""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import reliable_peer_divergence, softened_kl_divergence
from kdjax.losses._arrays import check_at_least_one, check_not_negative, check_positive, unit
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term

PEERS = (("convolutional", "transformer"), ("transformer", "convolutional"))


def collaborative_segmentation(
    *,
    regions: int = 4,
    temperature: float = 1.0,
    pixel_weight: float = 1.0,
    region_weight: float = 0.1,
    low_weight: float = 0.1,
    selective: bool = True,
) -> Method:
    """Labels + bidirectional selective distillation by pixels and regions + low-layer mimicry.

    By pixel: T² KL(peer ‖ own) where the peer gives the label more, nothing elsewhere; without
    `selective` everywhere, as in mutual learning. By region of a grid of `regions` squared: 1 - cosine
    of the projected `high` map with the peer's where the peer's cross-entropy in the region is lower.
    By position of the coarser grid: the squared distance of the projected `low` map to the peer's, both
    of unit length. Every network detaches its peer; a linear projector for each side and level.

    Zhu, Luo, Zheng, Wang, Wang, "A Good Student is Cooperative and Reliable: CNN-Transformer
    Collaborative Learning for Semantic Segmentation", 2023; distances and weights are a reconstruction.
    """
    check_positive(temperature=temperature)
    check_at_least_one(regions=regions)
    check_not_negative(
        pixel_weight=pixel_weight, region_weight=region_weight, low_weight=low_weight
    )

    def projector(own, peer, level):
        def make(shapes):
            feature, taught = (shapes[name].features[level] for name in (own, peer))
            return linear_player(feature, taught.shape[-1])

        return make

    def objective(scope):
        batch, fixed = scope.batch["labelled"], jax.lax.stop_gradient
        given, model = {}, {}
        for name, _ in PEERS:
            given[name], model[name] = scope.apply(name, batch["image"])
        errors = {
            name: optax.softmax_cross_entropy_with_integer_labels(x.logits, batch["label"])
            for name, x in given.items()
        }
        terms = {}
        for own, peer in PEERS:
            logits = (given[own].logits, fixed(given[peer].logits))
            if selective:
                pixels = reliable_peer_divergence(*logits, batch["label"], temperature=temperature)
            else:
                pixels = softened_kl_divergence(*logits, temperature=temperature)

            def projected(level, own=own):
                name = f"{own}_{level}"
                return scope.apply(name, given[own].features[level])[0].features[PROJECTED]

            maps = projected("high"), fixed(given[peer].features["high"])
            a, b = (unit(pooled(x, regions, regions)) for x in maps)
            worse, better = (
                pooled(errors[name][..., None], regions, regions)[..., 0] for name in (own, peer)
            )
            behind = fixed(better < worse)
            low = projected("low"), fixed(given[peer].features["low"])
            grid = [min(sizes) for sizes in zip(*(x.shape[1:3] for x in low), strict=True)]
            c, d = (unit(pooled(x, *grid)) for x in low)
            hyper = scope.hyper
            terms |= {
                f"{own}_labels": term(errors[own]),
                f"{own}_pixels": term(pixels, weight=hyper["pixel_weight"]),
                f"{own}_regions": term(
                    jnp.where(behind, 1 - jnp.sum(a * b, axis=-1), 0),
                    weight=hyper["region_weight"],
                ),
                f"{own}_low": term(jnp.sum(jnp.square(c - d), axis=-1), weight=hyper["low_weight"]),
            }
        return terms, {"model": model}

    players = {
        f"{own}_{level}": projector(own, peer, level)
        for own, peer in PEERS
        for level in ("low", "high")
    }
    return one_phase(
        objective,
        trains=(*dict(PEERS), *players),
        players=players,
        pixel_weight=pixel_weight,
        region_weight=region_weight,
        low_weight=low_weight,
    )


def pooled(x, rows, columns):
    """Means of `[B, H, W, D]` over the cells of a grid of `rows` by `columns`, `[B, rows, columns, D]`.

    Raises:
        ValueError: a grid that does not divide the maps.
    """
    b, height, width, d = x.shape
    if height % rows or width % columns:
        raise ValueError(f"a grid of {rows} by {columns} must divide maps of {height} by {width}")
    return x.reshape(b, rows, height // rows, columns, width // columns, d).mean((2, 4))
