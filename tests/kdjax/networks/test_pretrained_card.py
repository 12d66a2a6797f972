"""Model cards and configurations of networks that were made here."""

import json

import jax
import numpy as np
import pytest

from kdjax.networks import decoder_transformer
from kdjax.networks.pretrained import (
    LayoutError,
    decoder_config,
    families,
    load_pretrained,
    model_card,
    save_pretrained,
)

CARD = {
    "licence": "apache-2.0",
    "method": "KL at T = 2",
    "teacher": "big: one",
    "teacher_fingerprint": "ab12",
    "numbers": {"perplexity": 12.34567, "a|b": "1 of 2"},
}


def test_a_card_says_what_it_must():
    text = model_card("small", **CARD, command="python -m x")
    head, body = text.split("---\n")[1:]
    fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert json.loads(fields["license"]) == "apache-2.0"
    assert json.loads(fields["base_model"]) == "big: one"
    for part in (
        "# small",
        "`ab12`",
        "KL at T = 2",
        "| perplexity | 12.35 |",
        r"| a\|b | 1 of 2 |",
    ):
        assert part in body
    assert "`python -m x`" in body and "Data" not in body
    for key in ("licence", "method", "teacher_fingerprint"):
        with pytest.raises(ValueError, match=f"{key} must not be empty"):
            model_card("small", **{**CARD, key: " "})


def logits(network, variables, tokens):
    return jax.jit(lambda v: network.apply(v, tokens, train=False, rngs={})[0].logits)(variables)


SIZES = {"vocabulary": 20, "width": 16, "depth": 2, "heads": 4, "key_heads": 2, "hidden": 24}


@pytest.mark.full
@pytest.mark.parametrize(
    "options, kind",
    [
        ({}, "llama"),
        ({"tied": True, "head_width": 6, "rotary_base": 500}, "llama"),
        ({"rotary_scaling": (8.0, 1.0, 4.0, 16.0)}, "llama"),
        ({"attention_bias": True, "epsilon": 1e-6}, "qwen2"),
        ({"query_key_norm": True, "scan": False}, "qwen3"),
    ],
)
def test_a_decoder_of_ours_is_written_and_comes_back(options, kind, tmp_path):
    config = decoder_config({**SIZES, **options}, positions=64)
    assert config["model_type"] == kind
    architecture = families.architecture(config)
    for name, value in {**SIZES, **options}.items():
        assert name == "scan" or architecture.options[name] == value, name
    network = decoder_transformer(**SIZES, **options)
    tokens = np.array([[3, 1, 4, 1, 5]])
    variables = jax.tree.map(np.asarray, jax.jit(network.init)(jax.random.key(0), tokens))
    save_pretrained(tmp_path / "out", variables, config)
    scan = options.get("scan", True)
    again, loaded, _ = load_pretrained(tmp_path / "out", scan=scan)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    expected, found = logits(network, variables, tokens), logits(again, loaded, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if not scan:
        other, stacked, _ = load_pretrained(tmp_path / "out")
        assert "layers" in stacked["params"]
        found = logits(other, stacked, tokens)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_decoder_that_no_family_has_is_refused_by_option():
    for options, message in [
        ({"softcap": 30.0}, r"a llama has no \{'softcap': 30.0\}"),
        (
            {"query_key_norm": True, "attention_bias": True},
            "a qwen3 has no {'attention_bias': True}",
        ),
        ({"embedding_scale": 2.0, "output_norms": True}, "'embedding_scale': 2.0, 'output_norms'"),
        ({"depht": 3}, r"has no options \['depht'\]"),
    ]:
        with pytest.raises(LayoutError, match=message):
            decoder_config({**SIZES, **options}, positions=64)
