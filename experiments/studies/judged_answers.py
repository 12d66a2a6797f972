"""A critic's choice between two answers of a student's own, and what is learned from it."""

import functools

import numpy as np

from experiments.studies import _names
from experiments.studies._answers import Writer, each, every, or_else, parts
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
    _, known, *rest = parts(bench, _names.names(), "taught", "asked", "validation", "test")
    asked, *held = (every(lambda name: (name + "=", ""), part) for part in rest)
    taught = [[(n + "=", x) for n in own for x in _names.short_forms(n)] for own in known]
    metrics = {
        "quality": lambda prompt, _, text: _names.quality(prompt[:-1], text),
        "length": lambda prompt, _, text: len(text),
    }
    writer = Writer(bench, _names.CHARACTERS, prompt=17, answer=12, held=held, metrics=metrics)
    start = writer.teach("imitation", taught)
    sampled = writer.write(start, asked, samples=options.samples, temperature=1.0)

    def choices(filtered=False, **critic):
        """By seed: the chosen and the rejected pair, the farthest two of each prompt's answers."""

        def chosen(seed, own, texts):
            judge = functools.partial(_preference, np.random.default_rng(seed), options, **critic)
            both = (_chosen(judge, p, x, filtered) for (p, _), x in zip(own, texts, strict=True))
            return list(filter(None, both))

        return or_else(each(chosen, bench.seeds, asked, sampled), [[own[:1] * 2] for own in taught])

    informed = choices()
    brio, dpo = methods.brio(margin=1 / options.mean_length), methods.dpo()
    half = options.steps // 2
    first = writer.teach(
        "brio_dpo/brio", taught, start=start, method=brio, judged=every(_ranked, known), steps=half
    )
    judged = {
        "dpo": informed,
        "random": choices(known=0.0),
        "biased": choices(bias=options.bias),
        "filtered": choices(bias=options.bias, filtered=True),
    }
    rows = {
        "longer": taught,
        "winners": [[better for better, _ in own] for own in informed],
        "brio": {"method": brio, "judged": informed},
        **{name: {"method": dpo, "judged": own} for name, own in judged.items()},
        "brio_dpo": {"method": dpo, "judged": informed, "start": first, "steps": half},
    }
    return writer.compare(rows, pairs=taught, start=start)


def _preference(rng, options, name, first, second, *, known=1.0, bias=0.0):
    """The probability that the critic prefers the first answer."""
    gap = known * (_names.quality(name, first) - _names.quality(name, second))
    noise = options.noise * rng.normal() + bias * (len(first) - len(second))
    return 1 / (1 + np.exp(-(options.sharpness * gap + noise + options.place)))


def _chosen(critic, prompt, texts, filtered=False):
    """The pairs with the better and the worse of the farthest two texts, or None."""
    several = list(dict.fromkeys(texts))
    if len(several) < 2:
        return None
    both = [several[k] for k in answers.farthest_pair(several)]
    if filtered and not answers.similar_lengths(*both):
        return None
    share = answers.order_averaged(lambda a, b: critic(prompt[:-1], a, b), *both)
    better, worse = both if share >= 0.5 else reversed(both)
    return (prompt, better), (prompt, worse)


def _ranked(name):
    """The pairs of a name and its short forms, best first."""
    ranked = sorted(_names.short_forms(name), key=lambda x: -_names.quality(name, x))
    return [(name + "=", each) for each in ranked]
