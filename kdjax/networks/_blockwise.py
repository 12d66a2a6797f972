r"""Causal attention whose scores exist one pair of blocks at a time.

Notation: length L in n blocks of b; K key heads, G query heads each; i numbers blocks of queries, j of
keys. Only the n (n + 1) / 2 pairs with j <= i are formed, in one scan; a running maximum and sum make
each row's softmax exact. The backward pass forms the scores again from the saved log-normaliser.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 512


def causal_attention(query, key, value, segments=None, *, scale=None, softcap=None, block=BLOCK):
    r"""Each position's mean of the values at and before it, weighted by the softmax of its scores.

    .. math:: o_l = \sum_{m \le l} \operatorname{softmax}_m(c \tanh(s\, q_l \cdot k_m / c))\, v_m

    without the tanh where there is no softcap c. Head h of the queries reads head h // G of the keys.
    The softmax and all sums are in at least float32.

    Args:
        query: `[B, L, H, E]`
        key, value: `[B, L, K, E]`, H = G K.
        segments: `[B, L]` integers, or None: a position reads those of its own segment only.
        scale: s, a number; None is E^(-1/2).
        softcap: c > 0, a number, or None.
        block: b, how many queries meet how many keys at once. It need not divide L.

    Returns:
        `[B, L, H, E]` in the dtype of `query`.

    Raises:
        ValueError: heads that the key heads do not divide, a block below 1.
    """
    length, heads, width = query.shape[1:]
    if heads % key.shape[2]:
        raise ValueError(f"{key.shape[2]} key heads do not divide the {heads} query heads")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    block = min(block, length)
    scale = width**-0.5 if scale is None else scale
    segments = jnp.zeros(query.shape[:2], jnp.int32) if segments is None else segments
    q = _blocks(query, block)
    q = q.reshape(*q.shape[:3], key.shape[2], heads // key.shape[2], width)
    out = _attend(scale, softcap, q, _blocks(key, block), _blocks(value, block),
                  _blocks(segments, block))  # fmt: skip
    out = jnp.moveaxis(out, 0, 1).reshape(query.shape[0], -1, heads, width)
    return out[:, :length]


def _blocks(x, block):
    """[B, L, ...] -> [n, B, b, ...]; what fills the last block is seen by itself only."""
    missing = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _pairs(count):
    """Every (i, j) with j <= i; a row's own block first, so that its maximum is finite at once."""
    pairs = [(i, j) for i in range(count) for j in range(i, -1, -1)]
    return jnp.asarray(np.array(pairs, np.int32))


def _product(subscripts, x, y):
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return jnp.einsum(subscripts, x, y, preferred_element_type=dtype)


def _scores(scale, softcap, pair, q, k, segments):
    """`[B, K, G, b, b]` of one pair of blocks, -inf where a query may not look."""
    i, j = pair
    s = scale * _product("bqkge,bmke->bkgqm", q[i], k[j])
    if softcap is not None:
        s = softcap * jnp.tanh(s / softcap)
    inside = jnp.arange(q.shape[2])
    earlier = inside[:, None] + i * q.shape[2] >= inside[None, :] + j * q.shape[2]
    seen = earlier[None] & (segments[i][:, :, None] == segments[j][:, None, :])
    return jnp.where(seen[:, None, None], s, -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(scale, softcap, q, k, v, segments):
    return _forward(scale, softcap, q, k, v, segments)[0]


def _forward(scale, softcap, q, k, v, segments):
    blocks, batch, block, heads, group, _ = q.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)

    def step(carried, pair):
        out, largest, mass = carried
        i, j = pair
        s = _scores(scale, softcap, pair, q, k, segments)
        top = jnp.maximum(largest[i], jnp.max(s, axis=-1))
        shrunk, p = jnp.exp(largest[i] - top), jnp.exp(s - top[..., None])
        added = _product("bkgqm,bmke->bkgqe", p.astype(v.dtype), v[j])
        return (
            out.at[i].set(shrunk[..., None] * out[i] + added),
            largest.at[i].set(top),
            mass.at[i].set(shrunk * mass[i] + jnp.sum(p, axis=-1)),
        ), None

    rows = (blocks, batch, heads, group, block)
    start = (
        jnp.zeros((*rows, q.shape[-1]), dtype),
        jnp.full(rows, -jnp.inf, dtype),
        jnp.zeros(rows, dtype),
    )
    (out, largest, mass), _ = jax.lax.scan(step, start, _pairs(blocks))
    out = jnp.moveaxis(out / mass[..., None], 4, 2).astype(q.dtype)
    return out, (q, k, v, segments, out, largest + jnp.log(mass))


def _backward(scale, softcap, saved, by_out):
    q, k, v, segments, out, normaliser = saved
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    drift = jnp.sum(by_out.astype(dtype) * out.astype(dtype), axis=-1)
    drift = jnp.moveaxis(drift, 2, 4)

    def step(carried, pair):
        by_q, by_k, by_v = carried
        i, j = pair
        s = _scores(scale, softcap, pair, q, k, segments)
        p = jnp.exp(s - normaliser[i][..., None])
        by_p = _product("bqkge,bmke->bkgqm", by_out[i], v[j])
        by_s = scale * p * (by_p - drift[i][..., None])
        if softcap is not None:
            capped = jnp.where(p > 0, s, jnp.zeros_like(s))
            by_s *= 1 - jnp.square(capped / softcap)
        by_s, p = by_s.astype(q.dtype), p.astype(v.dtype)
        return (
            by_q.at[i].add(_product("bkgqm,bmke->bqkge", by_s, k[j])),
            by_k.at[j].add(_product("bkgqm,bqkge->bmke", by_s, q[i])),
            by_v.at[j].add(_product("bkgqm,bqkge->bmke", p, by_out[i])),
        ), None

    start = tuple(jnp.zeros(x.shape, dtype) for x in (q, k, v))
    sums, _ = jax.lax.scan(step, start, _pairs(q.shape[0]))
    return *(s.astype(x.dtype) for s, x in zip(sums, (q, k, v), strict=True)), None


_attend.defvjp(_forward, _backward)
