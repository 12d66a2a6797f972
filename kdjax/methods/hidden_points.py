"""Learning from point sets: parts that are hidden, and teachers that see another view of the thing."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import supervised_contrast
from kdjax.losses._arrays import check_fraction, check_not_negative
from kdjax.networks.projectors import PROJECTED, linear_player
from kdjax.train.method import Method, one_phase, term


def recon(
    *,
    image_width: int,
    text_width: int,
    hidden: float = 0.6,
    generative: float = 1.0,
    contrastive: float = 1.0,
) -> Method:
    """Hidden patches are rebuilt while three tokens learn from an image and a text teacher and a contrast.

    generative · `chamfer_distance` of the hidden patches + contrastive · (smooth L1 of the image token's
    projection and `image_feature`, the same for the text token and `text_feature`, and a contrast of
    the projected class token in which equal `label`s are positives, τ = 0.1). `batch["points"]` has
    `patches`, `centres`, `label` and the teachers' features, of `image_width` and `text_width` numbers; a
    share `hidden` of every example's patches is not seen. For a `kdjax.networks.point_transformer`.

    Qi, Dong, Fan, Ge, Zhang, Ma, Yi, "Contrast with Reconstruct: Contrastive 3D Representation Learning
    Guided by Generative Pretraining", 2023: 0.6, and the sum without weights.
    """
    check_fraction(hidden=hidden)
    check_not_negative(generative=generative, contrastive=contrastive)

    def head(width):
        def make(shapes):
            tokens = shapes["student"].features["tokens"]
            return linear_player(jax.ShapeDtypeStruct((1, tokens.shape[-1]), tokens.dtype), width)

        return make

    def objective(scope):
        batch, hyper = scope.batch["points"], scope.hyper
        keys = scope.rng("hidden", batch["index"])
        count = batch["patches"].shape[1]
        order = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
        away = order < round(hidden * count)
        inputs = {"patches": batch["patches"], "centres": batch["centres"], "hidden": away}
        given = scope.apply("student", inputs)[0].features
        heads = {
            name: scope.apply(name, given["tokens"][:, i])[0].features[PROJECTED]
            for i, name in enumerate(widths)
        }
        contrast = supervised_contrast(heads["class_head"], batch["label"], temperature=0.1)
        weight = hyper["contrastive"]
        rebuilt = chamfer_distance(given["rebuilt"], batch["patches"])
        terms = {
            "rebuilt": term(rebuilt, where=away, weight=hyper["generative"]),
            "contrast": term(contrast, weight=weight, couples=True),
        }
        for name in ("image", "text"):
            values = optax.huber_loss(heads[f"{name}_head"], batch[f"{name}_feature"])
            terms[name] = term(jnp.mean(values, axis=-1), weight=weight)
        return terms, {}

    widths = {"class_head": image_width, "image_head": image_width, "text_head": text_width}
    heads = {name: head(width) for name, width in widths.items()}
    return one_phase(objective, heads, generative=generative, contrastive=contrastive)


def chamfer_distance(points, others):
    """`[...]`: the mean squared distance of each point to the nearest of the other set, both ways.

    Args:
        points: `[..., K, D]`
        others: `[..., M, D]`

    >>> chamfer_distance(jnp.array([[[0.0], [1.0]]]), jnp.array([[[0.0], [3.0]]]))
    Array([2.5], dtype=float32)
    """
    squared = jnp.sum(jnp.square(points[..., :, None, :] - others[..., None, :, :]), axis=-1)
    there, back = jnp.min(squared, axis=-1), jnp.min(squared, axis=-2)
    return jnp.mean(there, axis=-1) + jnp.mean(back, axis=-1)
