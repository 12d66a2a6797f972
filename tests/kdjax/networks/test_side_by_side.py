"""Members beside each other: their own parameters, their order, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks
from kdjax.networks.side_by_side import JOINED, side_by_side

MEMBER = networks.multilayer_perceptron(2, widths=(4,))
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def joined(params):
    variables = {"params": params, "model": {}, "frozen": {}}
    return side_by_side(MEMBER, 3).apply(variables, X, train=True, rngs={})[0].features[JOINED]


def test_side_by_side_is_every_member_on_its_own_in_their_order():
    params = side_by_side(MEMBER, 3).init(jax.random.key(0), X)["params"]
    members = [jax.tree.map(lambda p, k=k: p[k], params) for k in range(3)]
    assert float(jnp.abs(members[0]["head"]["kernel"] - members[1]["head"]["kernel"]).max()) > 0.1
    alone = [
        MEMBER.apply({"params": p, "model": {}, "frozen": {}}, X, train=False, rngs={})[0].logits
        for p in members
    ]
    np.testing.assert_allclose(joined(params), np.concatenate(alone, axis=1), atol=1e-6)
    turned = jax.tree.map(lambda p: p[jnp.array([2, 0, 1])], params)
    chunks = np.split(np.asarray(joined(params)), 3, axis=1)
    np.testing.assert_allclose(
        joined(turned), np.concatenate([chunks[2], chunks[0], chunks[1]], axis=1), atol=1e-6
    )


def test_side_by_side_refuses_no_member_and_members_with_state():
    with pytest.raises(ValueError, match="copies"):
        side_by_side(MEMBER, 0)
    normalised = networks.resnet8(2)
    with pytest.raises(ValueError, match="model state"):
        side_by_side(normalised, 2).init(
            jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
        )
