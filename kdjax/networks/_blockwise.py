r"""Causal attention by blocks: over a whole sequence, and of new tokens over a cache of M slots.

Notation: length L in n blocks of b; K key heads, G query heads each; i numbers blocks of queries, j of
keys. Over a sequence only the n (n + 1) / 2 pairs with j <= i are formed (fewer where a window ends
before them), in one scan; a running maximum and sum make each row's softmax exact. The backward pass
forms the scores again from the saved log-normaliser. Over a cache the scores of b queries exist at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 512


def causal_attention(
    query,
    key,
    value,
    segments=None,
    *,
    scale=None,
    softcap=None,
    window=None,
    reach=None,
    block=BLOCK,
):
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
        window: how many positions each reads, its own among them; a number, traced or not, or None
            for all.
        reach: an upper bound of `window` that is known when the program is made, or None: pairs of
            blocks further apart are not formed.
        block: b, how many queries meet how many keys at once. It need not divide L.

    Returns:
        `[B, L, H, E]` in the dtype of `query`.

    Raises:
        ValueError: heads that the key heads do not divide, a block below 1.
    """
    length, _, width = query.shape[1:]
    block = min(_checked(query, key, block), length)
    scale = width**-0.5 if scale is None else scale
    segments = jnp.zeros(query.shape[:2], jnp.int32) if segments is None else segments
    # Of two blocks d apart the nearest positions are (d - 1) b + 1 apart.
    apart = None if reach is None else -(-(reach - 1) // block)
    form = _Form(scale, softcap, apart)
    window = None if window is None else jnp.asarray(window, jnp.int32)
    out = _attend(form, _blocks(_grouped(query, key), block), _blocks(key, block),
                  _blocks(value, block), _blocks(segments, block), window)  # fmt: skip
    return _whole(out, query)


def cached_attention(
    query, key, value, slots, segments, held, *, scale=None, softcap=None, window=None, block=BLOCK
):
    r"""What `causal_attention` gives tokens that stand in the slots of a cache, whose own are in it.

    Args:
        query: `[B, S, H, E]`, of S new tokens.
        key, value: `[B, M, K, E]`, of all slots. A slot after a token's own is not read.
        slots: `[B, S]` integers, where the new tokens stand.
        segments: `[B, S]` integers, theirs.
        held: `[B, M]` integers, the segments of all slots.
        scale, softcap, window: as in `causal_attention`.
        block: how many queries have their scores in memory at once.

    Returns:
        `[B, S, H, E]` in the dtype of `query`.

    Raises:
        ValueError: as `causal_attention`.
    """
    block = min(_checked(query, key, block), query.shape[1])
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    places = jnp.arange(key.shape[1])[None, None]

    def attend(rows):
        q, slots, segments = rows
        s = _capped(scale * _product("bskge,bmke->bkgsm", q, key), softcap)
        seen = (places <= slots[:, :, None]) & (segments[:, :, None] == held[:, None])
        if window is not None:
            seen &= places > slots[:, :, None] - window
        # Finite, since a row without a slot of its own (it is past the last) may see nothing.
        s = jnp.where(seen[:, None, None], s, jnp.finfo(s.dtype).min)
        p = jax.nn.softmax(s, axis=-1).astype(value.dtype)
        return _product("bkgsm,bmke->bskge", p, value).astype(query.dtype)

    rows = tuple(_blocks(x, block) for x in (_grouped(query, key), slots, segments))
    return _whole(jax.lax.map(attend, rows), query)


class _Form(NamedTuple):
    """What is known of an attention when its program is made; `apart` is in blocks."""

    scale: float
    softcap: float | None
    apart: int | None


def _checked(query, key, block):
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{key.shape[2]} key heads do not divide the {query.shape[2]} query heads")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    return block


def _grouped(query, key):
    """[B, L, H, E] -> [B, L, K, G, E]."""
    return query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[-1])


def _whole(out, query):
    """[n, B, b, K, G, E] -> [B, L, H, E]."""
    out = jnp.moveaxis(out, 0, 1).reshape(query.shape[0], -1, *query.shape[2:])
    return out[:, : query.shape[1]]


def _blocks(x, block):
    """[B, L, ...] -> [n, B, b, ...]; what fills the last block is seen by itself only."""
    missing = -x.shape[1] % block
    x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def _pairs(count, apart):
    """Every (i, j) with j <= i; a row's own block first, so that its maximum is finite at once."""
    apart = count if apart is None else apart
    pairs = [(i, j) for i in range(count) for j in range(i, max(i - apart, 0) - 1, -1)]
    return jnp.asarray(np.array(pairs, np.int32))


def _product(subscripts, x, y):
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return jnp.einsum(subscripts, x, y, preferred_element_type=dtype)


def _capped(s, softcap):
    return s if softcap is None else softcap * jnp.tanh(s / softcap)


def _scores(form, pair, q, k, segments, window):
    """`[B, K, G, b, b]` of one pair of blocks, -inf where a query may not look."""
    i, j = pair
    s = _capped(form.scale * _product("bqkge,bmke->bkgqm", q[i], k[j]), form.softcap)
    inside = jnp.arange(q.shape[2])
    query, key = inside[:, None] + i * q.shape[2], inside[None, :] + j * q.shape[2]
    seen = query >= key
    if window is not None:
        seen &= key > query - window
    seen = seen[None] & (segments[i][:, :, None] == segments[j][:, None, :])
    return jnp.where(seen[:, None, None], s, -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(form, q, k, v, segments, window):
    return _forward(form, q, k, v, segments, window)[0]


def _forward(form, q, k, v, segments, window):
    blocks, batch, block, heads, group, _ = q.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)

    def step(carried, pair):
        out, largest, mass = carried
        i, j = pair
        s = _scores(form, pair, q, k, segments, window)
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
    (out, largest, mass), _ = jax.lax.scan(step, start, _pairs(blocks, form.apart))
    out = jnp.moveaxis(out / mass[..., None], 4, 2).astype(q.dtype)
    return out, (q, k, v, segments, window, out, largest + jnp.log(mass))


def _backward(form, saved, by_out):
    q, k, v, segments, window, out, normaliser = saved
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    drift = jnp.sum(by_out.astype(dtype) * out.astype(dtype), axis=-1)
    drift = jnp.moveaxis(drift, 2, 4)

    def step(carried, pair):
        by_q, by_k, by_v = carried
        i, j = pair
        s = _scores(form, pair, q, k, segments, window)
        p = jnp.exp(s - normaliser[i][..., None])
        by_p = _product("bqkge,bmke->bkgqm", by_out[i], v[j])
        by_s = form.scale * p * (by_p - drift[i][..., None])
        if form.softcap is not None:
            capped = jnp.where(p > 0, s, jnp.zeros_like(s))
            by_s *= 1 - jnp.square(capped / form.softcap)
        by_s, p = by_s.astype(q.dtype), p.astype(v.dtype)
        return (
            by_q.at[i].add(_product("bkgqm,bmke->bqkge", by_s, k[j])),
            by_k.at[j].add(_product("bkgqm,bqkge->bmke", by_s, q[i])),
            by_v.at[j].add(_product("bkgqm,bqkge->bmke", p, by_out[i])),
        ), None

    start = tuple(jnp.zeros(x.shape, dtype) for x in (q, k, v))
    sums, _ = jax.lax.scan(step, start, _pairs(q.shape[0], form.apart))
    return *(s.astype(x.dtype) for s, x in zip(sums, (q, k, v), strict=True)), None, None


_attend.defvjp(_forward, _backward)
