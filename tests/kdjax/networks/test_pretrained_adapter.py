"""Low-rank adapters in the layout of PEFT, beside the formula in the base's own layout."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as reference

from kdjax.networks import low_rank, merged
from kdjax.networks.pretrained import (
    LayoutError,
    families,
    folder,
    load_adapter,
    save_adapter,
)

SIZES = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA = {
    **SIZES,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
BERT = {
    **SIZES,
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}
TOKENS = np.array([[3, 7, 1, 9, 2]])
PATTERNS = {"layers/(query|value)/kernel": 1, "layers/out/kernel": 2, "layers/down/kernel": 1}
RANK, ALPHA = 3, 6.0


def random_like(tree, seed=0):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: generator.normal(size=x.shape).astype(np.float32) * 0.3, tree)


def shapes_of(network):
    return jax.eval_shape(network.init, jax.random.key(0), TOKENS)["params"]


NETWORK = folder.build(families.architecture(LLAMA))
BASE = random_like(shapes_of(NETWORK))
ADAPTED = low_rank(NETWORK, PATTERNS, rank=RANK, alpha=ALPHA)
FACTORS = random_like(shapes_of(ADAPTED), seed=1)


def logits(network, params, frozen=None):
    variables = {"params": params, "frozen": frozen or {}, "model": {}}
    return network.apply(variables, TOKENS, train=False, rngs={})[0].logits


@pytest.fixture(name="saved")
def _saved(tmp_path):
    save_adapter(tmp_path / "out", FACTORS, LLAMA, alpha=ALPHA, base="someone/base")
    return tmp_path / "out"


def test_every_layer_of_a_scan_has_factors_of_its_own():
    assert FACTORS["layers"]["query"]["kernel"]["a"].shape == (2, 16, 3)
    assert FACTORS["layers"]["query"]["kernel"]["b"].shape == (2, 3, 16)
    assert FACTORS["layers"]["out"]["kernel"]["a"].shape == (2, 16, 3)
    assert FACTORS["layers"]["value"]["kernel"]["b"].shape == (2, 3, 8)
    a = low_rank(NETWORK, PATTERNS, rank=64, alpha=1.0).init(jax.random.key(0), TOKENS)["params"]
    a = a["layers"]["down"]["kernel"]["a"]
    np.testing.assert_allclose(np.std(a) * np.sqrt(24), 1, atol=0.1)


def test_the_files_are_the_update_of_the_bases_own_tensors(saved):
    """W + (α / r) B A in the base's layout, without our factors: the same logits."""
    architecture = families.architecture(LLAMA)
    theirs = {
        name: tensor.values()
        for name, tensor in folder.export_tensors(architecture, {"params": BASE}).items()
    }
    found = reference.load_file(saved / "adapter_model.safetensors")
    modules = {name.rpartition(".lora_")[0] for name in found}
    ends = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
    assert modules == {f"base_model.model.model.layers.{i}.{e}" for i in (0, 1) for e in ends}
    for module in modules:
        a, b = found[f"{module}.lora_A.weight"], found[f"{module}.lora_B.weight"]
        assert a.shape[0] == b.shape[1] == RANK
        weight = module.removeprefix("base_model.model.") + ".weight"
        theirs[weight] = theirs[weight] + ALPHA / RANK * b @ a
    expected = jax.tree.map(np.copy, BASE)
    for path, (_, parts, stacked) in folder.places(architecture).items():
        leaf = expected
        for name in path.split("/")[1:-1]:
            leaf = leaf[name]
        values = [rule.to_ours(theirs[name]) for name, rule in parts]
        leaf[path.split("/")[-1]] = np.stack(values) if stacked else values[0]
    np.testing.assert_allclose(
        logits(NETWORK, expected), logits(ADAPTED, FACTORS, BASE), rtol=1e-3, atol=1e-3
    )
    merged_logits = logits(NETWORK, merged(BASE, FACTORS, alpha=ALPHA))
    np.testing.assert_allclose(merged_logits, logits(ADAPTED, FACTORS, BASE), rtol=1e-5, atol=1e-5)


def test_it_comes_back_ready_for_training(saved):
    adapter = load_adapter(saved, LLAMA)
    assert jax.tree.structure(adapter.params) == jax.tree.structure(FACTORS)
    jax.tree.map(np.testing.assert_array_equal, adapter.params, FACTORS)
    again = low_rank(NETWORK, adapter.patterns, rank=adapter.rank, alpha=adapter.alpha)
    assert jax.tree.map(lambda x: x.shape, shapes_of(again)) == jax.tree.map(
        lambda x: x.shape, FACTORS
    )
    np.testing.assert_array_equal(
        logits(again, adapter.params, BASE), logits(ADAPTED, FACTORS, BASE)
    )
    config = adapter.config
    assert config["base_model_name_or_path"] == "someone/base"
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj", "v_proj"]
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)


def test_another_scale_and_half_precision(saved):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    adapter = load_adapter(saved, LLAMA)
    np.testing.assert_allclose(adapter.alpha / adapter.rank, ALPHA / np.sqrt(RANK))
    half = load_adapter(saved, LLAMA, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(half.params)} == {jnp.dtype("bfloat16")}


def test_layers_that_are_apart_and_names_that_end_alike(tmp_path):
    """Of BERT `output.dense` ends two modules: the whole names say which is meant."""
    network = folder.build(families.architecture(BERT))
    adapted = low_rank(network, {"layer./down/kernel": 1}, rank=2, alpha=2.0)
    factors = random_like(shapes_of(adapted))
    save_adapter(tmp_path / "out", factors, BERT, alpha=2.0, dtype=jnp.bfloat16)
    adapter = load_adapter(tmp_path / "out", BERT)
    assert adapter.config["target_modules"] == [
        f"bert.encoder.layer.{i}.output.dense" for i in (0, 1)
    ]
    jax.tree.map(
        np.testing.assert_array_equal,
        adapter.params,
        jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(np.float32), factors),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "IA3"}, "adapter_config.json: peft_type is 'IA3', here it can be 'LORA'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"r": None}, "lacks 'r'"),
        ({"r": 4}, r"q_proj.lora_A.weight' has shape \(3, 16\), rank 4 .* \(4, 16\)"),
    ],
)
def test_a_configuration_that_is_no_plain_adapter_is_refused(saved, change, message):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(LayoutError, match=message):
        load_adapter(saved, LLAMA)


QUERY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.pop(QUERY), f"lacks the tensor '{QUERY}'"),
        (
            lambda f: f.update({QUERY.replace("q_proj", "p_proj"): f[QUERY]}),
            r"'.*p_proj.lora_A.weight' that is no factor .*\(is it '.*_proj.lora_A.weight'\?\)",
        ),
        (lambda f: f.update({QUERY: f[QUERY][:, :4].copy()}), r"q_proj.* has shape \(3, 4\)"),
        (lambda f: f.clear(), "holds no factors"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(saved, change, message):
    found = reference.load_file(saved / "adapter_model.safetensors")
    change(found)
    reference.save_file(found, saved / "adapter_model.safetensors")
    with pytest.raises(LayoutError, match=message):
        load_adapter(saved, LLAMA)


def test_pickles_and_missing_files_are_refused(saved):
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")
    with pytest.raises(LayoutError, match="the pickle adapter_model.bin"):
        load_adapter(saved, LLAMA)
    (saved / "adapter_model.bin").unlink()
    with pytest.raises(LayoutError, match="has no adapter_model.safetensors"):
        load_adapter(saved, LLAMA)
    (saved / "adapter_config.json").unlink()
    with pytest.raises(LayoutError, match="has no adapter_config.json"):
        load_adapter(saved, LLAMA)


def test_factors_that_are_not_the_bases_are_not_written(tmp_path):
    wrong = {"layers": {"query": {"kernel": {"a": np.ones((2, 8, 3)), "b": np.ones((2, 3, 16))}}}}
    with pytest.raises(LayoutError, match=r"query/kernel/a has shape \(2, 8, 3\).*\(2, 16, 3\)"):
        save_adapter(tmp_path / "out", wrong, LLAMA, alpha=1.0)
    wrong = {"layers": {"qeury": wrong["layers"]["query"]}}
    with pytest.raises(LayoutError, match="'layers/qeury/kernel' is no dense kernel"):
        save_adapter(tmp_path / "out", wrong, LLAMA, alpha=1.0)
    mixed = {
        "layers": {
            name: {"kernel": {"a": np.ones((2, 16, r)), "b": np.ones((2, r, 16))}}
            for name, r in (("query", 2), ("out", 3))
        }
    }
    with pytest.raises(LayoutError, match=r"one rank, there are \[2, 3\]"):
        save_adapter(tmp_path / "out", mixed, LLAMA, alpha=1.0)
    assert not list(tmp_path.iterdir())
