"""What placement asks of a step: shardings by name, and a loss by the parts of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.train import constrainer, make_mesh, per_shard

MESH = make_mesh("data=2,fsdp=2,tensor=2")
AXES = {"batch": ("data", "fsdp"), "heads": "tensor"}
RNG = np.random.default_rng(0)


def test_activations_are_split_by_name():
    constrain = constrainer(MESH, AXES)
    x = jnp.zeros((8, 3, 4))
    split = jax.jit(lambda x: constrain(x, ("batch", "length", "heads")))(x)
    assert split.sharding.shard_shape(x.shape) == (2, 3, 2)
    alone = jax.jit(lambda x: constrain(x, ("batch", "length", "heads")))(x[:1])
    assert alone.sharding.shard_shape((1, 3, 4)) == (1, 3, 2)


def test_what_does_not_fit_is_refused():
    constrain = constrainer(MESH, AXES)
    with pytest.raises(ValueError, match="batch .*: 4 do not divide the 6 of \\(6, 3\\)"):
        constrain(jnp.zeros((6, 3)), ("batch", "length"))
    with pytest.raises(ValueError, match="\\(6, 3\\) has not the axes"):
        constrain(jnp.zeros((6, 3)), ("batch",))
    with pytest.raises(ValueError, match="heads: the mesh has no axes \\['model'\\]"):
        constrainer(MESH, {"heads": "model"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_by_parts_is_the_loss(dtype):
    rows = {"x": jnp.asarray(RNG.normal(size=(8, 5)), dtype)}
    head = {"w": jnp.asarray(RNG.normal(size=(5, 6)), dtype), "scale": jnp.float32(2)}

    def totals(examples, shared):
        z = jnp.tanh(shared["scale"] * (examples["x"] @ shared["w"]).astype(jnp.float32))
        return jnp.sum(z), jnp.float32(len(examples["x"]))

    def value(function):
        def total(rows, head):
            total, count = function(rows, head)
            return total, count

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))

    parts = value(per_shard(MESH)(totals))(rows, head)
    wanted = value(totals)(rows, head)
    assert float(parts[0][1]) == 8
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.float32(a), np.float32(b), rtol=tolerance, atol=tolerance
        ),
        parts,
        wanted,
    )
    # Every part sees its own examples only.
    sizes = []
    jax.eval_shape(
        per_shard(MESH)(lambda e, s: sizes.append(e["x"].shape) or 0.0 * s["scale"]), rows, head
    )
    assert sizes == [(2, 5)]
