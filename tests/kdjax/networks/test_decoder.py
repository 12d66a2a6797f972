"""Decoders: published sizes, what a token may see, and attention by blocks against a dense one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.networks import _blockwise, decoder, sizes

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 13, (2, 7)).astype(np.int32)
SHAPE = {"width": 16, "depth": 2, "heads": 4, "key_heads": 2, "hidden": 24, "block": 3}


def small(vocabulary=13, **options):
    return decoder.decoder_transformer(vocabulary, **{**SHAPE, **options})


@functools.cache
def variables(**options):
    """Parameters drawn flat: kernels wide enough that attention is far from a mean, no scale is one."""
    rng = np.random.default_rng(1)

    def draw(path, x):
        normal = rng.normal(size=x.shape).astype(np.float32)
        return 1 + 0.1 * normal if path[-1].key == "scale" else 0.2 * normal

    shapes = sizes.variable_shapes(small(**options), TOKENS)["params"]
    return {"params": jax.tree_util.tree_map_with_path(draw, shapes)}


@functools.cache
def compiled(**options):
    network = small(features=("hidden", "head"), **options)
    return jax.jit(functools.partial(network.apply, train=False, rngs={}))


def run(inputs, params=None, **options):
    given = variables(**options) if params is None else {"params": params}
    return compiled(**options)(given, inputs)[0]


def test_published_parameter_counts():
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    for preset, published in ((decoder.llama3_8b, 8.03e9), (decoder.llama3_1b, 1.24e9)):
        params = sizes.variable_shapes(preset(128_256), tokens)["params"]
        count = sizes.count_parameters(params)
        assert abs(count / published - 1) < 0.005
    assert count == 128_256 * 2048 + 2048 + 16 * (
        2 * 2048 + 2048 * 64 * (2 * 32 + 2 * 8) + 3 * 2048 * 8192
    )
    assert "head" not in params


def qkv(length, heads=4, key_heads=2, width=6, dtype=np.float32):
    shapes = [(2, length, heads, width)] + [(2, length, key_heads, width)] * 2
    return [RNG.normal(size=s).astype(dtype) for s in shapes]


def dense_attention(query, key, value, segments, scale, softcap, window=None):
    """The definition, with all scores, in float64."""
    query, key, value = (np.float64(x) for x in (query, key, value))
    out = np.zeros(query.shape)
    for b, h in np.ndindex(query.shape[0], query.shape[2]):
        group = h // (query.shape[2] // key.shape[2])
        for row in range(query.shape[1]):
            first = 0 if window is None else max(row - window + 1, 0)
            seen = [m for m in range(first, row + 1) if segments[b, m] == segments[b, row]]
            s = scale * key[b, seen, group] @ query[b, row, h]
            s = s if softcap is None else softcap * np.tanh(s / softcap)
            p = np.exp(s - s.max())
            out[b, row, h] = p @ value[b, seen, group] / p.sum()
    return out


SEGMENTS = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 2, 2], [3, 3, 3, 3, 3, 3, 4, 4, 4, 4]], np.int32)


@pytest.mark.parametrize("block, softcap", [(1, None), (3, None), (5, 1.5), (512, 1.5)])
def test_attention_by_blocks_is_the_definition(block, softcap):
    arrays = qkv(10)
    out = _blockwise.causal_attention(*arrays, SEGMENTS, scale=0.7, softcap=softcap, block=block)
    wanted = dense_attention(*arrays, SEGMENTS, 0.7, softcap)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window, reach", [(1, True), (4, True), (4, False), (7, True)])
def test_a_window_is_its_last_positions_whether_or_not_blocks_are_left_out(window, reach):
    arrays = qkv(10)
    bound = window if reach else None
    out = _blockwise.causal_attention(*arrays, SEGMENTS, window=window, reach=bound, block=3)
    wanted = dense_attention(*arrays, SEGMENTS, 6**-0.5, None, window)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_pairs_beyond_the_reach_are_not_formed():
    assert len(_blockwise._pairs(4, None)) == 10
    assert len(_blockwise._pairs(4, 1)) == 7 and len(_blockwise._pairs(4, 0)) == 4


def materialised(query, key, value, segments, softcap, window):
    query = query.reshape(*query.shape[:2], key.shape[2], -1, query.shape[-1])
    s = query.shape[-1] ** -0.5 * jnp.einsum("bqkge,bmke->bkgqm", query, key)
    s = s if softcap is None else softcap * jnp.tanh(s / softcap)
    length = s.shape[-1]
    seen = jnp.tril(jnp.ones((length, length), bool))[None]
    seen &= segments[:, :, None] == segments[:, None, :]
    seen &= ~jnp.tril(jnp.ones((length, length), bool), -window)[None]
    p = jax.nn.softmax(jnp.where(seen[:, None, None], s, -jnp.inf), axis=-1)
    out = jnp.einsum("bkgqm,bmke->bqkge", p, value)
    return out.reshape(*out.shape[:2], -1, out.shape[-1])


@pytest.mark.parametrize("softcap, window", [(None, 10), (1.5, 5)])
def test_gradients_of_attention_by_blocks(softcap, window):
    arrays, by_out = qkv(10), RNG.normal(size=(2, 10, 4, 6)).astype(np.float32)

    def weighed(attention):
        return jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v) * by_out), argnums=(0, 1, 2))

    given = {"segments": SEGMENTS, "softcap": softcap, "window": window}
    blocks = functools.partial(_blockwise.causal_attention, **given, reach=window, block=4)
    dense = functools.partial(materialised, **given)
    with jax.default_matmul_precision("highest"):
        both = (jax.jit(weighed(attention))(*arrays) for attention in (blocks, dense))
        for ours, wanted in zip(*both, strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_attention_holds_no_scores_of_all_pairs():
    length, block = 64, 8
    arrays = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in qkv(length)]

    def loss(q, k, v):
        return jnp.sum(_blockwise.causal_attention(q, k, v, block=block).astype(jnp.float32))

    jaxpr = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(*arrays))
    assert f"{length},{length}]" not in jaxpr and f"{block},{block}]" in jaxpr
    out = jax.eval_shape(_blockwise.causal_attention, *arrays)
    assert out.dtype == jnp.bfloat16


def test_grouped_heads_are_repeated_key_heads():
    query, key, value = qkv(7, heads=6, key_heads=2)
    grouped = _blockwise.causal_attention(query, key, value, block=3)
    repeated = (np.repeat(x, 3, axis=2) for x in (key, value))
    whole = _blockwise.causal_attention(query, *repeated, block=3)
    np.testing.assert_allclose(grouped, whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="4 key heads do not divide the 6"):
        _blockwise.causal_attention(query, query[:, :, :4], query[:, :, :4])


def test_scores_depend_on_the_distance_of_rotated_positions():
    query, key = RNG.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def score(at, other):
        rotated = [
            decoder.rotate(x, jnp.full((1, 1), p), base=100.0)
            for x, p in ((query, at), (key, other))
        ]
        return float(jnp.sum(rotated[0] * rotated[1]))

    np.testing.assert_allclose(score(11, 4), score(7, 0), rtol=1e-5)
    assert abs(score(11, 4) - score(11, 5)) > 1e-2
    np.testing.assert_allclose(score(5, 5), float(np.sum(query * key)), rtol=1e-5)
    # The first pair turns by one radian a position, the last by base^(-3/4).
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., 0] = x[..., 3] = 1
    turned = np.asarray(decoder.rotate(x, jnp.ones((1, 1)), base=100.0))[0, 0, 0]
    wanted = [np.cos(1), np.cos(100**-0.75), np.sin(1), np.sin(100**-0.75)]
    np.testing.assert_allclose(turned[[0, 3, 4, 7]], wanted, rtol=1e-5)


def test_scaled_rotary_positions_slow_the_slow_pairs():
    scaling = (8.0, 1.0, 4.0, 100)
    # One pair turns often in 100 positions, one between 1 and 4 times, one less than once.
    speeds = 1000.0 ** (-np.arange(4) / 4)
    turns = 100 * speeds / (2 * np.pi)
    assert turns[0] > 4 and 1 < turns[1] < 4 and turns[2] < 1
    kept = (turns[1] - 1) / 3
    speeds *= [1, kept + (1 - kept) / 8, 1 / 8, 1 / 8]
    x = np.concatenate([np.ones(4), np.zeros(4)]).astype(np.float32)[None, None, None]
    turned = decoder.rotate(x, jnp.full((1, 1), 5), base=1000.0, scaling=scaling)[0, 0, 0]
    np.testing.assert_allclose(turned[:4], np.cos(5 * speeds), rtol=1e-5)
    np.testing.assert_allclose(turned[4:], np.sin(5 * speeds), rtol=1e-4)


def test_later_tokens_change_nothing_before_them():
    before = run(TOKENS).logits
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 13
    after = run(changed).logits
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.all(np.abs(before[:, 4:] - after[:, 4:]).max(-1) > 1e-4)


def test_packed_sequences_are_apart():
    packed = np.concatenate([TOKENS[0, :3], TOKENS[1, :4]])
    # The second row's positions start again: that is the same, since only distances count.
    rows = {
        "tokens": np.stack([packed, packed]),
        "segments": np.array([[1, 1, 1, 2, 2, 2, 2]] * 2, np.int32),
        "positions": np.array([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3]], np.int32),
    }
    whole = run(rows).logits
    apart = run(TOKENS).logits
    apart = np.concatenate([apart[0, :3], apart[1, :4]])
    for row in whole:
        np.testing.assert_allclose(row, apart, rtol=1e-3, atol=1e-4)
    together = run(rows["tokens"]).logits
    assert np.abs(together[0, 3:] - apart[3:]).max() > 1e-2


FAMILIES = {
    "llama": {"rotary_scaling": (8.0, 1.0, 4.0, 24)},
    "mistral": {"windows": (3,), "head_width": 6},
    "qwen2": {"attention_bias": True, "tied": True},
    "qwen3": {"query_key_norm": True, "head_width": 6},
    "gemma2": {
        "tied": True, "activation": "gelu", "softcap": 3.0, "attention_softcap": 2.0,
        "attention_scale": 0.3, "output_norms": True, "embedding_scale": 4.0, "windows": (2, None),
    },
}  # fmt: skip


def restated(params, tokens, options):
    """The family's published formulas in float64, one sequence, all scores, heads repeated."""
    p = jax.tree.map(np.float64, params)
    o = {"softcap": None, "attention_softcap": None, "embedding_scale": 1.0, **SHAPE, **options}

    def norm(x, w):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5) * w["scale"]

    def linear(x, w):
        flat = w["kernel"].reshape(x.shape[-1], -1) if x.ndim == 2 else w["kernel"]
        return x @ flat + w.get("bias", np.zeros(1)).reshape(1, -1)

    def activation(x):
        if o.get("activation") == "gelu":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x / (1 + np.exp(-x))

    def turned(x):
        speeds = 10_000.0 ** (-np.arange(0, x.shape[-1], 2) / x.shape[-1])
        if "rotary_scaling" in o:
            factor, low, high, length = o["rotary_scaling"]
            wave = 2 * np.pi / speeds
            blend = (length / wave - low) / (high - low)
            between = (1 - blend) * speeds / factor + blend * speeds
            slow, fast = wave > length / low, wave < length / high
            speeds = np.where(slow, speeds / factor, np.where(fast, speeds, between))
        angles = np.arange(len(x))[:, None] * speeds
        z = (x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]) * np.exp(1j * angles)[
            :, None
        ]
        return np.concatenate([z.real, z.imag], -1)

    windows = o.get("windows", (None,))
    x = p["embedding"][tokens] * o["embedding_scale"]
    for i in range(o["depth"]):
        w = jax.tree.map(lambda a, i=i: a[i], p["layers"])
        y = norm(x, w["attention_norm"])
        heads = {}
        for name, count in (("query", 4), ("key", 2), ("value", 2)):
            heads[name] = linear(y, w[name]).reshape(len(x), count, -1)
            if o.get("query_key_norm") and name != "value":
                heads[name] = norm(heads[name], w[f"{name}_norm"])
        q, k = turned(heads["query"]), turned(heads["key"])
        scale = o.get("attention_scale") or q.shape[-1] ** -0.5
        segments = np.zeros((1, len(x)))
        y = dense_attention(
            q[None],
            k[None],
            heads["value"][None],
            segments,
            scale,
            o["attention_softcap"],
            windows[i % len(windows)],
        )[0].reshape(len(x), -1)
        y = y @ w["out"]["kernel"].reshape(y.shape[-1], -1)
        x = x + (norm(y, w["attention_output_norm"]) if o.get("output_norms") else y)
        y = norm(x, w["dense_norm"])
        y = linear(activation(linear(y, w["gate"])) * linear(y, w["up"]), w["down"])
        x = x + (norm(y, w["dense_output_norm"]) if o.get("output_norms") else y)
    head = p["embedding"].T if o.get("tied") else p["head"]
    logits = norm(x, p["norm"]) @ head
    return logits if o["softcap"] is None else o["softcap"] * np.tanh(logits / o["softcap"])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_their_formulas(family):
    options = FAMILIES[family]
    with jax.default_matmul_precision("highest"):
        logits = run(TOKENS, **options).logits
    params = variables(**options)["params"]
    for row, tokens in zip(logits, TOKENS, strict=True):
        np.testing.assert_allclose(row, restated(params, tokens, options), rtol=1e-3, atol=1e-4)


@functools.cache
def passes(**options):
    """A pass over inputs with a cache, compiled once for each shape."""
    return jax.jit(functools.partial(small(**options).apply, train=False, rngs={}))


def extended(cache, tokens, padding=0, **options):
    positions = cache["index"][:, None] + np.arange(tokens.shape[1])[None] - padding
    inputs = {"tokens": tokens, "cache": cache, "positions": np.maximum(positions, 0)}
    inputs["segments"] = (positions >= 0).astype(np.int32)
    outputs = passes(**options)(variables(**options), inputs)[0]
    return outputs.logits, outputs.features["cache"]


def empty(slots, batch=2, **options):
    inputs = {"tokens": jax.ShapeDtypeStruct((batch, slots), jnp.int32), "cache": {}}
    outputs, _ = jax.eval_shape(passes(**options), variables(**options), inputs)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outputs.features["cache"])


SLOTS = 11


@pytest.mark.parametrize("family, scan", [*((name, True) for name in FAMILIES), ("gemma2", False)])
def test_token_by_token_is_the_whole_pass_with_padding_on_the_left(family, scan):
    options = FAMILIES[family] if scan else {**FAMILIES[family], "scan": False}
    padding = np.array([[2], [4]])
    tokens = np.zeros((2, 9), np.int32)
    tokens[0, 2:], tokens[1, 4:] = TOKENS[0], TOKENS[1, :5]
    cache, parts = empty(SLOTS, **options), []
    for i in range(9):
        logits, cache = extended(cache, tokens[:, i : i + 1], padding, **options)
        parts.append(logits)
    by_token, whole = np.concatenate(parts, axis=1), run(TOKENS, **options).logits
    np.testing.assert_allclose(by_token[0, 2:], whole[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(by_token[1, 4:], whole[1, :5], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cache["index"], [9, 9])


def test_several_tokens_at_once_and_taken_back_by_a_lower_index_for_each_example():
    options = FAMILIES["mistral"]
    logits, cache = extended(empty(SLOTS, **options), TOKENS[:, :4], **options)
    whole = run(TOKENS, **options).logits
    np.testing.assert_allclose(logits, whole[:, :4], rtol=1e-5, atol=1e-5)
    other = (TOKENS + 1) % 13
    for i in (4, 5):
        _, cache = extended(cache, other[:, i : i + 1], **options)
    # The first example keeps one of the two, the second none.
    cache = {**cache, "index": np.array([5, 4], np.int32)}
    logits, _ = extended(cache, TOKENS[:, 5:6], **options)
    wanted = TOKENS.copy()
    wanted[0, 4], wanted[1, 4] = other[0, 4], TOKENS[1, 5]
    wanted = run(wanted, **options).logits
    np.testing.assert_allclose(logits[0, 0], wanted[0, 5], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits[1, 0], wanted[1, 4], rtol=1e-5, atol=1e-5)


def test_a_cache_has_examples_first_and_the_type_that_is_computed_in():
    cache = empty(6, batch=3, dtype="bfloat16", head_width=6)
    assert {name: x.shape for name, x in cache.items()} == {
        "key": (3, 2, 6, 2, 6), "value": (3, 2, 6, 2, 6), "segments": (3, 6), "index": (3,)
    }  # fmt: skip
    assert cache["key"].dtype == cache["value"].dtype == jnp.bfloat16


def test_many_queries_over_a_cache_are_attended_in_blocks():
    query, key, value = qkv(10)
    slots = np.broadcast_to(np.arange(10)[None], (2, 10))
    out = _blockwise.cached_attention(query, key, value, slots, SEGMENTS, SEGMENTS, block=4)
    wanted = _blockwise.causal_attention(query, key, value, SEGMENTS)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_hidden_and_head_make_the_logits_and_a_tied_head_is_the_embedding():
    for tied in (False, True):
        outputs = run(TOKENS, tied=tied, logits=False)
        assert outputs.logits is None and outputs.features["hidden"].shape == (2, 7, 16)
        made = outputs.features["hidden"] @ outputs.features["head"]
        np.testing.assert_allclose(made, run(TOKENS, tied=tied).logits, rtol=1e-4, atol=1e-5)
    params = variables(tied=True)["params"]
    np.testing.assert_array_equal(outputs.features["head"], params["embedding"].T)
    assert "head" not in params and "head" in variables(tied=False)["params"]


def test_scanned_is_unrolled_and_remat_changes_nothing():
    scanned = variables()["params"]
    unrolled = {name: x for name, x in scanned.items() if name != "layers"}
    for i in range(2):
        unrolled[f"layer{i + 1}"] = jax.tree.map(lambda x, i=i: x[i], scanned["layers"])
    wanted = jax.tree.map(jnp.shape, variables(scan=False)["params"])
    assert jax.tree.map(jnp.shape, unrolled) == wanted
    apart = run(TOKENS, params=unrolled, scan=False).logits
    np.testing.assert_allclose(run(TOKENS).logits, apart, rtol=1e-5, atol=1e-6)

    def total(params, remat):
        network = small(remat=remat)
        logits = network.apply({"params": params}, TOKENS, train=True, rngs={})[0].logits
        return jnp.sum(jnp.sin(logits))

    plain, again = (
        jax.jit(jax.grad(functools.partial(total, remat=remat)))(scanned) for remat in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, again)


def test_precision():
    outputs = run(TOKENS, dtype="bfloat16")
    assert outputs.logits.dtype == jnp.float32
    assert outputs.features["hidden"].dtype == outputs.features["head"].dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables())} == {np.dtype("float32")}
    wanted = run(TOKENS).logits
    assert 0 < np.abs(outputs.logits - wanted).max() < 0.1 * np.abs(wanted).max()
    shapes = sizes.variable_shapes(small(param_dtype="bfloat16"), TOKENS)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}


def test_activations_are_constrained_by_name():
    seen = {}

    def constrain(x, names):
        assert len(names) == x.ndim
        seen.setdefault(names, x.shape)
        return x

    jax.eval_shape(small(constrain=constrain).init, KEY, TOKENS)
    assert seen == {
        ("vocabulary", "width"): (13, 16),
        ("width", "vocabulary"): (16, 13),
        ("batch", "length", "width"): (2, 7, 16),
        ("batch", "length", "heads", "head_width"): (2, 7, 4, 4),
        ("batch", "length", "key_heads", "head_width"): (2, 7, 2, 4),
        ("batch", "length", "hidden"): (2, 7, 24),
        ("batch", "length", "vocabulary"): (2, 7, 13),
    }


def test_what_is_no_token_or_no_activation_is_refused():
    with pytest.raises(ValueError, match="tokens must be integers \\[B, L\\], got float32"):
        small().init(KEY, jnp.zeros((2, 7)))
    with pytest.raises(ValueError, match="one of \\['gelu', 'silu'\\], got 'swish'"):
        small(activation="swish")
    with pytest.raises(ValueError, match="windows must be at least 1, or None, got \\(None, 0\\)"):
        small(windows=(None, 0))
