"""CLIP: the published size, cosines in one space, one tower at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import clip_model
from kdjax.networks.sizes import count_parameters, variable_shapes

SIZES = {"width": 16, "depth": 2, "heads": 2, "hidden": 24, "activation": "gelu", "epsilon": 1e-5}
IMAGE = {**SIZES, "patch": 4}
TEXT = {**SIZES, "vocabulary": 20, "positions": 8, "end": 19}
FEATURES = ("image_embedding", "text_embedding", "scale")
DRAWN = np.random.default_rng(0)
IMAGES = DRAWN.normal(size=(3, 8, 8, 3)).astype(np.float32)
TOKENS = np.array([[3, 4, 19, 0, 0], [7, 19, 0, 0, 0]])
NETWORK = clip_model(projection=6, image=IMAGE, text=TEXT, features=FEATURES)
VARIABLES = jax.tree.map(
    lambda x: DRAWN.normal(size=x.shape).astype(np.float32) * 0.4,
    jax.eval_shape(NETWORK.init, jax.random.key(0), {"images": IMAGES, "tokens": TOKENS}),
)


@functools.partial(jax.jit, static_argnums=1)
def run(inputs, network=NETWORK):
    return network.apply(VARIABLES, inputs, train=False, rngs={})[0]


def test_published_parameter_count():
    """Of ViT-B/32."""
    image = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072, "patch": 32}
    text = {"width": 512, "depth": 12, "heads": 8, "hidden": 2048, "vocabulary": 49_408}
    rest = {"activation": "gelu_sigmoid", "epsilon": 1e-5}
    network = clip_model(
        projection=512, image={**image, **rest}, text={**text, "positions": 77, "end": None, **rest}
    )
    inputs = {
        "images": jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),
        "tokens": jax.ShapeDtypeStruct((1, 77), jnp.int32),
    }
    assert count_parameters(variable_shapes(network, inputs)["params"]) == 151_277_313


def test_logits_are_scaled_cosines_of_every_pair():
    outputs = run({"images": IMAGES, "tokens": TOKENS})
    image, text = (np.float64(outputs.features[name]) for name in FEATURES[:2])
    for x in (image, text):
        np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, rtol=1e-5)
    scale = np.exp(np.float64(VARIABLES["params"]["log_scale"]))
    np.testing.assert_allclose(outputs.logits, scale * image @ text.T, rtol=1e-4, atol=1e-5)
    assert NETWORK.couples


def test_a_tower_alone_gives_its_embedding():
    both = run({"images": IMAGES, "tokens": TOKENS}).features
    for name, inputs in (("image", {"images": IMAGES}), ("text", {"tokens": TOKENS})):
        network = clip_model(projection=6, image=IMAGE, text=TEXT, features=(f"{name}_embedding",))
        alone = run(inputs, network)
        assert alone.logits is None
        np.testing.assert_allclose(
            alone.features[f"{name}_embedding"], both[f"{name}_embedding"], rtol=1e-4, atol=1e-5
        )


def test_a_text_is_read_at_its_end():
    after = TOKENS.copy()
    after[0, 3:] = 11  # behind the end: a causal tower does not see it
    before = TOKENS.copy()
    before[0, 0] = 11
    texts = [run({"images": IMAGES, "tokens": t}).features["text_embedding"] for t in (TOKENS, after, before)]  # fmt: skip
    np.testing.assert_allclose(texts[0], texts[1], rtol=1e-5, atol=1e-5)
    assert np.abs(texts[0][0] - texts[2][0]).max() > 1e-2
    largest = clip_model(projection=6, image=IMAGE, text={**TEXT, "end": None}, features=FEATURES)
    found = run({"images": IMAGES, "tokens": TOKENS}, largest).features["text_embedding"]
    np.testing.assert_allclose(found, texts[0], rtol=1e-5, atol=1e-5)


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="activation must be one of"):
        clip_model(projection=6, image={**IMAGE, "activation": "mish"}, text=TEXT)
    for inputs, message in [
        (TOKENS, "a dict with images, tokens or both"),
        ({"pixels": IMAGES}, "a dict with images, tokens or both"),
        ({"images": IMAGES[:, :7]}, "multiples of patch 4"),
        ({"tokens": np.ones((1, 9), int)}, "length 9, there are 8 positions"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(NETWORK.init, jax.random.key(0), inputs)
