"""Networks around a network: a trained picture frame on a frozen one, and several copies as one."""

import math

import jax
import jax.numpy as jnp

from kdjax.networks.adapters import from_function
from kdjax.networks.network import Network
from kdjax.networks.sizes import output_shapes


def visual_prompt(
    source: Network, classes: int, *, canvas: tuple[int, int, int], prompted: bool = True
) -> Network:
    """A frozen classifier read through a learned frame of pixels and a linear map of its classes.

    logits = f(x on a zero canvas + tanh(W) off x) A + b. Parameters: `prompt` W (`canvas`, from N(0, 1)),
    `kernel` A `[source classes, classes]`, `bias` b. f's own parameters are read at `source`: hand them
    over as frozen leaves, `frozen[NAME] = {"source": params}`.

    Args:
        source: f, for images `[B, *canvas]`.
        classes: C of the result.
        canvas: height, width and channels; the image lies in its centre.
        prompted: False leaves the frame empty: the linear map alone.

    Raises:
        ValueError: a source without logits; at the first pass, images larger than the canvas.

    Li et al., "Exploring the Benefits of Visual Prompting in Differential Privacy", 2023.
    """
    seen = output_shapes(source, jax.ShapeDtypeStruct((1, *canvas), jnp.float32)).logits
    if seen is None:
        raise ValueError("source must give logits, and gives features alone")
    shape = seen.shape

    def init(key, inputs):
        del inputs
        frame, kernel = jax.random.split(key)
        scale = 1 / math.sqrt(shape[-1])
        params = {
            "kernel": scale * jax.random.normal(kernel, (shape[-1], classes)),
            "bias": jnp.zeros(classes),
        }
        return {**params, "prompt": jax.random.normal(frame, canvas)} if prompted else params

    def apply(params, inputs):
        x = framed(inputs, params["prompt"]) if prompted else framed(inputs, jnp.zeros(canvas))
        seen, _ = source.apply({"params": params["source"]}, x, train=False, rngs={})
        return seen.logits @ params["kernel"] + params["bias"][None]

    return from_function(init, apply)


def framed(image, prompt):
    """`[B, h, w, C]` in the centre of a canvas that shows tanh(`prompt`) `[H, W, C]` around it."""
    missing = [big - small for big, small in zip(prompt.shape[:2], image.shape[1:3], strict=True)]
    if min(missing) < 0:
        raise ValueError(f"the canvas is {prompt.shape} and the image {image.shape[1:]}, larger")
    sides = [(each // 2, each - each // 2) for each in missing]
    inside = jnp.pad(image, ((0, 0), *sides, (0, 0)))
    border = jnp.pad(jnp.zeros(image.shape[1:3]), sides, constant_values=1.0)
    return inside + (border[..., None] * jnp.tanh(prompt))[None]


def ensemble(network: Network, copies: int) -> Network:
    """`copies` networks as one, each for its own part of a batch: `[copies · n, ...]` in its order.

    Their parameters have a leading axis of copies; frozen leaves and no state are shared.
    """

    def init(key, inputs):
        keys = jax.random.split(key, copies)
        return {**jax.vmap(lambda key: network.init(key, inputs))(keys), "model": {}}

    def apply(variables, inputs, *, train, rngs):
        parts = jax.tree.map(lambda x: x.reshape(copies, -1, *x.shape[1:]), inputs)

        def one(params, part):
            own = {"params": params, "frozen": variables.get("frozen", {})}
            return network.apply(own, part, train=train, rngs=rngs)[0]

        found = jax.vmap(one)(variables["params"], parts)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found), variables.get(
            "model", {}
        )

    return Network(init, apply, network.couples)
