"""Relational methods against their pairs and triples written out."""

import numpy as np
from method_steps import FEATURES, FROZEN, NETS, outputs, stepped

from kdjax import methods


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
