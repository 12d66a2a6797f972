"""A stored top K: its distribution, the loss on it, and what forgetting the tail changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, LABELLED, assert_close, descended, outputs, stepped

from kdjax import methods
from kdjax.methods.stored import even_tail
from kdjax.signals import top_k

LOGITS = np.random.default_rng(2).normal(size=(8, CLASSES)).astype(np.float32)
SIGNAL = top_k(jnp.asarray(LOGITS), 2)
HELD = {name: getattr(SIGNAL, name) for name in ("log_probs", "classes", "log_tail")}


def test_even_tail_keeps_the_best_and_spreads_the_rest():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    expected = np.empty_like(p)
    for row, out in zip(p, expected, strict=True):
        best = np.argsort(row)[-2:]
        out[:] = (1 - row[best].sum()) / (CLASSES - 2)
        out[best] = row[best]
    found = np.exp(even_tail(*HELD.values(), size=CLASSES))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(ValueError, match="above K"):
        even_tail(*HELD.values(), size=2)


def test_stored_views_is_the_cross_entropy_of_the_stored_distribution_and_no_label():
    batch = {**LABELLED, **HELD}
    before, metrics, after = stepped(methods.stored_views(), batch=batch)
    q = np.exp(even_tail(*HELD.values(), size=CLASSES))

    def loss(params):
        return -jnp.mean(jnp.sum(q * jax.nn.log_softmax(outputs("student", params).logits), axis=1))

    start = before.params["student"]
    np.testing.assert_allclose(metrics["stored"], loss(start), rtol=1e-5)
    expected = descended(before, {"student": jax.jit(jax.grad(loss))(start)})["student"]
    assert_close(after.params["student"], expected)
    other = stepped(
        methods.stored_views(), batch={**batch, "label": (LABELLED["label"] + 1) % CLASSES}
    )[2]
    assert_close(other.params["student"], expected)


def test_renormalised_views_give_the_tail_to_the_best_classes():
    batch = {**LABELLED, **HELD}
    before, metrics, _ = stepped(methods.stored_views(renormalised=True), batch=batch)
    log_q = np.asarray(jax.nn.log_softmax(outputs("student", before.params["student"]).logits))
    values = []
    for own, log_p, classes in zip(log_q, HELD["log_probs"], HELD["classes"], strict=True):
        p = np.exp(log_p) / np.exp(log_p).sum()
        values.append(-np.sum(p * own[np.asarray(classes)]))
    np.testing.assert_allclose(metrics["stored"], np.mean(values), rtol=1e-5)
