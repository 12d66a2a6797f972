"""Answers that somebody scores: a critic's choice of two, an evaluator's weight, a ranker's target."""

import numpy as np

from experiments.studies import _names
from experiments.studies._answers import Writer
from kdjax import methods
from kdjax.data import answers


def critic_feedback(bench):
    """Short names: a student that imitated a writer of rules is told which of two of its own is better.

    The critic knows the quality with noise and likes what it is shown first; `biased` likes long
    answers too, `random` knows nothing. Every row goes on from the imitation for as many steps.
    """
    options = bench.options
    writer = Writer(bench, _names.CHARACTERS, prompt=17, answer=12)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    names = _names.names()
    sizes = np.cumsum([options.taught, options.asked, options.validation, options.test])
    parts = [np.split(rng.permutation(names)[: sizes[-1]], sizes[:-1]) for rng in rngs]
    taught = [[(n + "=", style(n)) for n in own[0] for style in _names.STYLES] for own in parts]
    asked = [[n + "=" for n in own[1]] for own in parts]
    validation, test = ([[(n + "=", "") for n in own[k]] for own in parts] for k in (2, 3))
    start = writer.teach("imitation", taught, steps=options.imitation_steps)
    sampled = writer.write(start, asked, samples=options.samples, temperature=1.0)

    def choices(known=1.0, bias=0.0, filtered=False):
        """By seed: (prompt, the chosen, the rejected) of the farthest two of each prompt's answers."""
        found = []
        for seed, (prompts, texts) in enumerate(zip(asked, sampled, strict=True)):
            critic = _critic(np.random.default_rng(seed), options, known, bias)
            found.append(
                [
                    chosen
                    for prompt, several in zip(prompts, texts, strict=True)
                    if (chosen := _chosen(critic, prompt, list(dict.fromkeys(several)), filtered))
                ]
            )
        return found

    def better(judged, reference=start):
        return writer.candidates(
            reference, [[[(p, a), (p, b)] for p, a, b in own] for own in judged]
        )

    ranked = writer.candidates(start, [[_ranked(n) for n in own[0]] for own in parts])
    informed, margin = choices(), 1 / options.mean_length
    brio, dpo = methods.brio(margin=margin), methods.dpo()
    rows = {
        "longer": (taught, None, None),
        "winners": ([[(p, a) for p, a, _ in own] for own in informed], None, None),
        "brio": (taught, brio, better(informed)),
        "dpo": (taught, dpo, better(informed)),
        "random": (taught, dpo, better(choices(known=0.0))),
        "biased": (taught, dpo, better(choices(bias=options.bias))),
        "filtered": (taught, dpo, better(choices(bias=options.bias, filtered=True))),
    }

    def go_on(name, steps, begun, pairs, method, judged):
        pools = {} if judged is None else {"candidates": judged}
        return writer.teach(
            name, pairs, steps=steps, start=begun, method=method, validation=validation,
            right=_quality, **pools,
        )  # fmt: skip

    found = {"imitation": start}
    for name, row in rows.items():
        found[name] = go_on(name, options.steps, start, *row)
    half = options.steps // 2
    first = go_on("brio_dpo/brio", half, start, taught, brio, ranked)
    found["brio_dpo"] = go_on("brio_dpo", half, first, taught, dpo, better(informed, first))
    return {name: _quality_and_length(writer, params, test) for name, params in found.items()}


def _critic(rng, options, known, bias):
    """Who prefers the first answer with this probability."""

    def prefers(name, first, second):
        gap = known * (_names.quality(name, first) - _names.quality(name, second))
        noise = options.noise * rng.normal() + bias * (len(first) - len(second))
        return 1 / (1 + np.exp(-(options.sharpness * gap + noise + options.place)))

    return prefers


def _chosen(critic, prompt, several, filtered):
    """(prompt, the better, the worse) of the farthest two, or None."""
    if len(several) < 2:
        return None
    first, second = (several[k] for k in answers.farthest_pair(several))
    if filtered and not answers.similar_lengths(first, second):
        return None
    share = answers.order_averaged(lambda a, b: critic(prompt[:-1], a, b), first, second)
    return (prompt, first, second) if share >= 0.5 else (prompt, second, first)


def _ranked(name):
    """The writer's own answers to a name, best first."""
    several = sorted(
        (style(name) for style in _names.STYLES), key=lambda x: -_names.quality(name, x)
    )
    return [(name + "=", each) for each in several]


def _quality(prompt, answer, text):
    del answer
    return _names.quality(prompt[:-1], text)


def _quality_and_length(writer, params, test):
    return {
        "quality": writer.accuracy(params, test, _quality),
        "length": writer.accuracy(params, test, lambda prompt, answer, text: len(text)),
    }
