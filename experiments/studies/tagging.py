"""Characters that are labelled by the kind of Python token they are of."""

import functools

import jax
import numpy as np

from experiments.studies import _text
from kdjax import methods, networks
from kdjax.data import code, text
from kdjax.networks import taggers


def neighbouring_context(bench):
    """Kinds of characters told from the states of a frozen model of masked characters.

    The states are those of a model trained once on unlabelled text, stored with the examples.
    """
    options, parts = bench.options, _kinds_of_characters(bench.options)
    states = {"states": f"hidden{options.model_depth}"}
    model = _encoder(options, options.model_width, options.model_depth, features=states)
    texts, fresh = (parts[part]["inputs"] for part in ("train", "test"))
    learned, of_model = _text.masked_model(
        bench, model, texts, fresh, np.random.default_rng(0), mask=128, batch=32
    )
    parts["train"] = _first(parts["train"], options.labelled)
    for rows in parts.values():
        held = learned.outputs({"tokens": rows["inputs"]}, batch=100)
        rows["inputs"] = np.asarray(held.features["states"][0])
    taggings = {
        name: {
            "method": methods.tagging(),
            "nets": {"student": taggers.neighbour_tagger(7, window=window)},
        }
        for name, window in options.windows.items()
    }
    found = bench.compare(
        taggings, nets={}, inputs=_shape(parts["train"]["inputs"]),
        data={"sequence": parts["train"]}, measure=functools.partial(_accuracy, parts),
    )  # fmt: skip
    return {**of_model, **found}


def verified_labels(bench):
    """Kinds of characters, taught by few true labels, by a teacher's many, or by those that hold.

    The teacher learned from the few. A verifier, who knows, keeps the windows of its text in which
    enough of its labels are right; the rows train equally long.
    """
    options, parts = bench.options, _kinds_of_characters(bench.options)
    few = _first(parts["train"], options.gold + options.labelled)
    gold, pool = _first(few, options.gold), jax.tree.map(lambda x: x[options.gold :], few)

    def tagger(width, depth):
        states = {"states": f"hidden{depth}"}
        body = _encoder(options, width, depth, head=None, features=states)
        return {"student": taggers.state_tagger(body, 7, width=width, feature="states")}

    method, shape = methods.tagging(), _shape(gold["inputs"])
    teacher = bench.fit(
        "teacher", method, tagger(options.teacher_width, 2), shape, {"sequence": gold}, seeds=[0]
    )
    said = np.asarray(teacher.outputs(pool["inputs"], batch=100).logits[0].argmax(-1))
    right, kept = _verified(said, pool["labels"], pool["mask"], options.wanted)
    labelled = {**pool, "labels": said.astype(np.int32)}
    taught = {
        "gold_small": gold,
        "unfiltered": labelled,
        "filtered": jax.tree.map(lambda x: x[kept], labelled),
        "gold": pool,
    }
    found = bench.compare(
        {name: {"method": method, "data": {"sequence": rows}} for name, rows in taught.items()},
        tagger(options.width, 1), shape, {},
        measure=functools.partial(_accuracy, parts),
    )  # fmt: skip
    of_teacher = {"kept": len(kept) / len(said), "wrong": 1 - right.mean()}
    return {"teacher": {"accuracy": _accuracy(parts, teacher, "test"), **of_teacher}, **found}


def _verified(said, labels, mask, wanted):
    """(the share of right labels in each window `[N]`, the windows with at least `wanted` of them)."""
    right = ((said == labels) & mask).sum(1) / np.maximum(mask.sum(1), 1)
    return right, np.flatnonzero(right >= wanted)


def attention_alignment(bench):
    """Kinds of characters, of students that see a teacher's answers and perhaps where it looks.

    What the frozen teacher gives, logits and all its attention maps, is stored with the examples. Kinds
    are written as characters that no text has, 0 to 6, by the head of a model of characters.
    """
    options, parts = bench.options, _kinds_of_characters(bench.options)
    for rows in parts.values():
        everywhere = np.ones(rows["mask"].shape, bool)
        rows["inputs"] = {"tokens": rows["inputs"], "mask": everywhere}
    few, inputs = _first(parts["train"], options.labelled), parts["train"]["inputs"]
    deep, shallow = (
        tuple(f"attention{i + 1}" for i in range(depth))
        for depth in (options.teacher_depth, options.depth)
    )
    teacher = _encoder(options, options.teacher_width, options.teacher_depth, features=deep)
    student = _encoder(options, options.width, options.depth, features=shallow)
    given = {"teacher_heads": 4 * options.teacher_depth, "epoch": options.epoch}

    def columns(rows, **told):
        answers = {"labels": rows["labels"], "target_mask": rows["mask"]}
        return {"sequence": {**rows["inputs"], **answers, **told}}

    # The teacher has no teacher: the column is there for its shape.
    nothing = np.zeros((*inputs["tokens"].shape, 129), np.float32)
    learned = bench.fit(
        "teacher", methods.a2d(layers=(), aligner="", weight=0.0, **given), {"student": teacher},
        jax.tree.map(_shape, inputs), columns(parts["train"], logits=nothing), seeds=[0],
    )  # fmt: skip
    told = learned.outputs(few["inputs"], batch=100)
    attention = np.concatenate([told.features[name][0] for name in deep], axis=1)
    found = bench.compare(
        {name: methods.a2d(layers=shallow, **given, **own) for name, own in options.methods.items()},
        {"student": student}, jax.tree.map(_shape, inputs),
        columns(few, logits=np.asarray(told.logits[0]), attention=attention),
        measure=functools.partial(_accuracy, parts),
    )  # fmt: skip
    return {"teacher": _accuracy(parts, learned, "test"), **found}


def _encoder(options, width, depth, **more):
    """A transformer over characters, of which 128 is no text's."""
    return networks.encoder_transformer(
        129, width=width, depth=depth, heads=4, hidden=2 * width, positions=options.length,
        kinds=0, **more,
    )  # fmt: skip


def _kinds_of_characters(options):
    """Windows of the standard library's sources, `{split: {"inputs", "labels", "mask"}}` `[N, length]`."""
    documents, length, found = text.standard_library(), options.length, {}
    names = text.split_documents(documents, validation=0.1, test=0.2)
    sizes = {
        "train": options.windows_read,
        "validation": options.evaluated,
        "test": options.evaluated,
    }

    def windows(source):
        codes, size = np.minimum([*map(ord, source)], 127), len(source) // length * length
        both = np.stack([codes, code.character_kinds(source)]).astype(np.int32)
        return both[:, :size].reshape(2, -1, length)

    for part, size in sizes.items():
        whole = np.concatenate([windows(documents[name]) for name in getattr(names, part)], axis=1)
        order = np.random.default_rng(0).permutation(whole.shape[1])[:size]
        inputs, labels = whole[:, order]
        # Blanks are no question.
        found[part] = {"inputs": inputs, "labels": labels, "mask": labels > 0}
    return found


def _first(rows, count):
    return jax.tree.map(lambda column: column[:count], rows)


def _accuracy(parts, trained, part):
    """The share of right labels among those of a part that count, by seed."""
    rows = parts[part]
    logits = trained.outputs(rows["inputs"], batch=100).logits
    hits = (np.asarray(logits).argmax(-1) == rows["labels"]) & rows["mask"]
    return hits.sum((1, 2)) / rows["mask"].sum()


def _shape(x):
    return jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
