"""A path per teacher and a router per task: what is taught where."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import LABELLED, SHAPE, prepared

from kdjax import networks
from kdjax.methods import several_tasks
from kdjax.networks.side_paths import side_paths

WIDE = {"widths": (8, 8), "features": ("hidden1", "hidden2")}
TEACHERS = {name: networks.multilayer_perceptron(c, **WIDE) for name, c in (("one", 5), ("two", 3))}
STUDENT = side_paths((5, 3), paths=2, levels=2, width=8, hidden=8, teacher_width=8)
FROZEN = {
    name: net.init(jax.random.key(k), LABELLED["image"])["params"]
    for k, (name, net) in enumerate(TEACHERS.items())
}
BATCH = {**LABELLED, "turn": np.arange(8) % 3}


def features(net, params):
    return net.apply({"params": params}, LABELLED["image"], train=False, rngs={})[0].features


def test_sak_teaches_every_path_by_its_own_teacher_and_the_stem_by_their_mean():
    for averaged, paths in ((False, 2), (True, 0)):
        student = side_paths((5, 3), paths=paths, levels=2, width=8, hidden=8, teacher_width=8)
        method = several_tasks.sak(teachers=("one", "two"), levels=2, averaged=averaged)
        state, step = prepared(method, nets={"student": student, **TEACHERS})
        _, metrics = step(state, FROZEN, {"labelled": BATCH})
        own = features(student, state.params["student"])
        taught = [features(TEACHERS[name], FROZEN[name]) for name in ("one", "two")]
        if averaged:
            taught = [jax.tree.map(lambda a, b: (a + b) / 2, *taught)]
        assert len(metrics) == 2 * len(taught)
        for k, each in enumerate(taught, 1):
            for i in (1, 2):
                s, t = np.asarray(own[f"taught{k}_{i}"]), np.asarray(each[f"hidden{i}"])
                norms = np.linalg.norm(s, axis=1) * np.linalg.norm(t, axis=1)
                gap = np.abs(s - t)
                smooth = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean(1)
                expected = 0.9 * (1 - (s * t).sum(1) / norms) + 0.1 * smooth
                total, count = metrics[f"taught{k}_{i}"]
                np.testing.assert_allclose(total / count, expected.mean(), rtol=1e-4)


def test_routers_share_one_between_stem_and_paths_with_noise_in_training_alone():
    params = STUDENT.init(jax.random.key(0), SHAPE)["params"]
    quiet = features(STUDENT, params)
    for task in (1, 2):
        assert quiet[f"gates{task}"].shape == (8, 2, 3)
        np.testing.assert_allclose(quiet[f"gates{task}"].sum(-1), 1, rtol=1e-5)
    noisy = [
        STUDENT.apply(
            {"params": params}, LABELLED["image"], train=True, rngs={"dropout": jax.random.key(k)}
        )[0].features
        for k in (0, 1)
    ]
    assert float(jnp.abs(noisy[0]["gates1"] - noisy[1]["gates1"]).max()) > 1e-3
    np.testing.assert_allclose(noisy[0]["taught1_2"], quiet["taught1_2"], rtol=1e-5)


def test_tasks_see_the_stem_and_every_path():
    params = STUDENT.init(jax.random.key(0), SHAPE)["params"]
    before = features(STUDENT, params)
    changed = {**params, "path2_2": jax.tree.map(lambda x: x + 0.3, params["path2_2"])}
    after = features(STUDENT, changed)
    np.testing.assert_array_equal(after["taught1_2"], before["taught1_2"])
    assert float(jnp.abs(after["taught2_2"] - before["taught2_2"]).max()) > 1e-3
    assert float(jnp.abs(after["task1"] - before["task1"]).max()) > 1e-4
