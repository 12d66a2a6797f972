"""`tools.weights`: what a folder holds, a checked copy of it, a run's student for others."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax.networks import decoder_transformer, fingerprint
from kdjax.networks.pretrained import decoder_config, load_pretrained, save_pretrained
from kdjax.train import init_state
from kdjax.train.checkpoints import Checkpoints
from tools import weights

SIZES = {"width": 16, "depth": 2, "heads": 4, "key_heads": 2, "hidden": 24}
NETWORK = {"name": "decoder_transformer", **SIZES, "query_key_norm": True, "scan": False}
OPTIONS = {key: value for key, value in NETWORK.items() if key != "name"}
TOKENS = np.array([[3, 1, 4, 1, 5]])


@pytest.fixture(name="folder")
def _folder(tmp_path):
    config = decoder_config({**SIZES, "vocabulary": 20}, positions=64)
    network = decoder_transformer(20, **SIZES)
    shapes = jax.eval_shape(network.init, jax.random.key(0), TOKENS)
    drawn = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: drawn.normal(size=x.shape).astype(np.float32), shapes)
    save_pretrained(tmp_path / "base", variables, config, shard_bytes=6_000)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    return tmp_path / "base"


def test_import_prints_what_a_folder_holds(folder, tmp_path, capsys):
    assert weights.main(["import", str(folder), "--json", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    _, variables, _ = load_pretrained(folder)
    assert found["fingerprint"] == fingerprint(variables["params"])
    assert found["parameters"] == sum(x.size for x in jax.tree.leaves(variables))
    assert found["bytes"] == 4 * found["parameters"]
    assert (found["model_type"], found["dtypes"]) == ("llama", ["float32"])
    assert found["fingerprint"] in printed and "decoder_transformer" in printed


def test_import_writes_a_checked_copy(folder, tmp_path):
    arguments = ["import", str(folder), "--to", str(tmp_path / "copy"), "--dtype", "bfloat16"]
    assert weights.main(arguments) == 0
    _, copied, config = load_pretrained(tmp_path / "copy")
    _, whole, _ = load_pretrained(folder)
    jax.tree.map(
        np.testing.assert_array_equal, copied, jax.tree.map(lambda x: x.astype(jnp.bfloat16), whole)
    )
    assert config["dtype"] == "bfloat16"
    assert (tmp_path / "copy" / "tokenizer.json").exists()
    assert weights.main(arguments) == 1


def test_import_refuses_with_the_name_and_writes_nothing(folder, tmp_path, capsys):
    file = next(folder.glob("model-00002-*"))
    file.write_bytes(file.read_bytes()[:-8])
    assert weights.main(["import", str(folder), "--to", str(tmp_path / "copy")]) == 1
    assert f"{file.name} is truncated: tensor 'model." in capsys.readouterr().err
    shutil.rmtree(folder)
    assert weights.main(["import", str(folder)]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(name="row", scope="module")
def _row(tmp_path_factory):
    """(the folder of a row with two seeds, its students' parameters)"""
    workdir = tmp_path_factory.mktemp("run")
    networks = {"student": decoder_transformer(20, **OPTIONS)}
    optimisers = {"student": optax.adamw(1e-3)}
    state = init_state(jax.random.key(0), networks, {"student": TOKENS}, optimisers)
    state = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.stack([x, x + 1]),
        state,
    )
    checkpoints = Checkpoints(workdir / "checkpoints" / "kd")
    checkpoints.save(7, state, {"seeds": [0, 3], "teachers": {"teacher": "ab12"}})
    checkpoints.close()
    (workdir / "config.json").write_text(json.dumps({"run": {"student": {"network": NETWORK}}}))
    return workdir / "checkpoints" / "kd", state.params["student"]


@pytest.mark.full
def test_export_writes_the_student_of_a_row(row, tmp_path):
    folder, params = row
    out = tmp_path / "out"
    card = ["--licence", "mit", "--method", "KL", "--teacher", "big", "--number", "perplexity=3.2"]
    assert weights.main(["export", str(folder), str(out), "--seed", "3", *card]) == 0
    network, variables, config = load_pretrained(out, scan=False)
    expected = jax.tree.map(lambda x: x[1], params)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected)
    assert config["model_type"] == "qwen3"
    text = (out / "README.md").read_text()
    assert "`ab12`" in text and "| perplexity | 3.2 |" in text and fingerprint(expected) in text
    logits = network.apply(variables, TOKENS, train=False, rngs={})[0].logits
    own = decoder_transformer(20, **OPTIONS)
    found = own.apply({"params": expected}, TOKENS, train=False, rngs={})[0].logits
    np.testing.assert_array_equal(logits, found)


def test_export_takes_a_configuration_and_refuses_what_does_not_fit(row, tmp_path, capsys):
    folder, _ = row
    out = str(tmp_path / "out")
    config = decoder_config({**OPTIONS, "vocabulary": 20, "width": 32}, positions=8)
    (tmp_path / "config.json").write_text(json.dumps(config))
    wrong = ["export", str(folder), out, "--config", str(tmp_path / "config.json")]
    for arguments, message in [
        (wrong, "'params/embedding' has shape (20, 16)"),
        (
            ["export", str(folder), out, "--player", "peer"],
            "no player 'peer', there are ['student']",
        ),
        (["export", str(folder), out, "--seed", "1"], "no seed 1, there are [0, 3]"),
        (["export", str(tmp_path / "none"), out], "none is no folder"),
    ]:
        assert weights.main(arguments) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_whose_parameters_changed_is_not_exported(row, tmp_path, monkeypatch, capsys):
    folder, _ = row
    real = Checkpoints.record

    def changed(self):
        record = real(self)
        return {**record, "players": {"student": "0" * 64}}

    monkeypatch.setattr(Checkpoints, "record", changed)
    assert weights.main(["export", str(folder), str(tmp_path / "out")]) == 1
    assert "its player 'student''s sha256 is" in capsys.readouterr().err
