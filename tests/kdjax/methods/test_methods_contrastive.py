"""Contrastive methods: the estimator in the batch, and heads of spectral norm one."""

import numpy as np
from method_steps import FEATURES, FROZEN, outputs, stepped

from kdjax import methods


def embedded(state, side, scale=1.0):
    params = {"student": state.params["student"], "teacher": FROZEN["teacher"]}[side]
    dense = state.params[f"{side}_head"]["dense"]
    rows = outputs(side, params).features["hidden1"] @ dense["kernel"] / scale + dense["bias"][None]
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), float)  # dead units: a row of zeros


def estimate(s, t, log_normaliser, temperature):
    scores = s @ t.T / temperature - log_normaliser
    noise = np.log((len(s) - 1) / len(s))
    own = np.logaddexp(0, noise - np.diag(scores))
    others = np.logaddexp(0, scores - noise)
    return np.mean(own + others.sum(1) - np.diag(others))


def test_wcord_without_its_norm_is_the_estimator_in_both_directions():
    method = methods.wcord(**FEATURES, width=4, temperature=0.5, spectral=False, local_weight=0.0)
    before, metrics, after = stepped(method)
    s, t = embedded(before, "student"), embedded(before, "teacher")
    log_z = np.log(len(s) * np.exp(s @ t.T / 0.5).mean())
    expected = estimate(s, t, log_z, 0.5) + estimate(t, s, log_z, 0.5)
    np.testing.assert_allclose(metrics["global"], expected, rtol=1e-4)
    np.testing.assert_allclose(after.memory["log_normaliser"], log_z, rtol=1e-5)
    later = stepped(method, steps=3)[2]
    np.testing.assert_allclose(later.memory["log_normaliser"], log_z, rtol=1e-5)


def test_wcord_divides_by_the_largest_singular_value():
    method = methods.wcord(**FEATURES, width=4, temperature=0.5)
    _, _, state = stepped(method, steps=30)
    for side in ("student", "teacher"):
        kernel = state.params[f"{side}_head"]["dense"]["kernel"]
        vector = state.memory[f"{side}_vector"]
        largest = np.linalg.svd(kernel)[1][0]
        np.testing.assert_allclose(np.linalg.norm(vector @ kernel), largest, rtol=1e-2)


def test_wcord_transports_each_embedding_where_it_is_near():
    method = methods.wcord(**FEATURES, width=4, global_weight=0.0, local_weight=5.0)
    first = stepped(method)[1]["local"]
    last = stepped(method, steps=200)[1]["local"]
    assert last < 0.5 * first
