"""A vision transformer seen as a sum of paths. Features: `paths` `[B, 1 + 2 depth, D]`, `exits`.

The residual stream at the class token is x_0 + Σ_l (m_l + f_l): what enters the first block, and what
the attention and the dense layers of each block add. Those are the `paths`, in this order. The logits
read Σ_j λ_j p_j; what later blocks read is never scaled. `exits` `[B, depth - 1, classes]` are the
logits of heads of their own on the shorter sums, up to each block but the last.

Reference:
    Chang, Wang, Luo, Wang, Shou, "Revisiting Vision Transformer from the View of Path
    Ensemble", 2023. The scale per channel and its initial one are a reconstruction.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs
from kdjax.networks.vit import vision_transformer


class PathHeads(nn.Module):
    """`[B, P, D]` paths -> logits of their sum, `scaled` or not, and of those of the first 3, 5, ..."""

    classes: int
    scaled: bool = True
    epsilon: float = 1e-6

    couples = False

    @nn.compact
    def __call__(self, paths):
        # Not slices of a cumulative sum, whose compiled gradient on CPUs is wrong (jax 0.10.2).
        exits = [
            self._head(jnp.sum(paths[:, :end], axis=1), f"exit{number}_")
            for number, end in enumerate(range(3, paths.shape[1], 2), 1)
        ]
        if self.scaled:
            paths = paths * self.param("scale", nn.initializers.ones, paths.shape[1:])[None]
        logits = self._head(jnp.sum(paths, axis=1))
        return Outputs(logits, {"exits": jnp.stack(exits, axis=1)})

    def _head(self, x, prefix=""):
        x = nn.LayerNorm(epsilon=self.epsilon, name=f"{prefix}norm")(x)
        return nn.Dense(self.classes, name=f"{prefix}head")(x)


def path_ensemble(classes, *, depth, scaled=True, features=(), **options) -> Network:
    """A `vision_transformer` of `depth` blocks and `options`, whose class token is read path by path.

    Parameters: `trunk`, the transformer's without a head; `heads`, with `scale` `[1 + 2 depth, D]`, one
    at first, unless not `scaled`, `norm`, `head`, and `exit1_norm`, `exit1_head`, ...

    Raises:
        ValueError: fewer than two blocks: there is no shorter sum.
    """
    if depth < 2:
        raise ValueError(f"depth must be at least 2, got {depth}")
    parts = [f"block{i + 1}/{part}" for i in range(depth) for part in ("attention/out", "dense2")]
    names = ["block1:input", *parts]
    trunk = vision_transformer(None, depth=depth, features=names, **options)
    top = adapters.from_linen(PathHeads(classes, scaled), features=("exits",))

    def paths_of(params, inputs):
        variables = {"params": params, "model": {}, "frozen": {}}
        given = trunk.apply(variables, inputs, train=False, rngs={})[0].features
        return jnp.stack([given[name][:, 0] for name in names], axis=1)

    def init(key, inputs):
        keys = jax.random.split(key)
        params = trunk.init(keys[0], inputs)["params"]
        shape = jax.eval_shape(paths_of, params, inputs)
        return {"trunk": params, "heads": top.init(keys[1], shape)["params"]}

    def apply(params, inputs):
        paths = paths_of(params["trunk"], inputs)
        variables = {"params": params["heads"], "model": {}, "frozen": {}}
        given = top.apply(variables, paths, train=False, rngs={})[0]
        return Outputs(given.logits, {"paths": paths, **given.features})

    return adapters.from_function(init, apply, features=features)
