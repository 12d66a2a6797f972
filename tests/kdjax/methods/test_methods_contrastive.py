"""Contrastive methods: the estimator in the batch, and heads of spectral norm one."""

import functools

import jax
import numpy as np
import pytest
from method_steps import CLASSES, FEATURES, FROZEN, LABELLED, outputs, stepped

from kdjax import methods, networks


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


TOKENS = {"student_feature": "tokens", "teacher_feature": "tokens"}


@functools.cache
def transformers():
    """(a student and a teacher of 2 x 2 patches, the teacher's parameters)."""
    options = {"patch": 2, "heads": 1, "hidden": 4, "depth": 1, "mean_pool": True}
    nets = {
        name: networks.vision_transformer(CLASSES, width=width, features=("tokens",), **options)
        for name, width in (("student", 4), ("teacher", 6))
    }
    params = nets["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]
    # Logits of some size, so that regions disagree with their images.
    return nets, {"teacher": {**params, "head": jax.tree.map(lambda x: 5 * x, params["head"])}}


def log_contrast(s, t, candidates, temperature):
    s, t = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (s, t))
    scores = np.where(candidates, s @ t.T / temperature, -np.inf)
    return np.mean(np.log(np.exp(scores).sum(1)) - np.diag(scores))


def test_msdcrd_contrasts_regions_of_a_category_and_its_channels():
    nets, frozen = transformers()
    method = methods.msdcrd(**TOKENS, windows=(1, 2), temperature=0.5, weight=0.3)
    before, terms, _ = stepped(method, nets=nets, frozen=frozen)
    own = outputs("student", before.params["student"], nets=nets).features["tokens"][:, 1:]
    taught = outputs("teacher", frozen["teacher"], nets=nets)
    dense = before.params["projector"]["dense"]
    maps = [np.asarray(own @ dense["kernel"] + dense["bias"][None, None], float)]
    maps.append(np.asarray(taught.features["tokens"][:, 1:], float))
    head, expected, seen = frozen["teacher"]["head"], 0.0, set()
    for regions in (maps, [x.mean(1, keepdims=True) for x in maps]):
        s, t = (x.reshape(-1, 6) for x in regions)
        owners = np.repeat(np.arange(8), len(s) // 8)
        right = np.argmax(t @ np.asarray(head["kernel"]) + np.asarray(head["bias"]), -1)
        category = right == np.argmax(np.asarray(taught.logits), -1)[owners]
        seen |= set(category)
        assert len(s) > 8 or category.all(), "the head reads the mean of the patches"
        alike = (category[:, None] == category) & (owners[:, None] != owners)
        expected += log_contrast(s, t, alike | np.eye(len(s), dtype=bool), 0.5)
        for kept in (category, ~category):
            columns = (s[kept].T, t[kept].T)
            everything = np.ones((6, 6), bool)
            lone = np.log(6)  # channels of no region are alike
            expected += (log_contrast(*columns, everything, 0.5) if kept.any() else lone) / 2
    assert seen == {True, False}
    np.testing.assert_allclose(terms["contrast"], expected, rtol=1e-4)


def test_msdcrd_of_the_whole_map_is_info_nce_and_refuses_other_windows():
    nets, frozen = transformers()
    method = methods.msdcrd(**TOKENS, windows=(2,), temperature=0.5, channels=False)
    before, terms, _ = stepped(method, nets=nets, frozen=frozen)
    dense = before.params["projector"]["dense"]
    own = outputs("student", before.params["student"], nets=nets).features["tokens"][:, 1:]
    s = np.asarray(own @ dense["kernel"] + dense["bias"][None, None], float).mean(1)
    t = outputs("teacher", frozen["teacher"], nets=nets).features["tokens"][:, 1:]
    expected = log_contrast(s, np.asarray(t, float).mean(1), np.ones((8, 8), bool), 0.5)
    np.testing.assert_allclose(terms["contrast"], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="windows of 3"):
        stepped(methods.msdcrd(**TOKENS, windows=(3,)), nets=nets, frozen=frozen)
