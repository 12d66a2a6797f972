"""Translation of the standard library's own names: parse_http_date becomes "date http parse"."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import methods, networks
from kdjax.data import text

LETTERS = "|<_abcdefghijklmnopqrstuvwxyz"  # the end, the start, what parts words


def attention_alignment(bench):
    """Letters right on held-out names, of students that see the teacher's answers and perhaps its maps.

    What the frozen teacher gives is stored with the examples.
    """
    options, rng = bench.options, np.random.default_rng(0)
    found = sorted({n for source in text.standard_library().values() for n in _names(source)})
    names = [name for name in found if len(name) <= options.length]
    rng.shuffle(names)
    columns = _columns(names, options.length)
    cuts = np.cumsum([options.examples, options.evaluated, options.evaluated])
    train, validation, test = (
        {key: x[a:b] for key, x in columns.items()} for a, b in zip([0, *cuts], cuts, strict=False)
    )
    maps = [f"encoder_attention{i + 1}" for i in range(options.depth)]
    inputs = {
        key: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        for key, x in train.items()
        if key != "labels"
    }

    def network(width, depth, features):
        heads = options.heads
        return networks.encoder_decoder_transformer(
            len(LETTERS), width=width, depth=depth, heads=heads, head_width=width // heads,
            hidden=2 * width, features=features,
        )  # fmt: skip

    def outputs(network, params, rows):
        variables = {"params": params, "frozen": {}, "model": {}}
        given = {key: x for key, x in rows.items() if key != "labels"}
        return network.apply(variables, given, train=False, rngs={})[0]

    def right(network, rows):
        def one(params):
            best = jnp.argmax(outputs(network, params, rows).logits, axis=-1)
            hits = (best == rows["labels"]) & rows["target_mask"]
            return jnp.sum(hits) / rows["target_mask"].sum()

        run = jax.jit(lambda params: jax.lax.map(one, params))
        return lambda state, seeds: np.asarray(run(state.params["student"]))

    theirs = [f"encoder_attention{i + 1}" for i in range(options.teacher_depth)]
    teacher = network(options.teacher_width, options.teacher_depth, tuple(theirs))
    heads = options.teacher_depth * options.heads
    # Its own training needs no teacher: the columns are there to have the shapes.
    none = {
        "logits": np.zeros((*train["labels"].shape, len(LETTERS)), np.float32),
        "attention": np.zeros((len(train["labels"]), 1, 1, 1), np.float32),
    }
    labels = {"layers": (), "teacher_heads": heads, "aligner": ""}
    learned = bench.fit(
        "teacher", methods.a2d(**labels, weight=0.0), {"student": teacher}, inputs,
        {"sequence": {**train, **none}}, steps=options.teacher_steps, batch=options.batch,
        rate=options.rate, seeds=[0],
    )  # fmt: skip
    accuracy = right(teacher, test)(learned, [0])
    params = jax.tree.map(lambda x: x[0], learned.params["student"])
    told = jax.jit(lambda rows: outputs(teacher, params, rows))(train)
    attention = jnp.concatenate([told.features[name] for name in theirs], axis=1)
    train |= {"logits": np.asarray(told.logits), "attention": np.asarray(attention)}
    student = network(options.width, options.depth, tuple(maps))
    measured = {"teacher": {"accuracy": np.repeat(accuracy, len(bench.seeds))}}
    for name, own in options.methods.items():
        method = methods.a2d(layers=maps, teacher_heads=heads, epoch=options.epoch, **own)
        state = bench.fit(
            name, method, {"student": student}, inputs, {"sequence": train}, steps=options.steps,
            batch=options.batch, rate=options.rate, score=right(student, validation),
        )  # fmt: skip
        measured[name] = {"accuracy": right(student, test)(state, bench.seeds)}
    return measured


def _names(source):
    return re.findall(r"\b[a-z]+(?:_[a-z]+){1,2}\b", source)


def _columns(names, length):
    """Padded letters of the names and of their words from the last to the first."""
    number = {letter: i for i, letter in enumerate(LETTERS)}

    def padded(words, size):
        rows = np.zeros((len(words), size), np.int32)
        for row, word in zip(rows, words, strict=True):
            row[: len(word)] = [number[letter] for letter in word]
        return rows

    turned = ["_".join(reversed(name.split("_"))) for name in names]
    tokens = padded(names, length)
    kept = np.arange(length + 1) <= np.array([len(name) for name in names])[:, None]
    return {
        "tokens": tokens,
        "mask": tokens > 0,
        "targets": padded(["<" + name for name in turned], length + 1),
        "target_mask": kept,
        "labels": padded(turned, length + 1),
    }
