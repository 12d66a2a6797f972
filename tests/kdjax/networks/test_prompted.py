"""A frame around an image on a frozen network, and several copies of a network as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import networks
from kdjax.networks import prompted

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(6, 3, 3, 1)).astype(np.float32)
SOURCE = networks.multilayer_perceptron(4, widths=(8,))
FIRST = jax.ShapeDtypeStruct((1, 3, 3, 1), jnp.float32)


def test_visual_prompt_frames_the_image_and_maps_the_sources_classes():
    network = prompted.visual_prompt(SOURCE, 3, canvas=(6, 6, 1))
    source = SOURCE.init(jax.random.key(1), jnp.zeros((1, 6, 6, 1)))["params"]
    params = network.init(jax.random.key(0), FIRST)["params"]
    assert set(params) == {"prompt", "kernel", "bias"}
    given = {"params": params, "frozen": {"source": source}}
    found = network.apply(given, IMAGE, train=True, rngs={})[0].logits
    params, source = jax.tree.map(np.asarray, (params, source))
    canvas = np.broadcast_to(np.tanh(params["prompt"]), (6, 6, 6, 1)).copy()
    canvas[:, 1:4, 1:4] = IMAGE
    hidden = canvas.reshape(6, -1) @ source["dense1"]["kernel"] + source["dense1"]["bias"]
    seen = np.maximum(hidden, 0) @ source["head"]["kernel"] + source["head"]["bias"]
    np.testing.assert_allclose(
        found, seen @ params["kernel"] + params["bias"], rtol=1e-4, atol=1e-5
    )


def test_visual_prompt_without_a_frame_has_a_linear_map_alone():
    network = prompted.visual_prompt(SOURCE, 3, canvas=(6, 6, 1), prompted=False)
    assert set(network.init(jax.random.key(0), FIRST)["params"]) == {"kernel", "bias"}
    with pytest.raises(ValueError, match="larger"):
        prompted.framed(jnp.zeros((1, 7, 7, 1)), jnp.zeros((6, 6, 1)))


def test_ensemble_gives_every_copy_its_part_of_the_batch():
    network = prompted.ensemble(SOURCE, 3)
    params = network.init(jax.random.key(0), FIRST)["params"]
    found = network.apply({"params": params}, IMAGE, train=False, rngs={})[0].logits
    for copy in range(3):
        one = jax.tree.map(lambda x, copy=copy: x[copy], params)
        own = slice(2 * copy, 2 * copy + 2)
        expected = SOURCE.apply({"params": one}, IMAGE[own], train=False, rngs={})[0].logits
        np.testing.assert_allclose(found[own], expected, rtol=1e-5)
    kernel = params["head"]["kernel"]
    assert not np.allclose(kernel[0], kernel[1])
