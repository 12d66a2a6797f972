"""A poisoned teacher learns from its own stream alone, and the attacks on it are of the test split."""

import jax
import numpy as np

from configs import data_free
from experiments import train_teacher


def test_only_the_teacher_sees_the_patch_and_the_attacks_are_test_images():
    config = data_free.get_config("abd,tiny")
    config.run.teacher.poison.rate = 1.0
    data = train_teacher.build_data(config)
    target, size = config.run.teacher.poison.target, config.run.teacher.poison.size
    white = (1 - data_free.MEAN) / data_free.STD

    def batch(stream):
        x = jax.tree.map(lambda leaf: leaf[0], stream.xs(0, 0, 1))
        return jax.tree.map(np.asarray, stream.batch(stream.resident, x, jax.random.key(0)))

    clean = batch(data.student["labelled"])
    poisoned = batch(train_teacher.teacher_streams(data, config.run.teacher)["labelled"])
    assert len(set(clean["label"].tolist())) > 5 and (poisoned["label"] == target).all()
    np.testing.assert_allclose(poisoned["image"][:, -size:, -size:], white, rtol=1e-5)
    attacks = data.attacks
    kept = np.asarray(attacks["where"])
    assert kept.sum() == (data.splits.labels[data.splits.test] != target).sum()
    assert (np.asarray(attacks["label"])[kept] == target).all()
    np.testing.assert_allclose(
        np.asarray(attacks["image"])[kept][:, -size:, -size:], white, rtol=1e-5
    )


def test_without_poison_there_are_no_attacks():
    config = data_free.get_config("learning_to_retain,tiny")
    assert train_teacher.build_data(config).attacks is None
