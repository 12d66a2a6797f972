"""A network as a program: the same logits for any batch, and what is refused."""

import json

import jax
import numpy as np
import pytest

from kdjax.networks import multilayer_perceptron, resnet
from kdjax.networks.pretrained import LayoutError, load_program, save_program

pytest.importorskip("flatbuffers", reason="jax.export writes its files with flatbuffers")

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
NETWORK = multilayer_perceptron(4, widths=(8,), features=("hidden1",))
VARIABLES = jax.jit(NETWORK.init)(jax.random.key(0), X)


@pytest.fixture(name="saved")
def _saved(tmp_path):
    save_program(tmp_path / "out", NETWORK, VARIABLES, X)
    return tmp_path / "out"


def test_the_program_gives_the_networks_outputs_for_any_batch(saved):
    program = load_program(saved)
    for x in (X, X[:1], np.concatenate([X, X])):
        expected, _ = NETWORK.apply(VARIABLES, x, train=False, rngs={})
        found = program(x)
        assert sorted(found) == ["hidden1", "logits"]
        np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            found["hidden1"], expected.features["hidden1"], rtol=1e-6, atol=1e-6
        )


def test_state_goes_along_and_a_batch_may_be_fixed(tmp_path):
    network = resnet(3, depth=8, widths=(4, 4, 4, 4))
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    variables["model"] = jax.tree.map(lambda x: x + 0.5, variables["model"])
    save_program(tmp_path / "out", network, variables, images, batch=2)
    expected, _ = network.apply(variables, images, train=False, rngs={})
    program = load_program(tmp_path / "out")
    np.testing.assert_allclose(program(images)["logits"], expected.logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="Shape mismatch|shape"):
        program(images[:1])


def test_what_does_not_belong_together_is_refused(saved, tmp_path):
    with pytest.raises(FileExistsError, match="not an empty folder"):
        save_program(saved, NETWORK, VARIABLES, X)
    other = multilayer_perceptron(4, widths=(9,))
    save_program(tmp_path / "other", other, jax.jit(other.init)(jax.random.key(0), X), X)
    weights = (saved / "variables.safetensors").read_bytes()
    (saved / "variables.safetensors").write_bytes(
        (tmp_path / "other" / "variables.safetensors").read_bytes()
    )
    with pytest.raises(LayoutError, match=r"'params/dense1/bias' is float32 \(9,\).*\(8,\)"):
        load_program(saved)
    (saved / "variables.safetensors").write_bytes(weights[:-4])
    with pytest.raises(LayoutError, match="truncated"):
        load_program(saved)
    (saved / "variables.safetensors").write_bytes(weights)
    program = bytearray((saved / "program.jax_export").read_bytes())
    program[len(program) // 2] ^= 1
    (saved / "program.jax_export").write_bytes(program)
    with pytest.raises(LayoutError, match="is not the program that program.json records"):
        load_program(saved)
    (saved / "program.json").unlink()
    with pytest.raises(LayoutError, match="has no program.json"):
        load_program(saved)
    assert json.loads((tmp_path / "other" / "program.json").read_text())["platforms"] == ["cpu"]
