"""Folders of weights: in and out, straight into a sharding, and what is refused."""

import json
import pickle
import shutil
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from safetensors import numpy as reference

from kdjax.networks import fingerprint, pretrained
from kdjax.networks.pretrained import families, folder, tensors
from kdjax.networks.pretrained.architecture import Architecture, LayoutError, Rule

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
}
IMAGES = {**SIZES, "image_size": 8, "patch_size": 4}
LABELS = {"id2label": {"0": "a", "1": "b", "2": "c"}}
CONFIGS = {
    "llama": LLAMA,
    "llama_tied": {**LLAMA, "tie_word_embeddings": True},
    "bert": {**SIZES, "model_type": "bert", "architectures": ["BertForMaskedLM"]},
    "bert_base": {**SIZES, "model_type": "bert", "architectures": ["BertModel"]},
    "roberta": {
        **SIZES,
        **LABELS,
        "model_type": "roberta",
        "architectures": ["RobertaForSequenceClassification"],
    },
    "mobilebert": {
        **SIZES,
        "model_type": "mobilebert",
        "architectures": ["MobileBertForMaskedLM"],
        "embedding_size": 8,
        "intra_bottleneck_size": 8,
        "num_feedforward_networks": 3,
    },
    "distilbert": {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "vocab_size": 24,
        "dim": 16,
        "hidden_dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "max_position_embeddings": 12,
    },
    "vit": {
        **IMAGES,
        **LABELS,
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
    },
    "deit": {
        **IMAGES,
        **LABELS,
        "model_type": "deit",
        "architectures": ["DeiTForImageClassificationWithTeacher"],
    },
    "clip": {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": 6,
        "text_config": SIZES,
        "vision_config": IMAGES,
    },
    "resnet": {
        **LABELS,
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "embedding_size": 8,
        "hidden_sizes": [16, 32],
        "depths": [2, 1],
    },
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 24,
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}
TOKENS = np.array([[3, 7, 1, 9]])


def random_variables(config, dtype=np.float32, seed=0):
    """The variables of a configuration, every value its own."""
    architecture = families.architecture(config)
    network = folder.build(architecture)
    shapes = jax.eval_shape(network.init, jax.random.key(0), architecture.inputs)
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: generator.normal(size=x.shape).astype(dtype), shapes)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, x), y in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert x.dtype == y.dtype, path
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


@pytest.fixture(name="templates", scope="module")
def _templates(tmp_path_factory):
    """A small Llama in five shards and in one file."""
    folder = tmp_path_factory.mktemp("templates")
    pretrained.save_pretrained(folder / "five", random_variables(LLAMA), LLAMA, shard_bytes=6_000)
    pretrained.save_pretrained(folder / "one", random_variables(LLAMA), LLAMA)
    assert len(list((folder / "five").glob("model-*"))) == 5
    return folder


@pytest.fixture(name="saved")
def _saved(templates, tmp_path):
    shutil.copytree(templates / "five", tmp_path / "five")
    return tmp_path / "five"


@pytest.fixture(name="single")
def _single(templates, tmp_path):
    shutil.copytree(templates / "one", tmp_path / "one")
    return tmp_path / "one"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_comes_back_as_it_went(name, tmp_path):
    variables = random_variables(CONFIGS[name])
    pretrained.save_pretrained(tmp_path / "out", variables, CONFIGS[name])
    network, loaded, config = pretrained.load_pretrained(tmp_path / "out")
    assert_equal(loaded, variables)
    assert config == {**CONFIGS[name], "dtype": "float32"}
    inputs = families.architecture(config).inputs
    assert jax.tree.structure(jax.eval_shape(network.init, jax.random.key(0), inputs))


def test_the_layout_is_theirs():
    """The files beside the reader of the format's authors, tensor by tensor."""
    variables = random_variables(LLAMA)["params"]
    pending = folder.export_tensors(families.architecture(LLAMA), {"params": variables})
    theirs = {name: tensor.values() for name, tensor in pending.items()}
    layer = "model.layers.1."
    kernel = variables["layers"]["query"]["kernel"][1]
    np.testing.assert_array_equal(
        theirs[layer + "self_attn.q_proj.weight"], kernel.reshape(16, 16).T
    )
    kernel = variables["layers"]["out"]["kernel"][1]
    np.testing.assert_array_equal(
        theirs[layer + "self_attn.o_proj.weight"], kernel.reshape(16, 16).T
    )
    np.testing.assert_array_equal(
        theirs[layer + "mlp.gate_proj.weight"], variables["layers"]["gate"]["kernel"][1].T
    )
    np.testing.assert_array_equal(theirs["lm_head.weight"], variables["head"].T)
    assert {name: tensor.shape for name, tensor in pending.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_files_of_the_formats_own_library_both_ways(tmp_path, dtype):
    variables = random_variables(LLAMA, dtype)
    pretrained.save_pretrained(tmp_path / "ours", variables, LLAMA)
    theirs = reference.load_file(tmp_path / "ours" / tensors.SINGLE)
    (tmp_path / "theirs").mkdir()
    reference.save_file(theirs, tmp_path / "theirs" / tensors.SINGLE)
    shutil.copy(tmp_path / "ours" / "config.json", tmp_path / "theirs")
    _, loaded, config = pretrained.load_pretrained(tmp_path / "theirs")
    assert_equal(loaded, variables)
    assert config["dtype"] == np.dtype(dtype).name
    _, loaded, _ = pretrained.load_pretrained(tmp_path / "theirs", dtype=jnp.bfloat16)
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables))


def test_shards_are_cut_by_size_and_name_every_tensor(saved):
    index = json.loads((saved / tensors.INDEX).read_text())
    sizes = [file.stat().st_size for file in saved.glob("model-*.safetensors")]
    assert max(sizes) < 6_000 + 2_000
    assert index["metadata"]["total_size"] == 4 * sum(
        x.size for x in jax.tree.leaves(random_variables(LLAMA))
    )
    assert len(index["weight_map"]) == 2 * 9 + 3
    assert_equal(pretrained.load_pretrained(saved)[1], random_variables(LLAMA))


def test_it_arrives_in_the_sharding_that_was_asked_for(saved):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)  # fmt: skip
    split = {
        "gate": PartitionSpec(None, "fsdp", "tensor"),
        "query": PartitionSpec(None, "fsdp", "tensor"),
        "out": PartitionSpec("tensor", "fsdp"),
        "embedding": PartitionSpec("fsdp"),
    }

    def sharding(shapes):
        def choose(path, leaf):
            names = {part.key for part in path}
            specs = [spec for name, spec in split.items() if name in names]
            return NamedSharding(mesh, specs[0] if specs else PartitionSpec())

        return jax.tree_util.tree_map_with_path(choose, shapes)

    network, loaded, _ = pretrained.load_pretrained(saved, sharding=sharding)
    assert_equal(loaded, random_variables(LLAMA))
    params = loaded["params"]
    assert params["layers"]["gate"]["kernel"].addressable_shards[0].data.shape == (2, 4, 16)
    assert params["layers"]["out"]["kernel"].sharding.spec == split["out"]
    _, whole, _ = pretrained.load_pretrained(saved)
    logits = [
        network.apply(v, TOKENS, train=False, rngs={})[0].logits for v in (loaded, whole)
    ]  # fmt: skip
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_a_slice_of_a_tensor_is_all_that_is_read(tmp_path):
    """Of 32 MiB, an eighth: nothing else is allocated, for rows of theirs and for columns."""
    shape = (2048, 4096)
    with open(tmp_path / "big.safetensors", "wb") as stream:
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * 2048 * 4096]}
        header = json.dumps({"w": entry}).encode()
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 4 * 2048 * 4096)
    rule = Rule("w", "w", np.transpose, np.transpose)
    for index in [(slice(None), slice(0, 256)), (slice(512, 1024), slice(None))]:
        tracemalloc.start()
        stored = tensors.open_file(tmp_path / "big.safetensors")["w"]
        leaf = folder.Leaf(shape[::-1], np.float32, [(stored, rule)], False)
        opened = tracemalloc.get_traced_memory()[1]
        part = leaf[index]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert part.nbytes == 2048 * 4096 // 2
        assert opened < 2**17 and peak < 1.1 * part.nbytes


def test_a_leaf_has_the_fingerprint_of_its_array(saved):
    opened = pretrained.open_pretrained(saved)
    expected = random_variables(LLAMA)["params"]
    assert fingerprint(opened.variables["params"]) == fingerprint(expected)
    assert opened.shapes["params"]["layers"]["gate"]["kernel"].shape == (2, 16, 32)
    leaf = opened.variables["params"]["layers"]["gate"]["kernel"]
    kernel = expected["layers"]["gate"]["kernel"]
    np.testing.assert_array_equal(leaf[1], kernel[1])
    np.testing.assert_array_equal(leaf[1:, 2:5, 7], kernel[1:, 2:5, 7])
    np.testing.assert_array_equal(np.asarray(leaf), kernel)


def test_an_opened_folder_is_written_again_without_being_loaded(saved, tmp_path):
    opened = pretrained.open_pretrained(saved)
    pretrained.save_pretrained(tmp_path / "half", opened.variables, LLAMA, dtype=jnp.bfloat16)
    _, loaded, config = pretrained.load_pretrained(tmp_path / "half")
    assert_equal(loaded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), random_variables(LLAMA)))
    assert config["dtype"] == "bfloat16"


def rewrite(file, change):
    """The file with `change(header)` applied to the entries of its header."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + raw[8 + length :])


def rename(header, old, new):
    header[new] = header.pop(old)


QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda h: rename(h, QUERY, QUERY.replace("q_proj", "q_porj")),
            r"no tensor '.*q_proj.weight', which a llama has \(is it '.*q_porj.weight'\?\)",
        ),
        (lambda h: h[QUERY].update(shape=[8, 32]), r"q_proj.weight' has shape \(8, 32\).*\(16, 16\)"),
        (lambda h: h[QUERY].update(dtype="I32"), "q_proj.weight' is int32, weights are floating"),
        (lambda h: h[QUERY].update(dtype="F8_E4M3"), "q_proj.weight' has dtype F8_E4M3"),
        (lambda h: h[QUERY].update(shape=[16, 15]), r"q_proj.weight' float32 \(16, 15\) has 1024"),
        (lambda h: h[QUERY].update(shape=[-1, 16]), "entry of tensor .*q_proj.weight' is damaged"),
        (lambda h: h[QUERY].pop("shape") and None, "entry of tensor .*q_proj.weight' is damaged"),
        (
            lambda h: h[QUERY].update(data_offsets=[o + 4 for o in h[QUERY]["data_offsets"]]),
            r"q_proj.weight' starts at byte",
        ),
        (
            lambda h: json.dumps(h).replace('"lm_head.weight"', f'"{QUERY}"').encode(),
            "names 'model.layers.1.self_attn.q_proj.weight' twice",
        ),
        (lambda h: b"not a header", "header is no JSON"),
        (lambda h: b"[1, 2]", "header is no JSON object"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_name(single, change, message):
    rewrite(single / tensors.SINGLE, change)
    with pytest.raises(LayoutError, match=message):
        pretrained.load_pretrained(single)


def test_a_truncated_file_is_refused_by_name(single):
    file = single / tensors.SINGLE
    raw = file.read_bytes()
    last = max(tensors.open_file(file).values(), key=lambda tensor: tensor.start)
    for size, message in [
        (len(raw) - 1, f"truncated: tensor '{last.name}' lies past its end"),
        (100, "truncated or no safetensors file: 100 bytes"),
        (0, "truncated or no safetensors file: 0 bytes"),
    ]:
        file.write_bytes(raw[:size])
        with pytest.raises(LayoutError, match=message):
            pretrained.open_pretrained(single)
    file.write_bytes(raw + b"\0")
    with pytest.raises(LayoutError, match="too long"):
        pretrained.open_pretrained(single)


def test_pickles_are_refused_whatever_they_are_called(single):
    file = single / tensors.SINGLE
    file.write_bytes(pickle.dumps({"w": list(range(100))}))
    with pytest.raises(LayoutError, match=r"model.safetensors is a pickle"):
        pretrained.open_pretrained(single)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1]))
    with pytest.raises(LayoutError, match=r"model.safetensors is a pickle"):
        pretrained.open_pretrained(single)
    file.rename(single / "pytorch_model.bin")
    with pytest.raises(LayoutError, match=r"as pickles \['pytorch_model.bin'\]"):
        pretrained.open_pretrained(single)
    (single / "pytorch_model.bin").unlink()
    with pytest.raises(LayoutError, match="neither model.safetensors nor"):
        pretrained.open_pretrained(single)


def change_index(path, change):
    index = json.loads((path / tensors.INDEX).read_text())
    change(index["weight_map"])
    (path / tensors.INDEX).write_text(json.dumps(index))


def test_shards_and_their_index_must_agree(saved):
    index = (saved / tensors.INDEX).read_text()
    places = json.loads(index)["weight_map"]
    first, second = "model-00001-of-00005.safetensors", "model-00002-of-00005.safetensors"
    (saved / first).rename(saved / "aside")
    with pytest.raises(LayoutError, match=rf"lacks the shards \['{first}'\].*'lm_head|lacks the"):
        pretrained.open_pretrained(saved)
    (saved / "aside").rename(saved / first)
    inside = next(name for name, file in places.items() if file == first)

    change_index(saved, lambda m: m.pop(inside))
    with pytest.raises(LayoutError, match=f"'{inside}' is in {first}, .* says nowhere"):
        pretrained.open_pretrained(saved)
    change_index(saved, lambda m: m.update({inside: second}))
    with pytest.raises(LayoutError, match=f"'{inside}' is in {first}, .* says {second}"):
        pretrained.open_pretrained(saved)
    change_index(saved, lambda m: m.update({inside: first, "other": first}))
    with pytest.raises(LayoutError, match=f"that are not there: 'other' in {first}"):
        pretrained.open_pretrained(saved)
    change_index(saved, lambda m: m.update({"other": "../elsewhere.safetensors"}))
    with pytest.raises(LayoutError, match="puts tensor 'other' outside the folder"):
        pretrained.open_pretrained(saved)
    (saved / tensors.INDEX).write_text("{}")
    with pytest.raises(LayoutError, match="is no index of shards"):
        pretrained.open_pretrained(saved)
    (saved / tensors.INDEX).write_text(index)
    shutil.copy(saved / first, saved / tensors.SINGLE)
    with pytest.raises(LayoutError, match="both model.safetensors and"):
        pretrained.open_pretrained(saved)


def test_a_tensor_in_two_shards_is_refused(saved):
    names = [f"model-0000{n}-of-00005.safetensors" for n in (1, 2)]
    one, two = (reference.load_file(saved / name) for name in names)
    twice = next(iter(one))
    reference.save_file({**two, twice: one[twice]}, saved / names[1])
    with pytest.raises(LayoutError, match=f"'{twice}' is in two shards"):
        pretrained.open_pretrained(saved)


def with_tensors(path, change):
    found = reference.load_file(path / tensors.SINGLE)
    change(found)
    reference.save_file(found, path / tensors.SINGLE)


def test_extra_tensors_are_refused_and_constants_are_not(single):
    with_tensors(single, lambda f: f.update({"rotary_emb.inv_freq": np.ones(2, np.float32)}))
    pretrained.open_pretrained(single)
    with_tensors(single, lambda f: f.update({QUERY + "_scale": np.ones(1, np.float32)}))
    with pytest.raises(
        LayoutError,
        match=r"has a tensor '.*q_proj.weight_scale' that a llama does not have \(is it '.*q_proj",
    ):
        pretrained.open_pretrained(single)


def test_copies_of_a_tied_tensor_may_be_there(tmp_path):
    config = CONFIGS["llama_tied"]
    variables = random_variables(config)
    pretrained.save_pretrained(tmp_path / "out", variables, config)
    found = reference.load_file(tmp_path / "out" / tensors.SINGLE)
    assert "lm_head.weight" not in found
    embedding = found["model.embed_tokens.weight"]
    with_tensors(tmp_path / "out", lambda f: f.update({"lm_head.weight": embedding}))
    assert_equal(pretrained.load_pretrained(tmp_path / "out")[1], variables)
    with_tensors(tmp_path / "out", lambda f: f.update({"lm_head.weight": embedding + 1}))
    _, loaded, read = pretrained.load_pretrained(tmp_path / "out")
    assert read["tie_word_embeddings"] is False
    np.testing.assert_array_equal(loaded["params"]["head"], (embedding + 1).T)


def test_older_names_and_unused_heads_are_read(tmp_path):
    config = CONFIGS["bert"]
    variables = random_variables(config)
    pretrained.save_pretrained(tmp_path / "out", variables, config)

    def older(found):
        for name in [name for name in found if "LayerNorm" in name]:
            other = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            found[other] = found.pop(name)
        found["cls.seq_relationship.weight"] = np.ones((2, 16), np.float32)
        found["bert.pooler.dense.bias"] = np.ones(16, np.float32)
        found["bert.embeddings.position_ids"] = np.arange(12)[None]

    with_tensors(tmp_path / "out", older)
    assert_equal(pretrained.load_pretrained(tmp_path / "out")[1], variables)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "lama"}, "model_type is 'lama'.*did you mean 'llama'"),
        ({"model_type": None}, "lacks 'model_type'"),
        ({"hidden_size": None}, "lacks 'hidden_size', which a llama needs"),
        ({"num_hidden_layers": 3}, "no tensor 'model.layers.2"),
        ({"num_hidden_layers": 1}, "has a tensor 'model.layers.1"),
        ({"vocab_size": 25}, r"embed_tokens.weight' has shape \(24, 16\).* has \(25, 16\)"),
        ({"tie_word_embeddings": None, "attention_bias": True}, "attention_bias"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(single, change, message):
    config = {**LLAMA, **change}
    (single / "config.json").write_text(json.dumps(config))
    with pytest.raises(LayoutError, match=message):
        pretrained.open_pretrained(single)


def test_a_setting_that_a_network_does_not_have_is_refused():
    for name, change, message in [
        ("bert", {"is_decoder": True}, "is_decoder is True, here it can be False"),
        ("bert", {"hidden_act": "mish"}, "hidden_act is 'mish', there are"),
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("mobilebert", {"normalization_type": "rms"}, "normalization_type is 'rms'"),
        ("resnet", {"layer_type": "wide"}, "layer_type is 'wide'"),
        ("t5", {"feed_forward_proj": "gated-silu-x"}, "feed_forward_proj is 'gated-silu-x'"),
        ("clip", {"text_config": None}, "text_config"),
    ]:
        with pytest.raises(LayoutError, match=message):
            families.architecture({**CONFIGS[name], **change})


def test_folders_without_a_configuration_are_refused(tmp_path):
    with pytest.raises(LayoutError, match="is no folder"):
        pretrained.open_pretrained(tmp_path / "nowhere")
    with pytest.raises(LayoutError, match="has no config.json"):
        pretrained.open_pretrained(tmp_path)
    for text, message in [("{", "is no JSON"), ("[]", "is no JSON object")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(LayoutError, match=message):
            pretrained.open_pretrained(tmp_path)


def test_variables_of_another_network_are_not_written(tmp_path):
    variables = random_variables(LLAMA)
    wrong = {**LLAMA, "hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4}
    with pytest.raises(LayoutError, match=r"'params/embedding' has shape \(24, 16\).*\(24, 32\)"):
        pretrained.save_pretrained(tmp_path / "out", variables, wrong)
    del variables["params"]["head"]
    with pytest.raises(LayoutError, match="lack 'params/head'"):
        pretrained.save_pretrained(tmp_path / "out", variables, LLAMA)
    variables["params"] |= {"head": np.zeros((16, 24), np.float32), "more": np.zeros(1)}
    with pytest.raises(LayoutError, match="called 'params/more'"):
        pretrained.save_pretrained(tmp_path / "out", variables, LLAMA)
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    variables = random_variables(LLAMA)
    written, real = [], tensors.write_file

    def until_full(file, shard):
        written.append(file)
        if len(written) == 3:
            raise OSError("disk full")
        real(file, shard)

    with monkeypatch.context() as patched:
        patched.setattr(tensors, "write_file", until_full)
        with pytest.raises(OSError, match="disk full"):
            pretrained.save_pretrained(tmp_path / "out", variables, LLAMA, shard_bytes=6_000)
    assert not list(tmp_path.iterdir())
    pretrained.save_pretrained(tmp_path / "out", variables, LLAMA)
    with pytest.raises(FileExistsError, match="not an empty folder"):
        pretrained.save_pretrained(tmp_path / "out", variables, LLAMA)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_tokenizer_goes_along_and_nothing_else(saved, tmp_path):
    (saved / "tokenizer.json").write_text("{}")
    (saved / "tokenizer_config.json").write_text('{"a": 1}')
    (saved / "training_args.bin").write_bytes(pickle.dumps([1]))
    pretrained.save_pretrained(
        tmp_path / "out", random_variables(LLAMA), LLAMA, tokenizer=saved, card="# A card\n"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
    }  # fmt: skip
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == '{"a": 1}'
    assert (tmp_path / "out" / "README.md").read_text() == "# A card\n"


def output_shapes_of(network, variables):
    return jax.eval_shape(lambda v: network.apply(v, TOKENS, train=False, rngs={})[0], variables)


def test_features_and_options_reach_the_network(saved):
    network, variables, _ = pretrained.load_pretrained(saved, features=("hidden",), remat=True)
    outputs, _ = network.apply(variables, TOKENS, train=False, rngs={})
    assert outputs.features["hidden"].shape == (1, 4, 16)
    for chosen, dtypes in [
        ({"dtype": jnp.bfloat16}, ("bfloat16", "bfloat16")),
        ({"dtype": jnp.bfloat16, "param_dtype": jnp.float32}, ("bfloat16", "float32")),
        ({"param_dtype": jnp.bfloat16}, ("float32", "bfloat16")),
    ]:
        network, variables, _ = pretrained.load_pretrained(saved, features=("hidden",), **chosen)
        shapes = output_shapes_of(network, variables)
        found = (shapes.features["hidden"].dtype, variables["params"]["embedding"].dtype)
        assert tuple(map(str, found)) == dtypes and shapes.logits.dtype == jnp.float32
    with pytest.raises(ValueError, match="no feature 'hiden'"):
        pretrained.open_pretrained(saved, features=("hiden",))


def test_a_table_that_misses_a_leaf_is_refused(monkeypatch, single):
    real = families.architecture(LLAMA)
    for rules, message in [
        (real.rules[1:], "no rule of llama gives 'params/embedding'"),
        ([*real.rules, real.rules[0]], "two rules of llama give 'params/embedding'"),
        ([*real.rules, Rule("x", "y")], "the rule of 'x' gives 'params/y', which is no leaf"),
    ]:
        changed = Architecture(**{**real._asdict(), "rules": rules})
        monkeypatch.setattr(families, "architecture", lambda config, changed=changed: changed)
        with pytest.raises(LayoutError, match=message):
            pretrained.open_pretrained(single)
