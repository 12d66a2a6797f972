"""Studies of small language models over characters of the standard library's sources."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _characters as characters
from kdjax import methods, networks


def layer_by_layer(bench):
    """A masked-character model with narrow layers learns from a wide one, layer after layer."""
    options = bench.options
    windows = characters.windows(options.length, options.windows, options.held)
    shape = {
        "width": options.width, "depth": options.layers, "heads": options.heads,
        "positions": options.length, "kinds": 0,
        "features": [f"{name}{i + 1}" for i in range(options.layers) for name in ("hidden", "scores")],
    }  # fmt: skip
    teacher, student = (
        networks.encoder_transformer(characters.VOCABULARY, **shape, **own)
        for own in (
            {"hidden": 4 * options.width},
            {"hidden": options.hidden, "bottleneck": options.bottleneck},
        )
    )
    inputs = jax.ShapeDtypeStruct((1, options.length), jnp.int32)
    masked = {"labelled": study.stream(
        {"target": windows["train"]}, options.batch, augment=characters.masking(options.masked)
    )}  # fmt: skip

    def loss(trained, part):
        held = characters.masked(windows[part], options.masked)
        logits = trained.logits(held["tokens"])
        return {"loss": characters.loss(logits, held["target"], held["masked"])}

    taught = bench.fit(
        "teacher", methods.masked_words(), {"student": teacher}, inputs, masked, seeds=[0]
    )
    share = {"layers": options.layers, "transfer_steps": int(options.transfer * options.steps)}
    rows = {
        "alone": methods.masked_words(),
        "kd": methods.progressive_transfer(layers=options.layers, transfer_steps=0),
        "joint": methods.progressive_transfer(**share, progressive=False),
        "progressive": methods.progressive_transfer(**share),
    }
    found = bench.compare(
        rows, {"student": student, "teacher": teacher}, inputs, masked,
        frozen={"teacher": taught.frozen}, measure=loss,
        score=lambda trained: -loss(trained, "validation")["loss"],
    )  # fmt: skip
    return {"teacher": loss(taught, "test"), **found}


def grafted_modules(bench):
    """A small model on the states of a frozen one by cross-attention, and small models on their own."""
    options = bench.options
    windows = characters.windows(options.length, options.windows, options.held)
    shape = {"heads": options.heads, "positions": options.length}
    source = networks.modular_decoder(
        characters.VOCABULARY, width=options.source, depth=options.source_depth,
        features=("hidden",), **shape,
    )  # fmt: skip
    inputs = {
        "tokens": jax.ShapeDtypeStruct((1, options.length), jnp.int32),
        "source": jax.ShapeDtypeStruct((1, options.length, options.source), jnp.float32),
    }
    many = characters.windows(options.length, options.source_windows)["train"]
    taught = bench.fit(
        "teacher", methods.llm_modules(), {"student": source}, inputs,
        {"labelled": {"tokens": many}}, batch=options.source_batch, seeds=[0],
    )  # fmt: skip
    told = {part: taught.outputs(tokens, batch=100) for part, tokens in windows.items()}
    columns = {
        part: {"tokens": tokens, "source": np.asarray(told[part].features["hidden"][0])}
        for part, tokens in windows.items()
    }

    def row(method, sizes, **more):
        student = networks.modular_decoder(characters.VOCABULARY, **sizes, **shape)
        data = {"labelled": {**columns["train"], **more}}
        return {"method": method, "nets": {"student": student}, "data": data}

    def bits(trained, part):
        logits = trained.outputs(columns[part], batch=100).logits
        return characters.loss(logits[:, :, :-1], windows[part][:, 1:]) / np.log(2)

    def measured(trained, part):
        size = networks.count_parameters(trained.params) // len(trained.seeds)
        return {"bits": bits(trained, part), "parameters": size}

    words, alone = methods.llm_modules(), {"width": options.alone, "depth": 2}
    kd, logits = methods.llm_modules(weight=0.5), np.asarray(told["train"].logits[0])
    grafted = {"width": options.width, "depth": 1, "bottleneck": options.bottleneck}
    rows = {
        "alone": row(words, alone),
        "kd": row(kd, alone, logits=logits),
        "front": row(words, {**grafted, "graft": "front"}),
        "gated": row(words, {**grafted, "graft": "gated"}),
    }
    found = bench.compare(
        rows, nets={}, inputs=inputs, data={}, measure=measured,
        score=lambda trained: -bits(trained, "validation"),
    )  # fmt: skip
    return {"teacher": {"bits": bits(taught, "test")}, **found}
