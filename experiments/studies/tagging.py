"""Characters and words that are labelled: kinds of Python tokens, spelling mistakes made by rules."""

import io
import keyword
import re
import sysconfig
import tokenize
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _text
from kdjax import methods, networks
from kdjax.data import plans, streams, text
from kdjax.methods.sequence import next_token
from kdjax.networks import taggers

# Kinds of characters: blank, name, keyword, operator, number, string, comment.
KINDS = {
    tokenize.NAME: 1,
    tokenize.OP: 3,
    tokenize.NUMBER: 4,
    tokenize.STRING: 5,
    tokenize.COMMENT: 6,
}
LETTERS = " abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
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
    """(a model of masked characters, its parameters, its row), trained once for all seeds."""
    options, rng = bench.options, np.random.default_rng(0)
    last = f"hidden{options.model_depth}"
    model = networks.encoder_transformer(
        129, width=options.model_width, depth=options.model_depth, heads=4,
        hidden=2 * options.model_width, positions=options.length, kinds=0, features={"states": last},
    )  # fmt: skip

    def columns(tokens):
        hidden = rng.random(tokens.shape) < options.masked
        return {"tokens": np.where(hidden, 128, tokens), "targets": tokens, "mask": hidden}

    state = bench.fit(
        "model", next_token(), {"student": model}, {"tokens": _shape(parts["train"]["tokens"])},
        {"sequence": columns(parts["train"]["tokens"])}, steps=options.model_steps, batch=32,
        rate=options.model_rate, seeds=[0],
    )  # fmt: skip
    params = jax.tree.map(lambda x: x[0], state.params["student"])
    held = {"": columns(parts["test"]["tokens"])}
    return model, params, {"model": {"loss": _text.losses_of_one(bench, model, params, held)[0]}}


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
    right = ((said == pool["labels"]) & pool["mask"]).sum(1) / np.maximum(pool["mask"].sum(1), 1)
    kept = np.flatnonzero(right >= options.wanted)
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


def spelling_rules(bench):
    """Words spoiled by six rules; which rule it was, asked at the end of every word.

    Trained on the comments and docstrings of some packages, tested on those of others too. Scored by
    F0.5 over the spoiled words: the right rule at the right word.
    """
    options = bench.options
    home, abroad = (_words(names) for names in (options.home, options.abroad))
    rng = np.random.default_rng(0)
    cut = [int(share * len(home)) for share in (0.7, 0.8)]
    clean = _windows(home[: cut[0]], options, None)
    body = _text.decoder(
        len(LETTERS), width=options.model_width, depth=options.model_depth, features=("hidden",)
    )
    inputs = {"tokens": _shape(clean["tokens"])}
    model = bench.fit(
        "model", next_token(), {"student": body}, inputs, {"sequence": clean},
        steps=options.model_steps, batch=32, rate=options.model_rate, seeds=[0],
    )  # fmt: skip
    learned = jax.tree.map(lambda x: x[0], model.params["student"])
    train, validation, test, outside = (
        _windows(words, options, rng)
        for words in (home[: cut[0]], home[cut[0] : cut[1]], home[cut[1] :], abroad)
    )
    heads = options.model_width // 16
    front = taggers.Prefix(options.prefix, options.model_depth, heads, 16)
    size = {"width": options.model_width}
    rows = {
        "scratch": taggers.state_tagger(body, 7, **size),
        "frozen": taggers.state_tagger(body, 7, **size, trained=False),
        "prefix": taggers.state_tagger(body, 7, **size, trained=False, prefix=front),
    }
    columns = {
        "inputs": train["tokens"],
        "labels": train["labels"],
        "mask": train["ends"],
    }
    columns = jax.tree.map(lambda x: x[: options.labelled], columns)
    held = {"": _windows(home[cut[1] :], options, None)}
    measured = {"model": {"loss": _text.losses_of_one(bench, body, learned, held)[0]}}
    for name, network in rows.items():
        frozen = {} if name == "scratch" else {"student": {"body": learned}}

        def f_half(state, seeds, rows, network=network, frozen=frozen):
            del seeds
            return _f_half(_best(network, frozen, state.params["student"], rows["tokens"]), rows)

        state = bench.fit(
            name, methods.tagging(network, inputs=inputs["tokens"]), {}, {}, {"sequence": columns},
            steps=options.steps, batch=options.batch, rate=options.rate, frozen=frozen,
            score=lambda state, seeds, f=f_half: f(state, seeds, validation),
        )  # fmt: skip
        measured[name] = {
            "f_half": f_half(state, bench.seeds, outside),
            "f_half_at_home": f_half(state, bench.seeds, test),
        }
    return measured


def _words(packages):
    """The words of the strings and comments of packages, lower case, in order."""
    folder, words = Path(sysconfig.get_path("stdlib")), []
    for package in packages:
        for source in text.standard_library(folder / package).values():
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                if token.type == tokenize.COMMENT or token.string.startswith('"""'):
                    words += re.findall(r"[a-z]{2,12}", token.string.lower())
    return words


def _spoiled(word: str, rule: int) -> str:
    """A word with the mistake of a rule, 1 to 6; itself where the rule finds nothing to spoil."""
    first = next((i for i, letter in enumerate(word) if letter in VOWELS), None)
    middle = len(word) // 2
    if rule == 1:  # a letter twice
        return word[:middle] + word[middle - 1] + word[middle:]
    if rule == 2 and first is not None:  # no vowel
        return word[:first] + word[first + 1 :]
    if rule == 3:  # two letters in the other order
        return word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    if rule == 4 and first is not None:  # another vowel
        return word[:first] + VOWELS[(VOWELS.index(word[first]) + 1) % 5] + word[first + 1 :]
    if rule == 5:  # a needless ending
        return word + "s"
    if rule == 6:  # k for c
        return word.replace("c", "k")
    return word


def _windows(words, options, rng):
    """Rows of letters `[N, length]` with the rule of every word at its last letter; clean without `rng`."""
    letters, labels, ends = [], [], []
    for word in words:
        rule = 0 if rng is None or rng.random() > options.spoiled else int(rng.integers(1, 7))
        wrong = _spoiled(word, rule)
        rule = 0 if wrong == word else rule
        letters += [LETTERS.index(letter) for letter in wrong + " "]
        labels += [0] * (len(wrong) - 1) + [rule, 0]
        ends += [False] * (len(wrong) - 1) + [True, False]
    size = len(letters) // options.length * options.length
    tokens, labels, ends = (
        np.array(x[:size]).reshape(-1, options.length) for x in (letters, labels, ends)
    )
    if rng is not None:
        tokens, labels, ends = (x[: options.windows_read] for x in (tokens, labels, ends))
    tokens = tokens.astype(np.int32)
    return {
        "tokens": tokens, "targets": np.roll(tokens, -1, axis=1), "labels": labels.astype(np.int32),
        "ends": ends, "mask": np.arange(options.length)[None] < np.full((len(tokens), 1), options.length - 1),
    }  # fmt: skip


def _f_half(best, rows):
    """F0.5 of spoiled words found with their rule, `[S]`, from labels `[S, N, L]`."""
    ends, labels = rows["ends"], rows["labels"]
    said = ((best > 0) & ends).sum((1, 2))
    right = ((best == labels) & (labels > 0) & ends).sum((1, 2))
    precision, recall = right / np.maximum(said, 1), right / max((labels > 0).sum(), 1)
    return 1.25 * precision * recall / np.maximum(0.25 * precision + recall, 1e-9)


def _best(network, frozen, params, tokens):
    """`[S, N, L]`, the labels of the networks of S seeds."""

    def one(params):
        variables = {"params": params, "frozen": frozen.get("student", {}), "model": {}}
        outputs, _ = network.apply(variables, tokens, train=False, rngs={})
        return jnp.argmax(outputs.logits, axis=-1)

    return np.asarray(jax.jit(lambda params: jax.lax.map(one, params))(params))


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
