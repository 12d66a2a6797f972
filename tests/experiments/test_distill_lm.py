"""The language-model job end to end at its smallest, and what it refuses by the config's key."""

import json
import re

import jax
import numpy as np
import pytest

from configs import lm
from experiments import distill_lm, lm_rows, setup, train_lm
from kdjax.networks import Network, Outputs, pretrained

SAMPLES = {"count": 8, "every": 2, "prompt": 4}
ROWS = {
    "on_policy": {
        "method": "token_kd", "divergence": "skew_reverse_kl", "skew": 0.1,
        "samples": {**SAMPLES, "fraction": 0.5},
    },
    "stored": {"method": "token_kd", "stored": {"kind": "top_k", "k": 8}},
    "four_bits": {"method": "token_kd", "student": {"bits": 4}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of texts, small enough for a tokenizer in no time."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(6):
        lines = [f"def f{i}(x):\n    return x + {number * i}\n" for i in range(60)]
        (folder / f"{number}.py").write_text("\n".join(lines))
    return folder


def small(folder, rows=None, **changes):
    """The tiny recipe on those texts, a few steps long, of one seed."""
    config = lm.get_config("tiny")
    run = config.run
    run.data.name, run.data.validation, run.data.test = str(folder), 0.15, 0.15
    run.data.rows, run.data.evaluated, run.data.length = 32, 4, 16
    run.batch = run.teacher.batch = 8
    run.steps, run.teacher.steps, run.seeds = 4, 4, 1
    run.teacher.optimiser.warmup = run.student.optimiser.warmup = 0.0
    config.place.log_every = config.place.validate_every = 4
    with config.unlocked():
        if rows is not None:
            run.rows = {"alone": {"method": "next_token"}, **rows}
        for key, value in changes.items():
            *parents, last = key.split("__")
            part = run
            for name in parents:
                part = part[name]
            part[last] = value
    return config


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory, request):
    """One run of two seeds, and its workdir: a row that writes its own texts; with --full others too."""
    workdir = tmp_path_factory.mktemp("run")
    config = small(folder, ROWS, student__licence="apache-2.0", seeds=2)
    if not request.config.getoption("--full"):
        config.run.baseline = "on_policy"
        with config.unlocked():
            config.run.rows = {"on_policy": ROWS["on_policy"]}
    assert distill_lm.main(config, workdir) == 0
    return config, workdir


def test_the_table_has_teacher_students_and_every_measure(finished):
    config, workdir = finished
    rows = {row["name"]: row for row in json.loads((workdir / "results.json").read_text())}
    assert set(rows) == {"teacher", *config.run.rows}
    for name in config.run.rows:
        metrics = rows[name]["metrics"]
        assert rows[name]["seeds"] == [0, 1]
        assert all(np.isfinite(values).all() for values in metrics.values())
        np.testing.assert_allclose(metrics["perplexity"], np.exp(metrics["nll"]), rtol=1e-5)
        # min(p, q) sums to 1 - TV, and Pinsker bounds TV by the KL.
        bound = np.sqrt(np.asarray(metrics["divergence"]) / 2)
        assert (1 - np.asarray(metrics["acceptance"]) <= bound + 1e-6).all()
    assert "divergence" not in rows["teacher"]["metrics"]
    assert (workdir / "report.html").exists() and (workdir / "tokenizer.json").exists()


@pytest.mark.full
def test_rows_differ_by_what_they_learn_from(finished):
    _, workdir = finished
    rows = json.loads((workdir / "results.json").read_text())
    found = [tuple(row["metrics"]["nll"]) for row in rows if row["name"] != "teacher"]
    assert len(set(found)) == len(found)


@pytest.mark.full
def test_the_same_command_finds_everything_done(finished, capsys):
    config, workdir = finished
    before = (workdir / "results.json").read_text()
    saved = sorted(path.name for path in (workdir / "checkpoints").rglob("[0-9]*"))
    assert distill_lm.main(config, workdir) == 0
    assert sorted(path.name for path in (workdir / "checkpoints").rglob("[0-9]*")) == saved
    again = json.loads((workdir / "results.json").read_text())
    for old, new in zip(json.loads(before), again, strict=True):
        for metric, values in old["metrics"].items():
            if metric != "seconds":
                np.testing.assert_allclose(new["metrics"][metric], values, rtol=1e-6)
    assert "perplexity" in capsys.readouterr().out


def test_a_student_leaves_as_public_weights_and_comes_back_as_a_teacher(finished, folder, tmp_path):
    _, workdir = finished
    exported = workdir / "students" / "on_policy"
    assert "apache-2.0" in (exported / "README.md").read_text()
    _, variables, _ = pretrained.load_pretrained(exported)
    rows = {"kd": {"method": "token_kd"}}
    again = small(folder, rows, teacher__weights=str(exported), steps=1)
    data = distill_lm.build_data(again)
    assert not data.crosses
    nets = distill_lm.build_networks(again, data)
    stage = train_lm.build_stage(again, data, nets["teacher"])
    run = setup.open_run(again, tmp_path / "run", data.fingerprint)
    frozen, _, row = distill_lm.obtain_teacher(again, run, data, stage, nets["teacher"])
    jax.tree.map(np.testing.assert_array_equal, frozen["teacher"], variables["params"])
    results = json.loads((workdir / "results.json").read_text())
    (student,) = (r for r in results if r["name"] == "on_policy")
    np.testing.assert_allclose(
        row["metrics"]["perplexity"][0], student["metrics"]["perplexity"][0], rtol=1e-4
    )


@pytest.mark.full
def test_what_the_student_writes_changes_with_the_student_and_not_otherwise(folder):
    config = small(folder, {"on_policy": ROWS["on_policy"]})
    data = distill_lm.build_data(config)
    nets = distill_lm.build_networks(config, data)
    (stage, _), = distill_lm.build_stages(config, data, nets)["on_policy"]  # fmt: skip
    inputs = data.inputs["teacher"]
    taught = nets["teacher"].init(jax.random.key(5), inputs)["params"]
    frozen = {"teacher": taught, "teacher/model": {}}
    stage = lm_rows.with_writing(config, data, stage, "on_policy", frozen)
    (refresh,) = [each.function for each in stage.every]
    state, _ = stage.init(frozen)
    assert int(np.max(state.memory["written"]["written"])) == 0
    once, again = refresh(2, state), refresh(2, state)
    columns = jax.device_get(once.memory["written"]["columns"])
    jax.tree.map(np.testing.assert_array_equal, columns, again.memory["written"]["columns"])
    end, length = 0, config.run.data.length
    for tokens, targets, mask, log_probs in zip(
        *(columns[n].reshape(-1, length) for n in ("tokens", "targets", "mask", "log_probs")),
        strict=True,
    ):
        assert tokens[:4].tolist() in data.rows["tokens"][:, :4].tolist()
        np.testing.assert_array_equal(tokens[1:], targets[:-1])
        assert not mask[:3].any() and mask[3]
        ends = np.flatnonzero((targets == end) & (np.arange(length) >= 3))
        assert mask.sum() == (ends[0] + 1 if len(ends) else length) - 3
        assert (log_probs[mask] < 0).all()
    other = jax.tree.map(lambda x: x + 1, state.params["student"])
    changed = refresh(2, state.replace(params={"student": other}))
    assert (np.asarray(changed.memory["written"]["columns"]["targets"]) != columns["targets"]).any()


def build(config):
    data = distill_lm.build_data(config)
    nets = distill_lm.build_networks(config, data)
    train_lm.build_stage(config, data, nets["teacher"])
    return data, distill_lm.build_stages(config, data, nets)


KD = {"method": "token_kd"}
CASES = {
    "kind": (
        {"rows": {"kd": {**KD, "stored": {"kind": "dense"}}}},
        "run.rows.kd.stored.kind is 'dense'",
    ),
    "stored": (
        {"rows": {"kd": {**KD, "stored": {}, "samples": {}}}},
        "run.rows.kd.stored is of one tokenizer's text",
    ),
    "rows.kd.method": ({"rows": {"kd": {"method": "kd"}}}, "run.rows.kd.method is 'kd'"),
    "divergence": (
        {"rows": {"kd": {**KD, "divergence": "kld"}}},
        "run.rows.kd: divergence must be one of",
    ),
    "samples": (
        {"rows": {"kd": {**KD, "samples": {"writter": "student"}}}},
        "run.rows.kd.samples.writter.*did you mean 'writer'",
    ),
    "writer": (
        {"rows": {"kd": {**KD, "samples": {"writer": "nobody"}}}},
        "run.rows.kd.samples.writer is 'nobody'",
    ),
    "prompt": (
        {"rows": {"kd": {**KD, "samples": {"prompt": 16}}}},
        "run.rows.kd.samples.prompt: a prompt must be at least 1 token",
    ),
    "fraction": (
        {"rows": {"kd": {**KD, "samples": {"fraction": 0.0}}}},
        r"run.rows.kd.samples.fraction must be in \(0, 1\], got 0",
    ),
    "minillm": ({"rows": {"m": {"method": "minillm"}}}, "run.rows.m: minillm learns from samples"),
    "answers": (
        {"rows": {"b": {"method": "next_token", "answers": {"file": "none.jsonl"}}}},
        "run.rows.b: none.jsonl: there is no such file",
    ),
    "rank": (
        {"rows": {"kd": {**KD, "student": {"rank": 2}}}},
        "run.rows.kd.student.rank adapts weights that are there",
    ),
    "bits": (
        {"rows": {"kd": {**KD, "student": {"bits": 1}}}},
        "run.rows.kd.student.bits must be 0 or at least 2, got 1",
    ),
    "classes": ({"student__classes": 100}, "run.student.classes must be 0, or at least the 300"),
    "vocabulary": ({"tokenizer__vocabulary": 20}, "run.tokenizer: vocabulary must be at least 257"),
    "end": ({"tokenizer__end": "<eos>"}, "run.tokenizer: the tokenizer has no token '<eos>'"),
    "data": ({"data__name": "nowhere"}, "run.data: nowhere is no file"),
    "rows": ({"data__rows": 10**6}, "run.data: there are .* rows, got a limit of 1000000"),
    "weights": ({"teacher__weights": "nowhere"}, "run.teacher.weights: nowhere is no folder"),
    "softcap": (
        {"chunk": 8, "teacher__network__softcap": 30.0},
        "run.chunk must be 0 where run.teacher.network.softcap",
    ),
    "tokenizers": (
        {"rows": {"kd": KD}, "teacher__tokenizer__vocabulary": 280},
        "run.rows.kd.method 'token_kd' needs one tokenizer: .*only a cross-tokenizer loss",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_config_that_cannot_be_run_is_refused_by_its_key(case, folder):
    changes, message = CASES[case]
    with pytest.raises(setup.ConfigError) as error:
        build(small(folder, **changes))
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_padded_vocabularies_are_cut_with_a_warning(folder, capsys):
    config = small(folder, {"kd": KD}, teacher__classes=304, student__classes=302)
    data, stages = build(config)
    assert data.vocabulary("student") == 300
    warning = capsys.readouterr().err
    assert "warning" in warning and "304" in warning and "302" in warning and "300" in warning
    (stage, _), = stages["kd"]  # fmt: skip
    shapes = jax.eval_shape(lambda: stage.init({})[0]).params["student"]
    assert shapes["embedding"].shape[-2] == 302


def test_a_teacher_with_another_tokenizer_is_read_over_the_same_bytes(folder):
    rows = {"uld": {"method": "universal_kd"}, "gold": {"method": "aligned_universal_kd"}}
    data, stages = build(small(folder, rows, teacher__tokenizer__vocabulary=280))
    assert data.crosses and set(stages) == {"alone", "uld", "gold"}
    assert data.vocabulary("student") == 300 and data.vocabulary("teacher") == 280
    columns = stages["gold"][0][0].streams["sequence"].resident
    assert {"alignment", "teacher_tokens", "teacher_alignment"} <= set(columns)


def test_a_served_models_best_classes_come_as_a_signal(folder, tmp_path):
    path = tmp_path / "top.jsonl"
    row = {"prompt": "f", "tokens": [40, 41, 42], "top_log_probs": [[[40, -0.1], [41, -3.0]]] * 3}
    path.write_text("\n".join([json.dumps(row)] * 20))
    rows = {"served": {"method": "token_kd", "answers": {"file": str(path), "top_k": 2}}}
    config = small(folder, rows)
    _, stages = build(config)
    stream = stages["served"][0][0].streams["sequence"]
    x = jax.tree.map(lambda leaf: leaf[0], stream.xs(0, 0, 1))
    batch = stream.batch(stream.resident, x, jax.random.key(0))
    where = np.asarray(batch["mask"])
    assert where.any() and batch["signal"].classes.shape == (*where.shape, 2)
    np.testing.assert_allclose(batch["signal"].log_probs[where][:, 0], -0.1, rtol=1e-6)
    with pytest.raises(setup.ConfigError, match="answers alone train `next_token`"):
        rows["served"]["answers"]["top_k"] = 0
        build(small(folder, rows))


def test_first_is_told_by_a_teacher_at_the_temperature_that_calibrates_it(folder):
    rows = {"kd": KD, "told": {"method": "first", "top_k": 300, "calibrated": (0.1, 3.0, 30.0)}}
    config = small(folder, rows)
    data = distill_lm.build_data(config)
    batch = data.validation["teacher"]

    # Right three times in four, and three times as sure as it should be.
    def apply(variables, inputs, *, train, rngs):
        place = jax.numpy.arange(inputs["tokens"].size).reshape(inputs["tokens"].shape)
        first = batch["targets"][0]
        own = jax.numpy.where(place % 4 == 0, (first + 1) % 300, first)
        chance = jax.nn.one_hot(own, 300) * 0.75 + (1 - jax.nn.one_hot(own, 300)) * 0.25 / 299
        return Outputs(3.0 * jax.numpy.log(chance)), {}

    batch = data.validation["teacher"] = {k: x[:1] for k, x in batch.items()}
    teacher, frozen = Network(None, apply), {"teacher": {}, "teacher/model": {}}
    chosen = lm_rows.calibrated(config, data, teacher, frozen, "told")
    assert chosen.run.rows.told.teacher_temperature == 3.0
    assert lm_rows.calibrated(config, data, teacher, frozen, "kd") is config


QUICK = ("default",)
RECIPES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.full)
    for name in lm.RECIPES
    if name != "llama3_8b_to_1b"
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_its_stages(recipe, folder):
    config = lm.get_config(f"{recipe},tiny")
    full = lm.get_config(recipe)
    assert set(config.run.rows) == set(full.run.rows) and full.run.baseline in full.run.rows
    config.run.data.name = str(folder)
    config.run.data.validation = config.run.data.test = 0.15
    config.run.data.rows, config.run.data.evaluated = 32, 4
    config.run.batch = config.run.teacher.batch = 8
    _, stages = build(config)
    assert set(stages) == set(config.run.rows)
