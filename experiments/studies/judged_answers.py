"""A critic's choice between two answers of a student's own, and what is learned from it."""

import numpy as np

from experiments.studies import _names
from experiments.studies._answers import Writer, each, or_else, parts
from kdjax import methods
from kdjax.data import answers


def critic_feedback(bench):
    """Short names: a student that imitated a writer of rules is told which of two of its own is better.

    The critic knows the quality with noise and likes what it is shown first; `biased` likes long
    answers too, `random` knows nothing. Every row goes on from the imitation for as many steps.

    Ravi, Huber, Shrivastava, Shwartz, Einolghozati, "Small But Funny: A Feedback-Driven Approach to
    Humor Distillation", 2024, with 3 answers of the teacher and 6 candidates of the student.
    """
    options = bench.options
    writer = Writer(bench, _names.CHARACTERS, prompt=17, answer=12)
    sizes = (options.taught, options.asked, options.validation, options.test)
    _, known, *held = parts(bench, _names.names(), *sizes)
    asked, validation, test = ([[(n + "=", "") for n in own] for own in x] for x in held)
    taught = [[(n + "=", style(n)) for n in own for style in _names.STYLES] for own in known]
    start = writer.teach("imitation", taught, steps=options.imitation_steps)
    sampled = writer.write(start, asked, samples=options.samples, temperature=1.0)

    def choices(known=1.0, bias=0.0, filtered=False):
        """By seed: the chosen and the rejected pair, the farthest two of each prompt's answers."""

        def chosen(seed, prompts, texts):
            critic = _critic(np.random.default_rng(seed), options, known, bias)
            every = (
                _chosen(critic, prompt, list(dict.fromkeys(several)), filtered)
                for (prompt, _), several in zip(prompts, texts, strict=True)
            )
            return [((p, a), (p, b)) for p, a, b in filter(None, every)]

        return or_else(each(chosen, bench.seeds, asked, sampled), [[own[:1] * 2] for own in taught])

    ranked = [[_ranked(n) for n in own] for own in known]
    informed, biased = choices(), choices(bias=options.bias)
    brio, dpo = methods.brio(margin=1 / options.mean_length), methods.dpo()

    def go_on(name, method=None, judged=None, pairs=taught, begun=start, steps=options.steps):
        pools = {} if judged is None else {"candidates": writer.candidates(begun, judged)}
        return writer.teach(
            name, pairs, steps=steps, start=begun, method=method, validation=validation,
            right=_quality, **pools,
        )  # fmt: skip

    half = options.steps // 2
    first = go_on("brio_dpo/brio", brio, ranked, steps=half)
    found = {
        "imitation": start,
        "longer": go_on("longer"),
        "winners": go_on("winners", pairs=[[better for better, _ in own] for own in informed]),
        "brio": go_on("brio", brio, informed),
        "dpo": go_on("dpo", dpo, informed),
        "random": go_on("random", dpo, choices(known=0.0)),
        "biased": go_on("biased", dpo, biased),
        "filtered": go_on("filtered", dpo, choices(bias=options.bias, filtered=True)),
        "brio_dpo": go_on("brio_dpo", dpo, informed, begun=first, steps=half),
    }
    return {
        name: {
            "quality": writer.accuracy(params, test, _quality),
            "length": writer.accuracy(params, test, lambda prompt, answer, text: len(text)),
        }
        for name, params in found.items()
    }


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
