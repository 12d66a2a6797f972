"""Lines of source code and the module that they are of, classified from their words."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import code, text
from kdjax.methods import text_augmentation


def projected_augmentation(bench):
    """A small student of few lines, from a teacher of many: KD, and KD on texts that are made besides."""
    options = bench.options
    sources = sorted(text.standard_library().values(), key=lambda source: -len(source))
    tokens, label, words = code.distinct_lines(
        sources[: options.modules], words=options.words, length=options.longest
    )
    order = np.random.default_rng(0).permutation(len(label))
    train, *held = np.split(order, np.cumsum([options.taught, options.validation]))
    held = dict(zip(("validation", "test"), held, strict=True))

    def network(width, depth):
        return networks.encoder_transformer(
            len(words), width=width, depth=depth, heads=2, hidden=2 * width, classes=options.modules,
            positions=options.longest, kinds=0, head="classification", pooler="tanh",
        )  # fmt: skip

    def accuracy(trained, part):
        return study.right(trained.logits(tokens[held[part]]), label[held[part]])

    shape = jax.ShapeDtypeStruct((1, options.longest), jnp.int32)
    teacher = network(options.teacher_width, options.teacher_depth)
    taught = bench.fit(
        "teacher", methods.supervised(), {"student": teacher}, shape,
        {"labelled": {"image": tokens[train], "label": label[train]}}, seeds=[0],
    )  # fmt: skip
    few = study.stream(
        {"tokens": tokens[train], "label": label[train]}, options.batch,
        lambda seed: np.random.default_rng(seed).permutation(len(train))[: options.few],
    )  # fmt: skip
    some = train[:200]
    size = _size(teacher, taught.frozen, tokens[some], label[some], options.changed)
    rows = {
        "kd": methods.token_kd_alone(),
        "mix_kd": methods.mix_kd(),
        "swapped": methods.swapped_kd(),
        "augpro_mix": methods.augpro_mix(),
        "augpro_fgsm": methods.augpro_fgsm(size=size),
    }
    nets = {"student": network(options.width, options.depth), "teacher": teacher}
    found = bench.compare(
        rows, nets, shape, {"labelled": few}, frozen={"teacher": taught.frozen}, measure=accuracy
    )
    return {"teacher": accuracy(taught, "test"), **found}


def _size(network, params, tokens, label, changed):
    """The smallest of doubled steps up the loss that changes this share of the words at least."""

    def read(params, tokens):
        variables = {"params": params, "model": {}, "frozen": {}}
        return network.apply(variables, tokens, train=False, rngs={})[0].logits

    @jax.jit
    def share(size):
        given = text_augmentation.ascended_tokens(read, params, tokens, label, size)
        return jnp.mean(given != tokens, where=tokens >= 2)

    sizes = 0.01 * 2.0 ** np.arange(12)
    return next((float(size) for size in sizes if share(size) >= changed), float(sizes[-1]))
