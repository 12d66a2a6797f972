"""What studies train through: one program for all seeds, settings chosen, nothing trained twice."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import logits, measured
from experiments import setup, study, tuning
from experiments.studies import _images
from kdjax import networks
from kdjax.data import splits
from kdjax.methods import supervised
from kdjax.report.results import read_results
from kdjax.train import Stopped

X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.int32)
NET = networks.multilayer_perceptron(widths=(4,), classes=2)


def bench(workdir, grid=None):
    rows = {**measured.each(measured.FIXED, "plain", "other"), **(grid or {})}
    config = measured.study("anything", rows, {}, options={}, data="drawn points")
    config.run.seeds = 3
    return study.Bench(setup.open_run(config, workdir, "drawn points"), None, {})


def fitted(own, name="plain", **changes):
    data = {"labelled": {"image": X, "label": Y}}
    inputs = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    settings = {"steps": 60, "batch": 16, "rate": 0.03, **changes}
    return own.fit(name, supervised(), {"student": NET}, inputs, data, **settings)


def right(trained):
    given = trained.outputs(X, batch=10)
    assert given.logits.shape == (len(trained.seeds), 64, 2)
    return study.right(given.logits, Y)


def test_fit_trains_every_seed_and_adds_up_the_cost_of_a_rows_parts(tmp_path):
    own = bench(tmp_path)
    first = fitted(own, "plain/one")
    assert (right(first) > 0.85).all() and right(first).shape == (3,)
    once = own.costs["plain"]["training_flops"]
    fitted(own, "plain/two")
    assert own.costs["plain"]["training_flops"] == 2 * once > 0
    with pytest.raises(setup.ConfigError, match="third"):
        fitted(own, "third")


def test_fit_goes_on_from_what_it_was_given_and_from_a_finished_run(tmp_path):
    own = bench(tmp_path)
    first = fitted(own)
    begun = study.carried({"student": first.params["student"]})
    again = fitted(own, "other", start=begun, rate=0.0, steps=1)
    jax.tree.map(np.testing.assert_array_equal, again.params["student"], first.params["student"])
    resumed = fitted(bench(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, resumed.params, first.params)


def test_fit_chooses_the_setting_with_the_best_score(tmp_path):
    own = bench(tmp_path, grid={"plain": {tuning.RATE: (0.0, 1.0)}})
    assert (right(fitted(own, score=right)) > 0.85).all()
    worst = fitted(own, "other", score=lambda trained: -right(trained))
    assert (right(worst) > 0.85).all(), "a row without a grid is trained as it is"
    own = bench(tmp_path / "worst", grid={"plain": {tuning.RATE: (0.0, 1.0)}})
    stays = fitted(own, score=lambda trained: -right(trained))
    assert (right(stays) < 0.85).any()


def test_steps_batch_and_rate_are_the_parts_own_or_the_recipes(tmp_path):
    own = bench(tmp_path)
    own.run.config.run.options = ConfigDict(
        {"steps": 60, "batch": 16, "rate": 0.03, "one_steps": 7}
    )
    by_recipe = dict.fromkeys(("steps", "batch", "rate"))
    assert fitted(own, "plain/one", **by_recipe).state.step.tolist() == [7] * 3
    assert fitted(own, "plain/two", **{**by_recipe, "steps": 5}).state.step.tolist() == [5] * 3
    other = fitted(own, "other", **by_recipe)
    told = fitted(bench(tmp_path / "told"), "other")
    jax.tree.map(np.testing.assert_array_equal, other.params, told.params)


def test_what_neither_the_recipe_nor_the_study_says_is_refused(tmp_path):
    with pytest.raises(
        setup.ConfigError, match="options needs 'rate' or 'one_rate' for row 'plain/one'"
    ):
        fitted(bench(tmp_path), "plain/one", rate=None)
    own = bench(tmp_path / "grid", grid={"plain": {tuning.RATE: (0.0, 1.0)}})
    with pytest.raises(
        setup.ConfigError, match="grid has 'plain', which study 'anything' does not"
    ):
        fitted(own)


def test_compare_measures_every_row_with_its_own_changes(tmp_path):
    own, parts = bench(tmp_path, grid={"plain": {tuning.RATE: (0.0, 1.0)}}), []
    inputs = jax.ShapeDtypeStruct((1, 3), jnp.float32)

    def measure(trained, part):
        parts.append(part)
        return right(trained)

    found = own.compare(
        {"plain": supervised(), "other": {"method": supervised(), "rate": 0.0}}, {"student": NET}, inputs,
        {"labelled": {"image": X, "label": Y}}, measure=measure, steps=60, batch=16, rate=0.03,
    )  # fmt: skip
    assert (found["plain"] > 0.85).all() and (found["other"] < 0.85).any()
    assert parts.count("test") == 2 and parts.count("validation") > 2


def test_seeds_begin_with_shared_parameters_and_see_examples_of_their_own(tmp_path):
    own = bench(tmp_path)
    first = fitted(own, seeds=[0])
    stays = fitted(own, "other", steps=1, rate=0.0, start=study.shared({"student": first.frozen}))
    for params in range(3):
        jax.tree.map(
            lambda x, y, s=params: np.testing.assert_array_equal(x[s], y),
            stays.params["student"], first.frozen,
        )  # fmt: skip
    columns = {"number": np.arange(12).reshape(3, 4)}
    for examples, expected in ((None, [8, 9, 10, 11]), (lambda seed: np.array([seed]), [10])):
        stream = study.stream_of_seeds(columns, 2, examples)
        assert stream.resident["number"][stream.plan.examples_of(2)].tolist() == expected


def test_predict_and_studies_are_found_by_name():
    assert {"finite_domains", "neighbouring_columns"} <= study.named_studies().keys()


def test_a_study_leaves_its_rows_and_a_report_of_its_claims(tmp_path, capsys):
    config = logits.get_config("empsel,tiny")
    study.main(config, tmp_path)
    rows = read_results(tmp_path / "results.json")
    assert [row["name"] for row in rows] == list(config.run.rows)
    opponent = config.run.claims["full"].over[0]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (page, capsys.readouterr().out.replace("\n", " ")):
        assert f"gain over {opponent}" in text
    assert "Finite domains" in page and "Validation" not in page


def test_a_stop_asked_for_in_the_last_chunk_of_a_fit_ends_the_run_before_the_next(
    tmp_path, monkeypatch
):
    grid = {"other": {tuning.RATE: (0.5, 1.0)}}
    monkeypatch.setattr(setup, "_stop_asked", False)
    before = signal.signal(signal.SIGTERM, setup._remember_stop)
    try:
        own = bench(tmp_path, grid)
        fitted(own, score=lambda trained: os.kill(os.getpid(), signal.SIGTERM) or right(trained))
        for name in ("other", "plain/two"):
            with pytest.raises(Stopped, match="before"):
                fitted(own, name, score=right)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "tuning.json").exists()
    monkeypatch.setattr(setup, "_stop_asked", False)
    assert fitted(bench(tmp_path, grid)).state.step.tolist() == [60] * 3


def test_with_own_heads_every_seed_is_told_what_its_own_head_says(tmp_path):
    config = measured.study("anything", {"teacher": {}}, {}, options={}, data="drawn points")
    config.run.seeds = 2
    own = study.Bench(setup.open_run(config, tmp_path, "drawn points"), None, {})
    rng, label = np.random.default_rng(1), np.arange(60) % 2
    features = rng.normal(size=(60, 8)).astype(np.float32)  # they say nothing of the labels
    image = rng.normal(size=(60, 2, 2, 1)).astype(np.float32)
    parts = splits.Splits(np.arange(40), np.arange(40, 50), np.arange(50, 60), label)
    data = _images.Images(image, label.astype(np.int32), parts)
    stream, accuracy = _images.with_own_heads(own, data, features, 8, steps=300, batch=8, rate=0.1)
    assert accuracy.shape == (2,)
    said = np.argmax(stream.resident["teacher/logits"], -1).reshape(2, 60)
    for seed in (0, 1):
        few = parts.labelled(8, seed)
        given = stream.plan.indices(seed, 0)
        np.testing.assert_array_equal(np.sort(given), seed * 60 + few)
        np.testing.assert_array_equal(stream.resident["image"][seed * 60 + few], image[few])
        np.testing.assert_array_equal(said[seed, few], label[few])
    assert (said[0] != said[1]).any()
