"""Networks over sets of points `[B, N, D]`, in whose order nothing depends. Features: `code`.

Reference:
    Qi, Su, Mo, Guibas, "PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
    2017, without its learned alignments.
"""

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs


class PointEncoder(nn.Module):
    """The same dense layers for every point, their maximum over the points, and a dense layer."""

    widths: tuple[int, ...]
    code: int

    couples = False

    @nn.compact
    def __call__(self, points):
        x = points
        for i, width in enumerate(self.widths, 1):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        return Outputs(None, {"code": nn.Dense(self.code, name="out")(jnp.max(x, axis=1))})


def point_encoder(*, widths=(64, 128), code=32) -> Network:
    """A `PointEncoder`: points `[B, N, D]` to `code` `[B, code]`, without logits."""
    return adapters.from_linen(PointEncoder(tuple(widths), code), features=("code",))


class FieldDecoder(nn.Module):
    """The value of a field at query points, from the code of a shape."""

    widths: tuple[int, ...]

    couples = False

    @nn.compact
    def __call__(self, inputs):
        queries, code = inputs["queries"], inputs["code"]
        around = jnp.broadcast_to(code[:, None], (*queries.shape[:2], code.shape[-1]))
        x = jnp.concatenate([queries, around], axis=-1)
        for i, width in enumerate(self.widths, 1):
            x = nn.relu(nn.Dense(width, name=f"dense{i}")(x))
        return Outputs(None, {"field": nn.Dense(1, name="out")(x)[..., 0]})


def field_decoder(*, widths=(64, 64)) -> Network:
    """`{"queries": [B, Q, D], "code": [B, C]}` to `field` `[B, Q]`, without logits."""
    return adapters.from_linen(FieldDecoder(tuple(widths)), features=("field",))
