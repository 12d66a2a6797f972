"""Several networks of one form beside each other, as one network: they share nothing but the input.

Reference:
    Malik, Mohbat, Haider, Rasheed, Taj, "Teacher-Class Network: A Neural Network Compression Mechanism",
    2021.
"""

import jax
import jax.numpy as jnp

from kdjax.networks import adapters
from kdjax.networks.network import Network, Outputs

JOINED = "joined"


def side_by_side(member: Network, copies: int) -> Network:
    """`copies` members of one form, each with parameters of its own. Features: `joined`.

    `joined` `[B, copies · C]` holds the members' logits `[B, C]` in their order; there are no logits.
    The parameters are the member's with a leading axis of copies.

    Args:
        member: a network without model state, whose passes draw nothing.
        copies: how many, at least one.

    Raises:
        ValueError: no copy; at `init`, a member with model state.
    """
    if copies < 1:
        raise ValueError(f"copies must be at least 1, got {copies}")

    def init(key, inputs):
        variables = jax.vmap(lambda key: member.init(key, inputs))(jax.random.split(key, copies))
        if variables.get("model"):
            raise ValueError(f"a member must have no model state, got {list(variables['model'])}")
        return variables["params"]

    def apply(params, inputs):
        def one(params):
            variables = {"params": params, "frozen": {}, "model": {}}
            return member.apply(variables, inputs, train=False, rngs={})[0].logits

        joined = jnp.moveaxis(jax.vmap(one)(params), 0, 1)
        return Outputs(None, {JOINED: joined.reshape(joined.shape[0], -1)})

    return adapters.from_function(init, apply, features=(JOINED,))
