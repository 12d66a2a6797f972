"""A perceptron each of whose layers may take in a layer of another network. Features: `matching`.

Inputs are a dict: `image` `[B, ...]`; `source` `{name: [B, D]}`, the other network's layers, the arms in
the order of their names; `arms` int `[L]`, which of them each layer takes in, their number for none; and
`operators` int `[L]`, how: see `OPERATORS`. All ways have parameters; one of them is in the result.

`matching` `[B]` is the squared distance of the two states in the layers whose operator is that.

Reference:
    Murugesan, Sadashivaiah, Luss, Shanmugam, Chen, Dhurandhar, "Auto-Transfer: Learning to Route
    Transferrable Representations", 2022; which operators there are is a reconstruction.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs

OPERATORS = ("identity", "addition", "weighted", "linear", "matching", "factorised")


class RoutedMLP(nn.Module):
    """Dense layers with ReLU, each followed by the operator of its arm."""

    classes: int
    widths: tuple[int, ...]

    couples = False

    @nn.compact
    def __call__(self, inputs):
        image, source = inputs["image"], inputs["source"]
        x, names = image.reshape(len(image), -1), sorted(source)
        apart = jnp.zeros(len(x), x.dtype)
        for number, width in enumerate(self.widths):
            x = nn.relu(nn.Dense(width, name=f"dense{number + 1}")(x))
            prefix = f"route{number + 1}_"
            taken = [nn.Dense(width, name=f"{prefix}{name}")(source[name]) for name in names]
            arm, operator = inputs["arms"][number], inputs["operators"][number]
            other = jnp.einsum("abd,a->bd", jnp.stack(taken), jax.nn.one_hot(arm, len(names)))
            ways = jnp.stack(self._ways(x, other, prefix))
            joined = jnp.einsum("obd,o->bd", ways, jax.nn.one_hot(operator, len(OPERATORS)))
            some = arm < len(names)
            matched = some & (operator == OPERATORS.index("matching"))
            apart += jnp.where(matched, jnp.mean(jnp.square(x - other), axis=1), 0)
            x = jnp.where(some, joined, x)
        return Outputs(nn.Dense(self.classes, name="head")(x), {"matching": apart})

    def _ways(self, x, other, prefix):
        width = x.shape[-1]
        shares = self.param(f"{prefix}weights", nn.initializers.ones, (2,))
        linear, narrow = (
            [nn.Dense(size, name=f"{prefix}{name}_{side}") for side in ("own", "other")]
            for name, size in (("linear", width), ("factor", width // 2))
        )
        halves = [layer(y) for layer, y in zip(narrow, (x, other), strict=True)]
        return (
            x,
            x + other,
            shares[0] * x + shares[1] * other,
            linear[0](x) + linear[1](other),
            x,
            jnp.concatenate(halves, axis=-1),
        )


def routed_perceptron(classes, *, widths, features=("matching",)) -> Network:
    """A `RoutedMLP` with hidden layers of even `widths`.

    Raises:
        ValueError: an odd width, which has no half.
    """
    odd = [width for width in widths if width % 2]
    if odd:
        raise ValueError(f"widths must be even, got {odd}")
    return adapters.from_linen(RoutedMLP(classes, tuple(widths)), features=features)
