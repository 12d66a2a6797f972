"""Studies of small language models over characters of the standard library's sources."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _characters as characters
from kdjax import methods, networks


def layer_by_layer(bench):
    """A masked-character model with narrow layers learns from a wide one, layer after layer."""
    options = bench.options
    rows = characters.windows(
        options.length, train=options.windows, validation=options.held, test=options.held
    )
    held = {
        split: characters.masked(rows[split], options.masked) for split in ("validation", "test")
    }
    shape = {
        "width": options.width, "depth": options.layers, "heads": options.heads,
        "positions": options.length, "kinds": 0,
    }  # fmt: skip
    kept = [f"{name}{i + 1}" for i in range(options.layers) for name in ("hidden", "scores")]
    teacher = networks.encoder_transformer(
        characters.VOCABULARY, hidden=4 * options.width, features=kept, **shape
    )
    student = networks.encoder_transformer(
        characters.VOCABULARY, hidden=options.hidden, bottleneck=options.bottleneck,
        features=kept, **shape,
    )  # fmt: skip
    inputs = jax.ShapeDtypeStruct((1, options.length), jnp.int32)
    stream = study.stream({"target": rows["train"]}, options.batch)
    data = {
        "labelled": dataclasses.replace(stream, augment=characters.masking(options.masked)),
    }

    def loss(network, state, split):
        given = study.predict(network, state.params["student"], held[split]["tokens"])
        return characters.loss(given.logits, held[split]["target"], held[split]["masked"])

    taught = bench.fit(
        "teacher", methods.masked_words(), {"student": teacher}, inputs, data,
        steps=options.teacher_steps, batch=options.batch, rate=options.teacher_rate, seeds=[0],
    )  # fmt: skip
    frozen = {"teacher": study.first(taught.params["student"])}
    share = {"layers": options.layers, "transfer_steps": int(options.transfer * options.steps)}
    recipes = {
        "alone": methods.masked_words(),
        "kd": methods.progressive_transfer(layers=options.layers, transfer_steps=0),
        "joint": methods.progressive_transfer(**share, progressive=False),
        "progressive": methods.progressive_transfer(**share),
    }
    found = {"teacher": {"loss": [float(loss(teacher, taught, "test")[0])] * len(bench.seeds)}}
    for name, method in recipes.items():
        state = bench.fit(
            name, method, {"student": student, "teacher": teacher}, inputs, data, frozen=frozen,
            score=lambda state, seeds: -loss(student, state, "validation"),
            steps=options.steps, batch=options.batch, rate=options.rate,
        )  # fmt: skip
        found[name] = {"loss": loss(student, state, "test")}
    return found


def grafted_modules(bench):
    """A small model on the states of a frozen one by cross-attention, and small models on their own."""
    options = bench.options
    rows = characters.windows(
        options.length, train=options.windows, validation=options.held, test=options.held
    )
    shape = {"heads": options.heads, "positions": options.length}
    source = networks.modular_decoder(
        characters.VOCABULARY, width=options.source, depth=options.source_depth,
        features=("hidden",), **shape,
    )  # fmt: skip
    tokens = jax.ShapeDtypeStruct((1, options.length), jnp.int32)
    states = jax.ShapeDtypeStruct((1, options.length, options.source), jnp.float32)
    many = characters.windows(options.length, train=options.source_windows)["train"]
    taught = bench.fit(
        "teacher", methods.llm_modules(), {"student": source}, {"student": {"tokens": tokens}},
        {"labelled": {"tokens": many}}, steps=options.teacher_steps, batch=options.source_batch,
        rate=options.teacher_rate, seeds=[0],
    )  # fmt: skip
    given = {
        split: study.predict(source, taught.params["student"], part, batch=100)
        for split, part in rows.items()
    }
    columns = {
        split: {"tokens": part, "source": np.asarray(given[split].features["hidden"][0])}
        for split, part in rows.items()
    }
    spoken = {"logits": np.asarray(given["train"].logits[0])}
    grafted = {"width": options.width, "depth": 1, "bottleneck": options.bottleneck}
    alone = {"width": options.alone, "depth": 2}
    recipes = {
        "alone": (alone, methods.llm_modules(), {}),
        "kd": (alone, methods.llm_modules(weight=0.5), spoken),
        "front": (grafted | {"graft": "front"}, methods.llm_modules(), {}),
        "gated": (grafted | {"graft": "gated"}, methods.llm_modules(), {}),
    }

    def bits(logits, split):
        return characters.loss(logits[:, :, :-1], rows[split][:, 1:]) / np.log(2)

    found = {"teacher": {"bits": np.repeat(bits(given["test"].logits, "test"), len(bench.seeds))}}
    for name, (sizes, method, more) in recipes.items():
        student = networks.modular_decoder(characters.VOCABULARY, **sizes, **shape)

        def loss(state, split, student=student):
            held = study.predict(student, state.params["student"], columns[split], batch=100)
            return bits(held.logits, split)

        inputs = {"student": {"tokens": tokens, "source": states}}
        state = bench.fit(
            name, method, {"student": student}, inputs,
            {"labelled": {**columns["train"], **more}},
            score=lambda state, seeds, loss=loss: -loss(state, "validation"),
            steps=options.steps, batch=options.batch, rate=options.rate,
        )  # fmt: skip
        size = networks.count_parameters(state.params["student"]) // len(bench.seeds)
        found[name] = {"bits": loss(state, "test"), "parameters": [size] * len(bench.seeds)}
    return found
