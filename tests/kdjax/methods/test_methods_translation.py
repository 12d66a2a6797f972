"""Attention under a trained map of heads: against its formula, and where it is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import methods, networks
from kdjax.methods.translation import attention_map_divergence
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
B, L, V, HEADS = 3, 4, 6, 2
ROWS = {
    "tokens": RNG.integers(1, V, (B, L)).astype(np.int32),
    "mask": np.arange(L)[None] < np.array([4, 3, 2])[:, None],
    "targets": RNG.integers(1, V, (B, L)).astype(np.int32),
    "target_mask": np.arange(L)[None] < np.array([2, 4, 3])[:, None],
    "labels": RNG.integers(1, V, (B, L)).astype(np.int32),
    "logits": RNG.normal(size=(B, L, V)).astype(np.float32),
    "attention": RNG.random((B, 2 * HEADS, L, L)).astype(np.float32),
}
MAPS = ("encoder_attention1",)
STUDENT = networks.encoder_decoder_transformer(
    V, width=8, depth=1, heads=HEADS, head_width=4, hidden=8, features=MAPS
)
SHAPES = {
    name: jax.ShapeDtypeStruct((1, *ROWS[name].shape[1:]), ROWS[name].dtype)
    for name in ("tokens", "mask", "targets", "target_mask")
}


def maps_apart(own, theirs, mask):
    """Σ over heads of KL(teacher ‖ student) over the kept pairs of each map, written out."""
    total = np.zeros(len(own))
    for b, kept in enumerate(mask):
        for s, t in zip(own[b], theirs[b], strict=True):
            s, t = (x[np.ix_(kept, kept)].ravel().astype(float) for x in (s, t))
            p, q = (np.exp(x) / np.exp(x).sum() for x in (t, s))
            total[b] += (p * np.log(p / q)).sum()
    return total


def test_attention_alignment_compares_whole_maps_and_is_zero_where_the_aligner_finds_the_teachers():
    own = RNG.normal(size=(B, 4, L, L)).astype(np.float32)
    found = attention_map_divergence(own, ROWS["attention"], ROWS["mask"])
    wanted = maps_apart(own, ROWS["attention"], ROWS["mask"])
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    turned = own[:, [2, 0, 3, 1]]
    aligned = jnp.einsum("th,bhij->btij", np.eye(4)[[2, 0, 3, 1]], own)
    np.testing.assert_allclose(
        attention_map_divergence(aligned, turned, ROWS["mask"]), 0, atol=1e-5
    )

    def total(x):
        return attention_map_divergence(x, ROWS["attention"], ROWS["mask"]).sum()

    slope = np.asarray(jax.jit(jax.grad(total))(own))
    outside = ~(ROWS["mask"][:, :, None] & ROWS["mask"][:, None])[:, None]
    assert np.isfinite(slope).all() and (slope[np.broadcast_to(outside, slope.shape)] == 0).all()


@pytest.mark.parametrize("aligner", ["trained", "last"])
def test_attention_alignment_adds_the_labels_the_answers_and_the_fading_attention(aligner):
    settings = {"weight": 0.25, "smoothing": 0.1, "decay": 0.5, "epoch": 1}
    method = methods.a2d(layers=MAPS, teacher_heads=2 * HEADS, aligner=aligner, **settings)
    shapes = {"student": networks.output_shapes(STUDENT, SHAPES)}
    made = {name: make(shapes) for name, make in method.players.items()}
    nets = {"student": STUDENT, **{name: net for name, (net, _) in made.items()}}
    inputs = {"student": SHAPES, **{name: shape for name, (_, shape) in made.items()}}
    optimisers = dict.fromkeys(nets, optax.sgd(0.0))
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
    )()
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    before = jax.tree.map(jnp.copy, state.params)
    outputs, _ = STUDENT.apply({"params": before["student"]}, ROWS, train=True, rngs={})
    state, metrics = step(state, {}, {"sequence": ROWS})
    log_q = np.asarray(jax.nn.log_softmax(outputs.logits))
    smooth = 0.9 * np.eye(V)[ROWS["labels"]] + 0.1 / V
    kept = ROWS["target_mask"]
    for name, p in (("labels", smooth), ("kd", np.asarray(jax.nn.softmax(ROWS["logits"])))):
        total, count = metrics[name]
        np.testing.assert_allclose(total / count, -(p * log_q).sum(-1)[kept].mean(), rtol=1e-4)
    own = np.asarray(outputs.features[MAPS[0]])
    total, count = metrics["attention"]
    if aligner == "trained":
        kernel = np.asarray(before["aligner"]["dense"]["kernel"])
        own = np.einsum("bhij,ht->btij", own, kernel)
        wanted = maps_apart(own, ROWS["attention"], ROWS["mask"])
    else:
        pairs = (ROWS["mask"][:, :, None] & ROWS["mask"][:, None])[:, None]
        apart = (own - ROWS["attention"][:, -HEADS:]) ** 2 * pairs
        wanted = apart.mean(1).sum((1, 2)) / ROWS["mask"].sum(1)
    np.testing.assert_allclose(total / count, wanted.mean(), rtol=1e-4)
