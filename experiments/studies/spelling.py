"""Words spoiled by rules, and taggers that tell which rule it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies import _text
from kdjax import methods
from kdjax.data import code, misspellings, text
from kdjax.networks import taggers


def spelling_rules(bench):
    """Words spoiled by six rules; which rule it was, asked at the end of every word.

    Trained on the comments and docstrings of some packages, tested on those of others too. Scored by
    F0.5 over the spoiled words: the right rule at the right word.
    """
    options, rng = bench.options, np.random.default_rng(0)
    home, abroad = (_words(packages) for packages in (options.home, options.abroad))
    first, second = (int(share * len(home)) for share in (0.7, 0.8))
    learned, unseen = home[:first], home[second:]
    train, validation, test, outside = (
        misspellings.tagged_letters(
            words, options.length, rng=rng, share=options.spoiled, most=options.windows_read
        )
        for words in (learned, home[first:second], unseen, abroad)
    )
    body = _text.decoder(
        len(misspellings.LETTERS), width=options.model_width, depth=options.model_depth,
        features=("hidden",),
    )  # fmt: skip
    shape = jax.ShapeDtypeStruct((1, options.length), np.int32)
    model = bench.fit(
        "model", methods.next_token(), {"student": body}, {"tokens": shape},
        {"sequence": _clean(learned, options.length)}, batch=32, seeds=[0],
    )  # fmt: skip
    front = taggers.Prefix(options.prefix, options.model_depth, options.model_width // 16, 16)
    kinds = {
        "scratch": {},
        "frozen": {"trained": False},
        "prefix": {"trained": False, "prefix": front},
    }
    frozen = {"student": {"body": model.frozen}}
    few = jax.tree.map(lambda column: column[: options.labelled], train)

    def f_half(network, trained, rows):
        def best(params):
            variables = {"params": params, "frozen": frozen["student"], "model": {}}
            outputs, _ = network.apply(variables, rows["inputs"], train=False, rngs={})
            return jnp.argmax(outputs.logits, axis=-1)

        run = jax.jit(lambda params: jax.lax.map(best, params))
        return _f_half(np.asarray(run(trained.params["student"])), rows)

    heldout = _clean(unseen, options.length)
    found = {"model": {"loss": _text.losses(body, model.params["student"], heldout)}}
    for name, kind in kinds.items():
        network = taggers.state_tagger(body, 7, width=options.model_width, **kind)
        trained = bench.fit(
            name, methods.tagging(network, inputs=shape), {}, {}, {"sequence": few}, frozen=frozen,
            score=functools.partial(f_half, network, rows=validation),
        )  # fmt: skip
        found[name] = {
            "f_half": f_half(network, trained, outside),
            "f_half_at_home": f_half(network, trained, test),
        }
    return found


def _words(packages):
    """The words of packages' comments and docstrings, in order."""
    return [
        word
        for package in packages
        for source in text.standard_library(package).values()
        for word in code.comment_words(source)
    ]


def _clean(words, length):
    """Rows of letters for a model of the next one, which the last of a row does not have."""
    tokens = misspellings.tagged_letters(words, length)["inputs"]
    mask = np.tile(np.arange(length) < length - 1, (len(tokens), 1))
    return {"tokens": tokens, "targets": np.roll(tokens, -1, axis=1), "mask": mask}


def _f_half(best, rows):
    """F0.5 of spoiled words found with their rule, `[S]`, from labels `[S, N, L]`."""
    ends, labels = rows["mask"], rows["labels"]
    said = ((best > 0) & ends).sum((1, 2))
    right = ((best == labels) & (labels > 0) & ends).sum((1, 2))
    precision, recall = right / np.maximum(said, 1), right / max((labels > 0).sum(), 1)
    return 1.25 * precision * recall / np.maximum(0.25 * precision + recall, 1e-9)
