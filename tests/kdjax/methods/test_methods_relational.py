"""Relational methods against their pairs and triples written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, FEATURES, FROZEN, LABELLED, NETS, outputs, prepared, stepped

from kdjax import losses, methods, networks
from kdjax.methods.relational import _drawn_places


def huber(x):
    x = np.abs(x)
    return np.where(x <= 1, x**2 / 2, x - 0.5)


def angles(f):
    """cos of the angle at j between i and k, `[i, j, k]`."""
    d = f[:, None] - f[None]
    length = np.linalg.norm(d, axis=-1, keepdims=True)
    u = np.divide(d, length, out=np.zeros_like(d), where=length > 0)
    return np.einsum("ijd,kjd->ijk", u, u)


def test_rkd_compares_angles_and_distances():
    method = methods.rkd(**FEATURES, distance_weight=3.0, angle_weight=5.0)
    before, metrics, _ = stepped(method)
    params = {"student": before.params["student"], "teacher": FROZEN["teacher"]}
    f_s, f_t = (np.asarray(outputs(n, p).features["hidden1"], float) for n, p in params.items())
    np.testing.assert_allclose(metrics["angle"], huber(angles(f_s) - angles(f_t)).mean(), rtol=1e-4)
    distances = []
    for f in (f_s, f_t):
        d = np.linalg.norm(f[:, None] - f[None], axis=-1)
        distances.append(d / d[d > 0].mean())
    np.testing.assert_allclose(
        metrics["distance"], huber(distances[0] - distances[1]).mean(), rtol=1e-4
    )


def test_rkd_ignores_where_the_embeddings_lie_and_how_long_they_are():
    method = methods.rkd(**FEATURES)
    before, _, _ = stepped(method)
    dense = before.params["student"]["dense1"]
    # The student as its own teacher, three times as long: all relations are the same.
    taught = {**before.params["student"], "dense1": {k: 3 * x for k, x in dense.items()}}
    _, metrics, _ = stepped(
        method,
        frozen={"teacher": taught},
        nets={"student": NETS["student"], "teacher": NETS["student"]},
    )
    assert metrics["distance"] < 1e-9 and metrics["angle"] < 1e-9


TOKENS = {"student_feature": "tokens", "teacher_feature": "tokens"}
BATCH = {**LABELLED, "index": np.arange(8, dtype=np.int32)}


def test_trg_compares_tokens_of_the_batch_and_cools_its_contrast():
    nets = {
        name: networks.vision_transformer(
            CLASSES, width=width, features=("tokens",), patch=2, heads=1, hidden=4, depth=1
        )
        for name, width in (("student", 4), ("teacher", 6))
    }
    frozen = {"teacher": nets["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]}
    method = methods.trg(
        **TOKENS, tokens=4, neighbours=3, width=5, temperatures=(2.0, 0.5), cooling_steps=5
    )
    before, step = prepared(method, nets=nets)

    def measured(state):
        after, terms = step(state, frozen, {"labelled": BATCH})
        return after, {name: float(t / c) for name, (t, c) in terms.items()}

    def tokens(state):
        # All four patches of an image are drawn: their order is the same on both sides, and of no matter.
        params = {"student": state.params["student"], "teacher": frozen["teacher"]}
        return [outputs(n, p, nets=nets).features["tokens"][:, 1:] for n, p in params.items()]

    def contrast(state, temperature):
        heads = [state.params[f"{side}_head"]["dense"] for side in ("student", "teacher")]
        pairs = zip(tokens(state), heads, strict=True)
        rows = [(x @ h["kernel"] + h["bias"][None, None]).reshape(32, -1) for x, h in pairs]
        return losses.info_nce(*rows, temperature=temperature).mean()

    after, terms = measured(before)
    s, t = tokens(before)
    np.testing.assert_allclose(terms["inner"], losses.contextual_similarity(s, t).mean(), rtol=1e-4)
    local = losses.neighbour_graph_divergence(s.reshape(32, -1), t.reshape(32, -1), neighbours=3)
    np.testing.assert_allclose(terms["local"], local.mean(), rtol=1e-3)
    np.testing.assert_allclose(terms["global"], contrast(before, 2.0), rtol=1e-4)
    unweighted = measured(before.replace(hyper={"weight": jnp.zeros(())}))[0]
    jax.tree.map(
        np.testing.assert_array_equal, unweighted.params["student"], after.params["student"]
    )  # the relations have no weight yet
    for _ in range(5):
        after, _ = measured(after)
    _, terms = measured(after)
    np.testing.assert_allclose(terms["global"], contrast(after, 0.5), rtol=1e-4)


def test_trg_draws_places_of_an_image_once():
    keys = jax.random.split(jax.random.key(0), 50)
    places = np.asarray(_drawn_places(keys, 6, 4))
    assert all(len(set(row)) == 4 for row in places) and set(places.ravel()) == set(range(6))
    with pytest.raises(ValueError, match="tokens"):
        _drawn_places(keys, 6, 7)
