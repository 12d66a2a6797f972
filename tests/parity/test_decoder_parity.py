"""Decoders beside `transformers`: logits, both ways through the files, and greedy text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.generate import generate, left_padded, sampling_log_probs
from kdjax.networks.pretrained import LayoutError, load_pretrained, save_pretrained
from kdjax.networks.pretrained.decoder import FAMILIES

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: requirements-parity.txt names it"
)
transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH = 53, 12
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": None,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
WINDOW = {"sliding_window": 4, "use_sliding_window": True}
# A name, the family and what its public models have, small.
CASES = {
    "llama3": ("llama", {"rope_parameters": SCALED, "head_dim": 4}),
    "llama3_tied": ("llama", {"tie_word_embeddings": True, "rope_parameters": SCALED}),
    "mistral": ("mistral", {"sliding_window": 4, "head_dim": 6}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": ("qwen2", {**WINDOW, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 6}),
    "gemma2": (
        "gemma2",
        {
            "head_dim": 6, "query_pre_attn_scalar": 9, "sliding_window": 4,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        },
    ),
}  # fmt: skip
PROMPTS = [[5, 9, 2, 40, 7, 7, 30, 12], [3, 8, 44], [21, 6, 2, 50, 11]]


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    """(their model, the folder it wrote)"""
    family, options = CASES[request.param]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **options)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            # Far from uniform attention, and no bias or scale that could be left out unseen.
            x.copy_(torch.randn_like(x) * (0.3 if "norm" in name or "embed" in name else 0.6))
            x += 1.0 if "norm" in name else 0.0
            x -= 1.0 if "norm" in name and family == "gemma2" else 0.0
    folder = tmp_path_factory.mktemp(request.param) / "theirs"
    model.save_pretrained(folder)
    return model, folder


def their_logits(model, tokens, mask):
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    with torch.no_grad():
        given = {"attention_mask": mask, "position_ids": positions}
        given = {name: torch.tensor(x.astype(np.int64)) for name, x in given.items()}
        return model(torch.tensor(tokens.astype(np.int64)), **given).logits.numpy()


@pytest.mark.parametrize("scan", [True, False])
def test_logits_are_theirs(saved, scan):
    model, folder = saved
    network, variables, _ = load_pretrained(folder, scan=scan)
    tokens, mask = left_padded(PROMPTS)
    segments, positions = mask.astype(np.int32), np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    inputs = {"tokens": tokens, "segments": segments, "positions": positions.astype(np.int32)}
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(functools.partial(network.apply, train=False, rngs={}))
        logits = apply(variables, inputs)[0].logits
    theirs = their_logits(model, tokens, mask)
    assert np.std(theirs) > 0.1
    np.testing.assert_allclose(np.where(mask[..., None], logits - theirs, 0), 0, atol=1e-4)


def test_what_is_written_loads_there_with_the_same_logits(saved, tmp_path):
    model, folder = saved
    _, variables, config = load_pretrained(folder)
    save_pretrained(tmp_path / "ours", variables, config)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    ).eval()
    tokens, mask = left_padded(PROMPTS)
    wanted = np.where(mask[..., None], their_logits(model, tokens, mask), 0)
    given = np.where(mask[..., None], their_logits(again, tokens, mask), 0)
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_greedy_text_is_theirs_token_for_token(saved):
    model, folder = saved
    network, variables, _ = load_pretrained(folder)
    tokens, mask = left_padded(PROMPTS)
    with torch.no_grad():
        theirs = model.generate(
            torch.tensor(tokens.astype(np.int64)),
            attention_mask=torch.tensor(mask.astype(np.int64)),
            do_sample=False,
            max_new_tokens=LENGTH,
        ).numpy()[:, tokens.shape[1] :]
    ours = generate(
        network, variables, tokens, mask=mask, length=LENGTH, key=jax.random.key(0), temperature=0.0
    )
    np.testing.assert_array_equal(ours.tokens, theirs)
    assert len(np.unique(theirs)) > 3


@pytest.mark.parametrize("options", [{"top_k": 7}, {"top_p": 0.8}, {"top_k": 20, "top_p": 0.6}])
def test_the_distributions_drawn_from_are_theirs(options):
    logits = np.random.default_rng(0).normal(size=(8, VOCABULARY)).astype(np.float32) * 3
    warpers = [transformers.TemperatureLogitsWarper(0.7)]
    if "top_k" in options:
        warpers.append(transformers.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        warpers.append(transformers.TopPLogitsWarper(options["top_p"]))
    theirs = transformers.LogitsProcessorList(warpers)(None, torch.tensor(logits))
    theirs = torch.log_softmax(theirs, dim=-1).numpy()
    ours = sampling_log_probs(jnp.asarray(logits), temperature=0.7, **options)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_settings_that_the_decoder_lacks_are_refused_by_name():
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, **SIZES}
    for key, value, message in (
        ("attention_bias", True, "attention_bias = True"),
        ("hidden_act", "relu", "hidden_act = 'relu'"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "yarn"),
        ("hidden_size", None, "lacks 'hidden_size'"),
    ):
        with pytest.raises(LayoutError, match=message):
            FAMILIES["llama"]({**config, key: value})
