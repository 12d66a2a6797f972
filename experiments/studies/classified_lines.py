"""Lines of source code and the module that they are of, classified from their words."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data.text import standard_library
from kdjax.methods import text_augmentation

SPECIAL = ("", "first")  # padding, and the token that a text is read at


def projected_augmentation(bench):
    """A small student of few lines, from a teacher of many: KD, and KD on texts that are made besides."""
    options = bench.options
    words, tokens, label = _lines(options)
    order = np.random.default_rng(0).permutation(len(label))
    sizes = np.cumsum([options.taught, options.validation])
    train, validation, test = np.split(order, sizes)

    def network(width, depth):
        return networks.encoder_transformer(
            len(words), width=width, depth=depth, heads=2, hidden=2 * width, classes=options.modules,
            positions=options.longest, kinds=0, head="classification", pooler="tanh",
        )  # fmt: skip

    shape = jax.ShapeDtypeStruct((1, options.longest), jnp.int32)
    teacher = network(options.teacher_width, options.teacher_depth)
    student = network(options.width, options.depth)
    plain = {"image": tokens[train], "label": label[train]}
    learned = bench.fit(
        "teacher", methods.supervised(), {"student": teacher}, shape, {"labelled": plain},
        steps=options.teacher_steps, batch=options.batch, rate=options.teacher_rate, seeds=[0],
    ).params["student"]  # fmt: skip

    def accuracy(own, params, rows):
        return study.right(study.predict(own, params, tokens[rows]).logits, label[rows])

    given = study.first(learned)
    size = _size(teacher, given, tokens[train[:200]], label[train[:200]], options.changed)
    found = {"teacher": np.repeat(accuracy(teacher, learned, test), len(bench.seeds))}
    for name, method in {
        "kd": methods.token_kd_alone(),
        "mix_kd": methods.mix_kd(),
        "swapped": methods.swapped_kd(),
        "augpro_mix": methods.augpro_mix(),
        "augpro_fgsm": methods.augpro_fgsm(size=size),
    }.items():
        few = study.stream(
            {"tokens": tokens[train], "label": label[train]},
            options.batch,
            lambda seed: np.random.default_rng(seed).permutation(len(train))[: options.few],
        )
        state = bench.fit(
            name, method, {"student": student, "teacher": teacher}, shape, {"labelled": few},
            steps=options.steps, batch=options.batch, rate=options.rate,
            frozen={"teacher": given},
            score=lambda state, seeds: accuracy(student, state.params["student"], validation),
        )  # fmt: skip
        found[name] = accuracy(student, state.params["student"], test)
    return {name: {"accuracy": values} for name, values in found.items()}


def _size(network, params, tokens, label, changed):
    """The smallest of doubled steps up the loss that changes this share of the words at least."""

    def read(params, tokens):
        variables = {"params": params, "model": {}, "frozen": {}}
        return network.apply(variables, tokens, train=False, rngs={})[0].logits

    share = jax.jit(
        lambda size: jnp.mean(
            text_augmentation.ascended_tokens(read, params, tokens, label, size) != tokens,
            where=tokens >= 2,
        )
    )
    sizes = 0.01 * 2.0 ** np.arange(12)
    return next((float(size) for size in sizes if share(size) >= changed), float(sizes[-1]))


def _lines(options):
    """(words, tokens `[N, L]`, modules `[N]`) of lines of at least three words, each once."""
    sources = sorted(standard_library().items(), key=lambda pair: -len(pair[1]))[: options.modules]
    split = [
        (k, tuple(re.findall(r"\w+|[^\w\s]", line)))
        for k, (_, source) in enumerate(sources)
        for line in source.splitlines()
    ]
    counts = collections.Counter(word for _, line in split for word in line)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: options.words]
    words = [*SPECIAL, "other", *ranked]
    number = {word: k for k, word in enumerate(words)}
    modules: dict[tuple[str, ...], set[int]] = {}
    for k, line in split:
        if 3 <= len(line) < options.longest:
            modules.setdefault(line, set()).add(k)
    own = sorted(line for line, ks in modules.items() if len(ks) == 1)
    tokens = np.zeros((len(own), options.longest), np.int32)
    for row, line in enumerate(own):
        tokens[row, : len(line) + 1] = [1, *(number.get(word, 2) for word in line)]
    return words, tokens, np.array([next(iter(modules[line])) for line in own], np.int32)
