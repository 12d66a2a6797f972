"""Architectures beside `transformers`: their folder read by us, ours read by them."""

import jax
import numpy as np
import pytest

from kdjax.networks import encoder_decoder, low_rank
from kdjax.networks.pretrained import load_pretrained, save_adapter, save_pretrained

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: requirements-parity.txt names it"
)
transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH, IMAGE = 40, 9, 16
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 24, "num_labels": 3,
}  # fmt: skip
PATCHES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": IMAGE, "patch_size": 8, "num_labels": 3,
}  # fmt: skip
MOBILE = {**SIZES, "embedding_size": 8, "intra_bottleneck_size": 8, "num_feedforward_networks": 2}
DISTIL = {
    "vocab_size": VOCABULARY, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2,
    "max_position_embeddings": 24, "num_labels": 3,
}  # fmt: skip
RESNET = {"embedding_size": 8, "num_labels": 3}
T5 = {
    "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2,
    "num_decoder_layers": 1, "num_heads": 2, "decoder_start_token_id": 0,
}  # fmt: skip
CLIP = {
    "projection_dim": 12,
    "text_config": {**SIZES, "bos_token_id": 1, "eos_token_id": 39},
    "vision_config": PATCHES,
}
# A name, their class, its configuration.
CASES = {
    "bert_masked": ("BertForMaskedLM", SIZES),
    "bert_both_heads": ("BertForPreTraining", {**SIZES, "hidden_act": "relu"}),
    "bert_classes": ("BertForSequenceClassification", SIZES),
    "bert": ("BertModel", SIZES),
    "roberta_masked": ("RobertaForMaskedLM", SIZES),
    "roberta_classes": ("RobertaForSequenceClassification", SIZES),
    "roberta": ("RobertaModel", SIZES),
    "mobilebert_masked": ("MobileBertForMaskedLM", MOBILE),
    "mobilebert_classes": (
        "MobileBertForSequenceClassification",
        {**MOBILE, "normalization_type": "layer_norm", "use_bottleneck_attention": True},
    ),
    "mobilebert_wide": (
        "MobileBertForMaskedLM",
        {**MOBILE, "use_bottleneck": False, "normalization_type": "layer_norm",
         "trigram_input": False, "num_feedforward_networks": 1},
    ),
    "mobilebert": ("MobileBertModel", {**MOBILE, "classifier_activation": False}),
    "distilbert_masked": ("DistilBertForMaskedLM", DISTIL),
    "distilbert_classes": ("DistilBertForSequenceClassification", DISTIL),
    "vit": ("ViTForImageClassification", PATCHES),
    "vit_pooler": ("ViTModel", {**PATCHES, "qkv_bias": False, "hidden_act": "gelu_new"}),
    "deit": ("DeiTForImageClassification", PATCHES),
    "deit_two_heads": ("DeiTForImageClassificationWithTeacher", PATCHES),
    "clip": ("CLIPModel", CLIP),
    "clip_old_end": (
        "CLIPModel", {**CLIP, "text_config": {**CLIP["text_config"], "eos_token_id": 2}}
    ),
    "resnet_bottleneck": (
        "ResNetForImageClassification", {**RESNET, "hidden_sizes": [16, 32], "depths": [2, 1]}
    ),
    "resnet_early": (
        "ResNetForImageClassification",
        {**RESNET, "hidden_sizes": [16, 32], "depths": [1, 1], "downsample_in_bottleneck": True,
         "downsample_in_first_stage": True},
    ),
    "resnet_basic": (
        "ResNetForImageClassification",
        {**RESNET, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
}  # fmt: skip

DRAWN = np.random.default_rng(0)
TOKENS = DRAWN.integers(3, VOCABULARY - 1, (2, LENGTH))
TARGETS = DRAWN.integers(3, VOCABULARY - 1, (2, 5))
IMAGES = DRAWN.normal(size=(2, IMAGE, IMAGE, 3)).astype(np.float32)
MASK = np.ones((2, LENGTH), bool)
MASK[1, 6:] = False
KINDS = (np.arange(LENGTH)[None] > 4) * np.ones((2, 1), int)


def inputs(kind):
    """(ours, theirs) of a model type."""
    tokens = np.where(MASK, TOKENS, 1) if kind == "roberta" else TOKENS.copy()
    text = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(MASK).long()}
    pixels = {"pixel_values": torch.tensor(IMAGES).permute(0, 3, 1, 2)}
    if kind in ("vit", "deit", "resnet"):
        return IMAGES, pixels
    if kind == "clip":
        tokens[:, 5] = VOCABULARY - 1
        text["input_ids"] = torch.tensor(tokens)
        return {"images": IMAGES, "tokens": tokens, "mask": MASK}, {**pixels, **text}
    ours = {"tokens": tokens, "mask": MASK}
    if kind == "t5":
        return {**ours, "targets": TARGETS}, {**text, "decoder_input_ids": torch.tensor(TARGETS)}
    if kind in ("bert", "mobilebert"):
        return {**ours, "kinds": KINDS}, {**text, "token_type_ids": torch.tensor(KINDS)}
    return ours, text


def logits_of(outputs):
    for name in ("prediction_logits", "logits_per_image", "logits", "pooler_output"):
        if getattr(outputs, name, None) is not None:
            return getattr(outputs, name).numpy()
    raise AssertionError(outputs)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(the folder it wrote, our inputs, theirs, their outputs)"""
    name, options = CASES[request.param]
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    config = kind.config_class(**options)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    with torch.no_grad():
        # Far from uniform attention, and no bias or scale that could be left out unseen.
        for _, x in model.named_parameters():
            x.add_(0.2 * torch.randn_like(x))
        for buffer, x in model.named_buffers():
            if "running" in buffer:
                x.add_(0.3 * torch.rand_like(x))
        if request.param == "t5_gated":  # as its public weights: the head is not the embedding
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 16))
            model.config.tie_word_embeddings = False
        ours, theirs = inputs(config.model_type)
        found = model(**theirs, output_hidden_states=True)
    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    model.save_pretrained(folder)
    return folder, ours, theirs, found


def kept(x):
    """Without the tokens that are padding, where it has tokens of the source."""
    if x.ndim == 3 and x.shape[:2] == MASK.shape:
        return x * MASK[..., None]
    return x


def test_our_network_gives_their_logits(case):
    folder, ours, _, found = case
    expected = logits_of(found)
    assert expected.std() > 0.05
    network, variables, _ = load_pretrained(folder)
    outputs, _ = jax.jit(
        lambda v, x: network.apply(v, x, train=False, rngs={})
    )(variables, ours)  # fmt: skip
    if outputs.logits is None:
        network, variables, _ = load_pretrained(folder, features=("embedding",))
        outputs, _ = network.apply(variables, ours, train=False, rngs={})
        outputs = outputs._replace(logits=outputs.features["embedding"])
    np.testing.assert_allclose(kept(outputs.logits), kept(expected), rtol=0, atol=1e-4)


def test_they_read_what_we_write(case, tmp_path):
    folder, _, theirs, found = case
    _, variables, config = load_pretrained(folder)
    save_pretrained(tmp_path / "ours", variables, config)
    written = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    kind = getattr(transformers, written.architectures[0])
    again, said = kind.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(said.values()), said
    with torch.no_grad():
        outputs = again.eval()(**theirs)
    np.testing.assert_allclose(logits_of(outputs), logits_of(found), rtol=0, atol=1e-5)


STREAMS = {
    "bert": ("hidden{}", 0), "roberta": ("hidden{}", 0), "mobilebert": ("hidden{}", 0),
    "distilbert": ("hidden{}", 0), "resnet": ("stage{}", 1),
    "vit": ("block{}", 1), "deit": ("block{}", 1),
}  # fmt: skip


def test_hidden_states_are_theirs(case):
    folder, ours, _, found = case
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    if kind == "clip":
        towers = {"text": found.text_model_output, "image": found.vision_model_output}
        expected = {
            f"{name}_block{i}": x
            for name, tower in towers.items()
            for i, x in enumerate(tower.hidden_states)
            if i > 0
        }
    elif kind == "t5":
        pairs = {"encoder_hidden": found.encoder_hidden_states, "decoder_hidden": found.decoder_hidden_states}  # fmt: skip
        # Their last one is normalised.
        expected = {f"{name}{i}": x for name, xs in pairs.items() for i, x in enumerate(xs[:-1])}
        expected["memory"] = found.encoder_last_hidden_state
    else:
        name, first = STREAMS[kind]
        expected = {name.format(i): x for i, x in enumerate(found.hidden_states) if i >= first}
    network, variables, _ = load_pretrained(folder, features=tuple(expected))
    outputs, _ = network.apply(variables, ours, train=False, rngs={})
    for name, x in expected.items():
        x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
        np.testing.assert_allclose(
            kept(outputs.features[name]), kept(x.numpy()), rtol=0, atol=1e-4, err_msg=name
        )


def test_attention_and_its_parts_are_theirs(tmp_path):
    """Of BERT: maps, and the scores that they are the softmax of; -inf at what is masked."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    config._attn_implementation = "eager"
    model = transformers.BertModel(config).eval()
    ours, theirs = inputs("bert")
    seen = {}
    layer = model.encoder.layer[1].attention.self
    for name in ("query", "key", "value"):
        getattr(layer, name).register_forward_hook(
            lambda m, i, o, name=name: seen.update({name: o})
        )
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.2 * torch.randn_like(x))
        found = model(**theirs, output_attentions=True)
    model.save_pretrained(tmp_path / "theirs")
    names = ("queries2", "keys2", "values2", "scores2", "attention2")
    network, variables, _ = load_pretrained(tmp_path / "theirs", features=names)
    features = network.apply(variables, ours, train=False, rngs={})[0].features
    np.testing.assert_allclose(features["attention2"], found.attentions[1].numpy(), atol=1e-5)
    for ours_name, name in (("queries2", "query"), ("keys2", "key"), ("values2", "value")):
        x = seen[name].reshape(2, LENGTH, 2, 8).transpose(1, 2).numpy()
        np.testing.assert_allclose(features[ours_name], x, atol=1e-5)
    assert np.all(np.isneginf(features["scores2"][1, :, :, 6:]))
    np.testing.assert_allclose(
        jax.nn.softmax(features["scores2"]), features["attention2"], atol=1e-6
    )


def test_two_heads_of_the_distilled_transformer(tmp_path):
    torch.manual_seed(0)
    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**PATCHES))
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.2 * torch.randn_like(x))
        found = model.eval()(pixel_values=torch.tensor(IMAGES).permute(0, 3, 1, 2))
    model.save_pretrained(tmp_path / "theirs")
    names = ("class_logits", "distillation_logits")
    network, variables, _ = load_pretrained(tmp_path / "theirs", features=names)
    features = network.apply(variables, IMAGES, train=False, rngs={})[0].features
    np.testing.assert_allclose(features["class_logits"], found.cls_logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        features["distillation_logits"], found.distillation_logits.numpy(), atol=1e-5
    )


@pytest.mark.parametrize("both_sides", [True, False])
def test_distances_fall_into_their_buckets(both_sides):
    from transformers.models.t5.modeling_t5 import T5Attention

    expected = T5Attention._relative_position_bucket(
        torch.arange(300)[None, :] - torch.arange(300)[:, None], both_sides, 32, 128
    )
    found = encoder_decoder.distance_buckets(
        300, 300, buckets=32, max_distance=128, both_sides=both_sides
    )
    np.testing.assert_array_equal(found, expected.numpy())


def test_an_adapters_tensors_are_the_factors_of_their_modules(tmp_path):
    """PEFT is not needed for it: W + (alpha / r) B A in the module that each tensor names."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "base")
    network, variables, config = load_pretrained(tmp_path / "base")
    patterns = {"layers/(query|key|value|gate|up|down)/kernel": 1, "layers/out/kernel": 2}
    adapted = low_rank(network, patterns, rank=2, alpha=6.0)
    shapes = jax.eval_shape(adapted.init, jax.random.key(0), TOKENS)["params"]
    factors = jax.tree.map(lambda x: DRAWN.normal(size=x.shape).astype(np.float32) * 0.3, shapes)
    ours = {"params": factors, "frozen": variables["params"], "model": {}}
    expected = adapted.apply(ours, TOKENS, train=False, rngs={})[0].logits
    save_adapter(tmp_path / "adapter", factors, config, alpha=6.0)
    from safetensors.torch import load_file

    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    modules = dict(model.named_modules())
    with torch.no_grad():
        before = model(input_ids=torch.tensor(TOKENS)).logits
        for name in [name for name in found if ".lora_A." in name]:
            module = modules[name.removeprefix("base_model.model.").partition(".lora_A")[0]]
            module.weight += 6.0 / 2 * found[name.replace("lora_A", "lora_B")] @ found[name]
        logits = model(input_ids=torch.tensor(TOKENS)).logits
    assert len(found) == 2 * 2 * 7 and (logits - before).abs().max() > 0.1
    np.testing.assert_allclose(expected, logits.numpy(), rtol=0, atol=1e-4)
