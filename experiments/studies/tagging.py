"""Characters that are labelled by the kind of Python token they are of."""

import io
import keyword
import tokenize

import jax
import numpy as np

from experiments import study
from experiments.studies import _text
from kdjax import methods, networks
from kdjax.data import plans, streams, text
from kdjax.networks import taggers

# Kinds of characters: blank, name, keyword, operator, number, string, comment.
KINDS = {
    tokenize.NAME: 1,
    tokenize.OP: 3,
    tokenize.NUMBER: 4,
    tokenize.STRING: 5,
    tokenize.COMMENT: 6,
}
SHAPES = ("train", "validation", "test")


def neighbouring_context(bench):
    """Kinds of characters told from the states of a frozen model of masked characters.

    The states are those of a model trained once on unlabelled text, stored with the examples.
    """
    options = bench.options
    parts = _kinds_of_characters(options)
    model, params, measured = _masked_model(bench, parts)

    def states(tokens):
        variables = {"params": params, "frozen": {}, "model": {}}
        given = {"tokens": tokens}
        return model.apply(variables, given, train=False, rngs={})[0].features["states"]

    run = jax.jit(lambda tokens: jax.lax.map(lambda x: states(x[None])[0], tokens, batch_size=100))
    sizes = {"train": options.labelled, "validation": options.evaluated, "test": options.evaluated}
    rows = {
        part: {
            "inputs": np.asarray(run(parts[part]["tokens"][:size])),
            **{key: parts[part][key][:size] for key in ("labels", "mask")},
        }
        for part, size in sizes.items()
    }
    for name, window in options.windows.items():
        network = taggers.neighbour_tagger(7, window=window)
        state = bench.fit(
            name, methods.tagging(), {"student": network}, _shape(rows["train"]["inputs"]),
            {"sequence": rows["train"]}, steps=options.steps, batch=options.batch,
            rate=options.rate, score=_scored(network, rows["validation"]),
        )  # fmt: skip
        measured[name] = {"accuracy": _scored(network, rows["test"])(state, bench.seeds)}
    return measured


def _masked_model(bench, parts):
    """(a model of masked characters, its parameters, its row)."""
    options = bench.options
    last = f"hidden{options.model_depth}"
    model = networks.encoder_transformer(
        129, width=options.model_width, depth=options.model_depth, heads=4,
        hidden=2 * options.model_width, positions=options.length, kinds=0, features={"states": last},
    )  # fmt: skip
    params, measured = _text.masked_model(
        bench, model, parts["train"]["tokens"], parts["test"]["tokens"], np.random.default_rng(0),
        mask=128, batch=32, rate=options.model_rate,
    )  # fmt: skip
    return model, params, measured


def verified_labels(bench):
    """Kinds of characters, taught by few true labels, by a teacher's many, or by those that hold.

    The teacher learned from the few. A verifier, who knows, keeps the windows of its text in which
    enough of its labels are right; the rows train equally long.
    """
    options, length = bench.options, bench.options.length
    parts = _kinds_of_characters(options)
    few = options.gold + options.labelled
    gold, pool = (
        {key: parts["train"][key][a:b] for key in ("tokens", "labels", "mask")}
        for a, b in ((0, options.gold), (options.gold, few))
    )

    def tagger(width, depth):
        body = networks.encoder_transformer(
            129, width=width, depth=depth, heads=4, hidden=2 * width, positions=length, kinds=0,
            head=None, features={"states": f"hidden{depth}"},
        )  # fmt: skip
        return taggers.state_tagger(body, 7, width=width, feature="states")

    def fit(name, network, rows, steps, kept=None, **given):
        columns = {
            "inputs": rows["tokens"],
            "labels": rows["labels"],
            "mask": rows["mask"],
        }
        plan = plans.IndexPlan(
            np.arange(len(rows["tokens"])) if kept is None else kept, options.batch
        )
        return bench.fit(
            name, methods.tagging(), {"student": network}, _shape(rows["tokens"]),
            {"sequence": streams.Stream(plan, columns)}, steps=steps, batch=options.batch,
            rate=options.rate, **given,
        )  # fmt: skip

    held = {part: {**parts[part], "inputs": parts[part]["tokens"]} for part in SHAPES[1:]}
    large, small = tagger(options.teacher_width, 2), tagger(options.width, 1)
    teacher = fit("teacher", large, gold, options.teacher_steps, seeds=[0])
    told = study.predict(large, teacher.params["student"], pool["tokens"], batch=100).logits[0]
    said = np.asarray(told.argmax(-1))
    right, kept = _verified(said, pool["labels"], pool["mask"], options.wanted)
    labels = {**pool, "labels": said.astype(np.int32)}
    taught = {
        "gold_small": (gold, None),
        "unfiltered": (labels, None),
        "filtered": (labels, kept),
        "gold": (pool, None),
    }
    seeds = len(bench.seeds)
    measured = {
        "teacher": {
            "accuracy": np.repeat(_scored(large, held["test"])(teacher, [0]), seeds),
            "kept": np.repeat(len(kept) / len(said), seeds),
            "wrong": np.repeat(1 - right.mean(), seeds),
        }
    }
    for name, (rows, examples) in taught.items():
        score = _scored(small, held["validation"])
        state = fit(name, small, rows, options.steps, examples, score=score)
        measured[name] = {"accuracy": _scored(small, held["test"])(state, bench.seeds)}
    return measured


def _verified(said, labels, mask, wanted):
    """(the share of right labels in each window `[N]`, the windows with at least `wanted` of them)."""
    right = ((said == labels) & mask).sum(1) / np.maximum(mask.sum(1), 1)
    return right, np.flatnonzero(right >= wanted)


def attention_alignment(bench):
    """Kinds of characters, of students that see a teacher's answers and perhaps where it looks.

    What the frozen teacher gives, logits and all its attention maps, is stored with the examples. Kinds
    are written as characters that no text has, 0 to 6, by the head of a model of characters.
    """
    options = bench.options
    rows = {
        part: {
            "tokens": each["tokens"],
            "mask": np.ones(each["tokens"].shape, bool),
            "labels": each["labels"],
            "target_mask": each["mask"],
        }
        for part, each in _kinds_of_characters(options).items()
    }
    inputs = {name: _shape(rows["train"][name]) for name in ("tokens", "mask")}

    def network(width, depth):
        return networks.encoder_transformer(
            129, width=width, depth=depth, heads=4, hidden=2 * width, positions=options.length,
            kinds=0, features=_maps(depth),
        )  # fmt: skip

    def right(network, part):
        own = rows[part]

        def score(state, seeds):
            del seeds
            given = {name: own[name] for name in inputs}
            params = state.params["student"]
            best = np.asarray(study.predict(network, params, given, batch=100).logits).argmax(-1)
            hits = (best == own["labels"]) & own["target_mask"]
            return hits.sum((1, 2)) / own["target_mask"].sum()

        return score

    def fit(name, network, columns, steps, **given):
        heads = 4 * options.teacher_depth
        settings = {"teacher_heads": heads, "epoch": options.epoch, **given.pop("method")}
        return bench.fit(
            name, methods.a2d(**settings), {"student": network}, inputs, {"sequence": columns},
            steps=steps, batch=options.batch, rate=options.rate, **given,
        )  # fmt: skip

    teacher = network(options.teacher_width, options.teacher_depth)
    alone = {"layers": (), "aligner": "", "weight": 0.0}
    # The teacher has no teacher: the column is there for its shape.
    nothing = {"logits": np.zeros((*rows["train"]["tokens"].shape, 129), np.float32)}
    learned = fit(
        "teacher",
        teacher,
        {**rows["train"], **nothing},
        options.teacher_steps,
        method=alone,
        seeds=[0],
    )
    train = {name: column[: options.labelled] for name, column in rows["train"].items()}
    given = {name: train[name] for name in inputs}
    told = study.predict(teacher, learned.params["student"], given, batch=100)
    attention = [told.features[name][0] for name in _maps(options.teacher_depth)]
    train |= {"logits": np.asarray(told.logits[0]), "attention": np.concatenate(attention, axis=1)}
    student = network(options.width, options.depth)
    accuracy = right(teacher, "test")(learned, [0])
    measured = {"teacher": {"accuracy": np.repeat(accuracy, len(bench.seeds))}}
    for name, own in options.methods.items():
        method = {"layers": _maps(options.depth), **own}
        state = fit(
            name, student, train, options.steps, method=method, score=right(student, "validation")
        )
        measured[name] = {"accuracy": right(student, "test")(state, bench.seeds)}
    return measured


def _maps(depth):
    """The names of an encoder's attention maps."""
    return tuple(f"attention{i + 1}" for i in range(depth))


def _kinds_of_characters(options):
    """`{split: {"tokens", "labels", "mask"}}` `[N, length]` of windows of the standard library's sources."""
    documents = text.standard_library()
    names = text.split_documents(documents, validation=0.1, test=0.2)
    sizes = {
        "train": options.windows_read,
        "validation": options.evaluated,
        "test": options.evaluated,
    }
    found = {}
    for part, size in sizes.items():
        rows = [_labelled(documents[name], options.length) for name in getattr(names, part)]
        tokens, labels = (np.concatenate([row[i] for row in rows]) for i in range(2))
        order = np.random.default_rng(0).permutation(len(tokens))[:size]
        tokens, labels = tokens[order], labels[order]
        # Blanks are no question.
        found[part] = {"tokens": tokens, "labels": labels, "mask": labels > 0}
    return found


def _labelled(source, length):
    """(characters, their kinds) of a source, in windows `[n, length]`."""
    lines = source.splitlines(keepends=True)
    starts = np.cumsum([0, *(len(line) for line in lines)])
    labels = np.zeros(len(source), np.int32)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = 2 if keyword.iskeyword(token.string) else KINDS.get(token.type, 0)
        first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
        labels[first:last] = kind
    codes = np.array([min(ord(c), 127) for c in source], np.int32)
    size = len(codes) // length * length
    return codes[:size].reshape(-1, length), labels[:size].reshape(-1, length)


def _scored(network, rows):
    """`score(state, seeds)`: the share of right labels among those that count."""

    def score(state, seeds):
        del seeds
        logits = study.predict(network, state.params["student"], rows["inputs"], batch=100).logits
        hits = (np.asarray(logits).argmax(-1) == rows["labels"]) & rows["mask"]
        return hits.sum((1, 2)) / rows["mask"].sum()

    return score


def _shape(x):
    return jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
