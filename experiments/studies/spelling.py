"""Words spoiled by rules, and taggers that tell which rule it was."""

import io
import re
import sysconfig
import tokenize
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _text
from kdjax import methods
from kdjax.data import text
from kdjax.methods.sequence import next_token
from kdjax.networks import taggers

LETTERS = " abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"


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
    inputs = {"tokens": jax.ShapeDtypeStruct((1, options.length), np.int32)}
    model = bench.fit(
        "model", next_token(), {"student": body}, inputs, {"sequence": clean},
        steps=options.model_steps, batch=32, rate=options.model_rate, seeds=[0],
    )  # fmt: skip
    learned = study.first(model.params["student"])
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
