"""A residual network with a side path of adapters per teacher, and a router per task over all of them.

Features, for levels i, teachers k and tasks t from 1: `taughtK_I` `[B, teacher width]`, what path k says
of that teacher's level i (without paths `taught1_I`, said by the stem itself); `taskT` `[B, classes]`,
logits; `gatesT` `[B, levels, 1 + K]`, the router's shares of stem and paths.

Reference:
    Lu, Cao, Wang, "Swiss Army Knife: Synergizing Biases in Knowledge from Vision Foundation Models for
    Multi-Task Learning", 2025, on four levels of a vision transformer.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs


class Adapter(nn.Module):
    """u + s · W_up gelu(W_down u), a quarter as wide inside; s is learned."""

    @nn.compact
    def __call__(self, u):
        width = u.shape[-1]
        scale = self.param("scale", nn.initializers.ones, ())
        inside = nn.gelu(nn.Dense(width // 4, name="down")(u))
        return u + scale * nn.Dense(width, name="up")(inside)


class SidePaths(nn.Module):
    """`[B, ...]` inputs; `tasks` are the classes of each task, `paths` how many teachers have one."""

    tasks: tuple[int, ...]
    paths: int
    levels: int
    width: int
    hidden: int
    teacher_width: int

    couples = False

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(self.width, name="stem")(x.reshape(x.shape[0], -1))
        sides = [Adapter(name=f"path{k}_0")(x) for k in range(1, self.paths + 1)]
        features, mixed = {}, [0.0] * len(self.tasks)
        gates = [[] for _ in self.tasks]
        for i in range(1, self.levels + 1):
            y = nn.gelu(nn.Dense(self.hidden, name=f"in{i}")(nn.LayerNorm(name=f"norm{i}")(x)))
            x = x + nn.Dense(self.width, name=f"out{i}")(y)
            sides = [Adapter(name=f"path{k}_{i}")(a + x) for k, a in enumerate(sides, 1)]
            for k, a in enumerate(sides or [x], 1):
                seen = nn.LayerNorm(name=f"taught_norm{k}_{i}")(a)
                features[f"taught{k}_{i}"] = nn.Dense(self.teacher_width, name=f"taught{k}_{i}")(
                    seen
                )
            given = jnp.stack([x, *sides], axis=1)
            for t in range(len(self.tasks)):
                shares = self._shares(x, f"router{t + 1}_{i}", train)
                gates[t].append(shares)
                mixed[t] = mixed[t] + jnp.einsum("bk,bkd->bd", shares, given)
        for t, classes in enumerate(self.tasks):
            seen = nn.LayerNorm(name=f"task_norm{t + 1}")(mixed[t])
            features[f"task{t + 1}"] = nn.Dense(classes, name=f"task{t + 1}")(seen)
            features[f"gates{t + 1}"] = jnp.stack(gates[t], axis=1)
        return Outputs(None, features)

    def _shares(self, x, name, train):
        """`[B, 1 + paths]`: noisy in training, so that every representation is tried."""
        inside = nn.gelu(nn.Dense(self.width // 4, name=f"{name}_in")(x))
        logits = nn.Dense(1 + self.paths, name=name)(inside)
        spread = nn.softplus(nn.Dense(1 + self.paths, name=f"{name}_noise")(inside)) + 0.01
        if train and self.paths:
            logits = logits + spread * jax.random.normal(self.make_rng("dropout"), logits.shape)
        return nn.softmax(logits, axis=-1)


def side_paths(tasks, *, paths, levels=3, width=64, hidden=128, teacher_width=128) -> Network:
    """A `SidePaths` with all its features."""
    count = range(1, levels + 1)
    names = [f"taught{k}_{i}" for k in range(1, max(paths, 1) + 1) for i in count]
    names += [f"{name}{t}" for t in range(1, len(tasks) + 1) for name in ("task", "gates")]
    module = SidePaths(tuple(tasks), paths, levels, width, hidden, teacher_width)
    return adapters.from_linen(module, features=names)
