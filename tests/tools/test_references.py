"""`python -m tools.references`: on recorded folders that the tests write, with arrays of their own."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import kdjax.losses
from tools.references import __main__ as command
from tools.references import compare, recorded, registry, stress


def kl_and_gradient(s, t, temperature):
    """Per row: KL(p || q) of softened rows, and its gradient by the student's logits."""
    q, p = (np.exp(x / temperature) for x in (s, t))
    q, p = (x / x.sum(-1, keepdims=True) for x in (q, p))
    return np.sum(p * np.log(p / q), -1), (q - p) / temperature


def write_folder(folder, seed=3, scale_value=1.0, scale_gradient=1.0):
    """Two recorded entries by their published names, with other shapes, seeds and file names."""
    rng = np.random.default_rng(seed)
    s, t = rng.normal(size=(2, 5, 11))
    value, gradient = kl_and_gradient(s, t, 4.0)
    value, gradient = 16 * value.mean() * scale_value, 16 * gradient / 5 * scale_gradient
    name = "mdistiller_kd_T4"
    arrays = {"in/logits_s": s.astype(np.float32), "in/logits_t": t.astype(np.float32)}
    value32, gradient32 = kl_and_gradient(*(x.astype(np.float64) for x in arrays.values()), 4.0)
    for prefix, dtype in (("", np.float32), ("64", np.float64)):
        arrays[f"out{prefix}/{name}"] = (16 * value32.mean() * scale_value).astype(dtype)
        arrays[f"grad{prefix}/{name}/logits_s"] = (16 / 5 * gradient32 * scale_gradient).astype(
            dtype
        )
    np.savez(folder / "some_maps.npz", **arrays)
    entry = {
        "name": name,
        "method": "KD",
        "source_repo": "someone/something",
        "student_inputs": ["in/logits_s"],
        "other_inputs": ["in/logits_t"],
        "hparams": {"T": 4.0},
        "output_key": f"out/{name}",
        "grad_keys": [f"grad/{name}/logits_s"],
        "output_key_f64": f"out64/{name}",
        "grad_keys_f64": [f"grad64/{name}/logits_s"],
        "peer_quirk": "",
    }
    (folder / "some_maps.json").write_text(json.dumps({"entries": [entry]}))

    name = "trl_gkd_b0.0_T1.0"
    s, t = rng.normal(size=(2, 3, 4, 9)).astype(np.float32)
    labels = rng.integers(0, 9, (3, 4))
    labels[:, :2] = -100
    kept = labels != -100
    value, gradient = kl_and_gradient(s.astype(np.float64), t.astype(np.float64), 1.0)
    gradient = np.where(kept[..., None], gradient, 0) / kept.sum()
    np.savez(
        folder / "some_tokens.npz",
        **{
            "in/student_logits": s,
            "in/teacher_logits": t,
            "in/labels": labels,
            f"{name}/value": np.float32(value[kept].mean()),
            f"{name}/grad_student_logits": gradient.astype(np.float32),
        },
    )
    entry = {
        "name": name,
        "source": "someone/else@123 a/b/trainer.py Trainer.loss",
        "hyperparameters": {"beta": 0.0, "temperature": 1.0, "reduction": "batchmean"},
        "inputs": ["in/student_logits", "in/teacher_logits", "in/labels"],
        "keys": {
            "value": f"{name}/value",
            "grad_student_logits": f"{name}/grad_student_logits",
        },
        "peer_quirk": "",
    }
    (folder / "some_tokens.json").write_text(json.dumps({"entries": [entry]}))


def test_other_arrays_shapes_seeds_and_file_names_match(tmp_path, capsys):
    write_folder(tmp_path)
    rows = tmp_path / "out" / "rows.json"
    rows.parent.mkdir()
    assert command.main(["--data", str(tmp_path), "--json", str(rows)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "references: 2 matched, 0 differ, 0 not covered, 0 quirks"
    written = json.loads(rows.read_text())
    assert [(row["name"], row["method"], row["status"]) for row in written] == [
        ("mdistiller_kd_T4", "KD", "matched"),
        ("trl_gkd_b0.0_T1.0", "trainer.py Trainer.loss", "matched"),
    ]
    assert all(row["detail"] == "" for row in written)


@pytest.mark.parametrize("scale", [{"scale_value": 1.0001}, {"scale_gradient": -1.0}])
def test_what_differs_is_named_and_exits_1(tmp_path, capsys, scale):
    write_folder(tmp_path, **scale)
    assert command.main(["--data", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "references: 1 matched, 1 differ, 0 not covered, 0 quirks"
    assert lines[0].startswith("differ       mdistiller_kd_T4: ")
    assert ("value" if "scale_value" in scale else "gradient of logits_s") in lines[0]
    assert "ours" in lines[0] and "theirs" in lines[0]


def test_entry_without_an_adapter_is_not_covered_and_no_failure(tmp_path, capsys):
    write_folder(tmp_path)
    index = tmp_path / "some_maps.json"
    index.write_text(
        index.read_text().replace('"name": "mdistiller_kd_T4"', '"name": "nobody_has"')
    )
    assert command.main(["--data", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "references: 1 matched, 0 differ, 1 not covered, 0 quirks"


def test_compact_copy_gives_the_same_rows(tmp_path, capsys):
    write_folder(tmp_path)
    assert command.main(["--data", str(tmp_path), "--compact", str(tmp_path / "small")]) == 0
    assert command.main(["--data", str(tmp_path / "small")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "references: 2 matched, 0 differ, 0 not covered, 0 quirks"


def test_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="NAME.npz"):
        recorded.read(tmp_path)


# The comparison of one entry.


def entry(**changes):
    """A recorded sum of squares, right in value and gradient."""
    x = np.array([1.0, -2.0, 3.0], np.float32)
    single = recorded.Run({"value": np.float32(14)}, {"x": 2 * x})
    double = recorded.Run({"value": np.float64(14)}, {"x": 2 * x.astype(np.float64)})
    given = recorded.Entry("squares", "M", "a/b", {"x": x}, {"scale": 1.0}, single, double, "", "")
    return given._replace(**changes)


def squares(x, h):
    return h["scale"] * jnp.sum(jnp.square(x["x"]))


def status(given, compute=squares, **quirk):
    return compare.compare(given, registry.Adapter(compute, **quirk)).status


def test_right_value_and_gradient_match():
    assert status(entry()) == "matched"


def test_wrong_gradient_of_a_right_value_differs():
    def detached(x, h):
        return 14 + 0 * jnp.sum(x["x"])

    assert status(entry(), detached) == "differ"


def test_adapter_that_raises_differs_with_the_error():
    row = compare.compare(entry(), registry.Adapter(lambda x, h: x["absent"]))
    assert row.status == "differ" and "KeyError" in row.detail


def test_float64_is_held_tighter_than_float32():
    def off(x, h):
        return squares(x, h) * (1 + 5e-5)

    assert status(entry(), off) == "differ"
    assert status(entry(double=None), off) == "matched"


def test_missing_value_differs():
    single = recorded.Run({"value": np.float32(14), "other": np.float32(1)}, {})
    assert status(entry(single=single, double=None)) == "differ"
    both = {"value": 14.0, "other": 1.0}
    assert status(entry(single=single, double=None), lambda x, h: both) == "matched"


def test_nan_never_matches():
    assert status(entry(), lambda x, h: squares(x, h) * jnp.nan) == "differ"


def test_overflow_of_the_other_project_is_held_to_its_float64_run():
    overflown = recorded.Run({"value": np.float32(np.inf)}, {"x": np.full(3, np.nan, np.float32)})
    assert status(entry(single=overflown)) == "matched"
    assert status(entry(single=overflown), lambda x, h: jnp.inf * squares(x, h)) == "differ"


def test_gradient_at_a_point_that_is_not_smooth_need_only_be_finite():
    double = recorded.Run({"value": np.float64(14)}, {"x": np.full(3, 1e9)})
    rough = entry(single=entry().single, double=double, not_smooth="do not match")
    assert status(rough) == "matched"
    assert status(rough._replace(not_smooth="")) == "differ"

    def infinite(x, h):
        return squares(x, h) + jnp.sqrt(jnp.sum(x["x"] * 0))

    assert status(rough, infinite) == "differ"


def test_gradient_recorded_in_another_layout_belongs_to_its_input():
    single = recorded.Run({"value": np.float32(14)}, {"x_LBD": entry().single.gradients["x"][None]})
    assert status(entry(single=single, double=None)) == "matched"


def restated(x, h):
    return h["scale"] * np.sum(x["x"] ** 2)


def test_quirk_needs_a_recorded_one_a_line_and_the_corrected_value():
    wrong = entry(single=entry().single._replace(values={"value": np.float32(7)}), double=None)
    faulty = wrong._replace(peer_quirk="halves")
    assert status(wrong) == "differ"
    assert status(faulty) == "differ"
    assert status(faulty, quirk="halves the sum", corrected=restated) == "quirk"
    assert status(faulty, quirk="halves the sum") == "differ"
    assert status(faulty, quirk="halves the sum", corrected=lambda x, h: 14.001) == "differ"
    assert status(wrong, quirk="halves the sum", corrected=restated) == "differ"


# The stress table.


def example(**changes):
    def build(rng, batch):
        return tuple(rng.normal(size=(2, batch, 5)).astype(np.float32)), {}

    return registry.Example(build, classes=(0, 1))._replace(**changes)


def failed(loss):
    return {row.case for row in stress.stress(loss, example()) if row.status == "failed"}


def test_sound_loss_passes_every_case():
    rows = stress.stress(kdjax.losses.softened_kl_divergence, example())
    assert [row.case for row in rows] == list(stress.CASES)
    assert {row.status for row in rows} == {"ok"}


def test_naive_losses_fail_where_they_break():
    def naive_kl(s, t, *, where):
        q, p = (jnp.exp(x) / jnp.sum(jnp.exp(x), -1, keepdims=True) for x in (s, t))
        return jnp.where(where, jnp.sum(p * jnp.log(p / q), -1), 0)

    def naive_distance(s, t, *, where):
        return jnp.where(where, jnp.sqrt(jnp.sum(jnp.square(s - t), -1)), 0)

    def naive_cosine(s, t, *, where):
        length = jnp.linalg.norm(s, axis=-1) * jnp.linalg.norm(t, axis=-1)
        return jnp.where(where, 1 - jnp.sum(s * t, -1) / length, 0)

    assert {"times_1000", "masked_nan", "infinite_both"} <= failed(naive_kl)
    assert {"zeros", "teacher_is_student", "masked_nan"} <= failed(naive_distance)
    assert {"zeros", "zero_student"} <= failed(naive_cosine)
    assert "ordinary" not in failed(naive_kl) | failed(naive_distance) | failed(naive_cosine)


def test_public_loss_without_an_example_fails_the_table(capsys):
    rows, any_failed = command.run_stress({}, only="softened_kl_divergence")
    assert any_failed and [row.detail for row in rows] == ["no Example"]
    capsys.readouterr()
