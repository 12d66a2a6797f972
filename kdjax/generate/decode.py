"""Texts drawn from a network, or from a mixture of two, a token at a time.

Notation: B examples, P slots of prompts, L new tokens, V classes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.generate import cache, sampling
from kdjax.networks import Network


class Generated(NamedTuple):
    """New tokens `[B, L]`, which of them are text, and the log-probability each was drawn with.

    The token that stops a text is part of it; what follows is that token again and masked.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array


class Mixture(NamedTuple):
    """Another network over the same classes that text is drawn from together with the first.

    `weight` is its part: 0.2 of a teacher in MiniLLM.
    """

    network: Network
    variables: Any
    weight: jax.Array | float


def generate(
    network: Network,
    variables,
    prompts,
    *,
    length: int,
    key,
    mask=None,
    index=None,
    temperature=1.0,
    top_k: int | None = None,
    top_p=None,
    stop_token: int | None = None,
    mixture: Mixture | None = None,
) -> Generated:
    """Draws `length` tokens after each prompt, in one program.

    What an example is given follows from the key and its own index alone: not from its neighbours, its
    place in the batch or how far its prompt is padded.

    Args:
        network: one that takes a cache, see `kdjax.generate.cache`, and gives logits.
        variables: its `{"params", "frozen", "model"}`.
        prompts: `[B, P]` integers, padded on the left: see `left_padded`.
        length: L.
        key: of the draws.
        mask: `[B, P]` boolean, false on the padding, or None: there is none.
        index: `[B]` integers, by which examples draw apart; None is their place in the batch.
        temperature, top_k, top_p: see `sampling_log_probs`; a temperature of 0 takes the most
            probable token. Temperature and top_p may be traced.
        stop_token: a text ends with it; None: all are `length` tokens.
        mixture: a second network; its probabilities and those of the first are mixed, and what
            temperature, top_k and top_p say is of the mixture.

    Returns:
        `Generated`; `log_probs` are of the distribution drawn from, after temperature, top_k and
        top_p.

    Raises:
        TypeError: prompts that are not integers. ValueError: shapes, a prompt without text or not
        padded on the left, a length below 1, a network that takes no cache, and as
        `sampling_log_probs` and `mixed`.

    Reference:
        Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024, for
        the mixture.
    """
    sampling.check_options(temperature=temperature, top_k=top_k, top_p=top_p)
    if mixture is not None:
        sampling.check_weight(mixture.weight)
    prompts, padding, index = checked(prompts, mask, index, length)
    others = () if mixture is None else (mixture.network,)
    return _generate(
        (network, *others),
        (variables,) if mixture is None else (variables, mixture.variables),
        None if mixture is None else mixture.weight,
        prompts,
        padding,
        index,
        key,
        temperature,
        top_p,
        length=length,
        top_k=top_k,
        stop_token=stop_token,
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("length", "top_k", "stop_token"))
def _generate(
    networks, variables, weight, prompts, padding, index, key, temperature, top_p, *,
    length, top_k, stop_token,
):  # fmt: skip
    models = tuple(zip(networks, variables, strict=True))
    slots = prompts.shape[1] + length - 1
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)

    def distribution(caches, tokens):
        logits, caches = zip(
            *(
                cache.extend(*model, held, tokens[:, None], padding)
                for model, held in zip(models, caches, strict=True)
            ),
            strict=True,
        )
        first = logits[0][:, 0]
        if weight is not None:
            first, other = (jax.nn.log_softmax(x[:, 0], axis=-1) for x in logits)
            first = sampling.mixed(first, other, weight)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return sampling.sampling_log_probs(first, **options), caches

    def unfinished(carried):
        step, going = carried[:2]
        return (step < length) & jnp.any(going)

    def advance(carried):
        step, going, last, caches, drawn = carried
        log_probs, caches = distribution(caches, last)
        token = draw(keys, step, log_probs)
        chosen = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        if stop_token is not None:
            token = jnp.where(going, token, stop_token)
        new = Generated(token, going, jnp.where(going, chosen, 0))
        drawn = jax.tree.map(lambda held, x: held.at[:, step].set(x), drawn, new)
        if stop_token is not None:
            going &= token != stop_token
        return step + 1, going, token, caches, drawn

    caches = tuple(cache.prefilled(*model, prompts, padding, slots) for model in models)
    dtype = jax.eval_shape(distribution, caches, prompts[:, -1])[0].dtype
    shape = (len(prompts), length)
    drawn = Generated(
        jnp.full(shape, 0 if stop_token is None else stop_token, jnp.int32),
        jnp.zeros(shape, bool),
        jnp.zeros(shape, dtype),
    )
    start = (jnp.zeros((), jnp.int32), jnp.ones(len(prompts), bool), prompts[:, -1], caches, drawn)
    return jax.lax.while_loop(unfinished, advance, start)[-1]


def draw(keys, step, log_probs):
    """`[B]` tokens; the draw of an example at a step follows from its own key and the step.

    Args:
        keys: `[B]`, one of each example.
        step: an integer, or `[B]`.
        log_probs: `[B, V]`
    """
    steps = jnp.broadcast_to(step, keys.shape[:1])
    keys = jax.vmap(jax.random.fold_in)(keys, steps)
    return jax.vmap(jax.random.categorical)(keys, log_probs).astype(jnp.int32)


def checked(prompts, mask, index, length):
    """(prompts, padding `[B]`, index `[B]`) of what a caller gave, or an error that names it."""
    prompts = jnp.asarray(prompts)
    if prompts.ndim != 2 or not jnp.issubdtype(prompts.dtype, jnp.integer) or not prompts.size:
        kind = TypeError if not jnp.issubdtype(prompts.dtype, jnp.integer) else ValueError
        raise kind(f"prompts must be integers [B, P], got {prompts.dtype} {prompts.shape}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if mask is None:
        mask = np.ones(prompts.shape, bool)
    if mask.shape != prompts.shape or mask.dtype != bool:
        raise ValueError(
            f"mask must be boolean {prompts.shape} as prompts are, got {mask.dtype} {mask.shape}"
        )
    if not isinstance(mask, jax.core.Tracer):
        whole = np.asarray(mask)
        if not whole[:, -1].all() or (whole[:, :-1] > whole[:, 1:]).any():
            raise ValueError(
                "mask must be false, then true to the last column: prompts are padded on the left"
            )
    index = jnp.arange(len(prompts)) if index is None else jnp.asarray(index)
    if index.shape != (len(prompts),):
        raise ValueError(f"index must be [{len(prompts)}], got {index.shape}")
    padding = jnp.sum(~jnp.asarray(mask), axis=1, dtype=jnp.int32)
    return prompts.astype(jnp.int32), padding, index
