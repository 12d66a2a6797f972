"""Traces of sums with right and wrong answers, and what a model of the wrong ones is good for."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies._answers import Writer
from kdjax import methods
from kdjax.data import answers


def negative_data(bench):
    """Sums of two numbers with the carry written down; the teacher forgets it in some of the traces.

    `positive` learns the right traces; `uniform` and `calibrated` also those that it writes itself and
    that end rightly, from its distributions, the latter more where a model of the wrong traces would
    differ. `majority` and `weighted` are votes of the calibrated model's samples, the latter by a
    ranker that learned to tell all those traces from wrong ones.
    """
    options = bench.options
    writer = Writer(bench, "0123456789+=,;", prompt=6, answer=10)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]

    def questions(count):
        return [rng.integers(10, 100, (count, 2)) for rng in rngs]

    asked = questions(options.traces)
    truth, validation, test = (
        [[_sum(*q) for q in own] for own in x]
        for x in (asked, questions(options.validation), questions(options.test))
    )
    traces = [
        [_sum(*q, forgets=rng.random() < options.wrong) for q in own]
        for rng, own in zip(rngs, asked, strict=True)
    ]

    def split(pairs):
        """The pairs whose answers are right, and the others."""
        return (
            [
                [a for a, b in zip(own, true, strict=True) if _right(*b, a[1]) == wanted]
                for own, true in zip(pairs, truth, strict=True)
            ]
            for wanted in (True, False)
        )

    rest = {"steps": options.steps, "validation": validation, "right": _right}
    good, bad = split(traces)
    found = {"all": writer.teach("all", traces, **rest)}
    found["positive"] = positive = writer.teach("positive", good, **rest)
    negative = writer.teach("calibrated/negative", bad, steps=options.steps)
    written = writer.write(positive, [[p for p, _ in own] for own in truth], temperature=1.0)
    chains = [
        [(p, text) for (p, _), (text,) in zip(own, texts, strict=True)]
        for own, texts in zip(truth, written, strict=True)
    ]
    passing, failing = split(chains)
    own_too = [a + b for a, b in zip(good, passing, strict=True)]
    for name in ("uniform", "calibrated"):
        method = methods.negative_calibrated(calibrated=name == "calibrated")
        memory = {"positive": positive, "negative": negative}
        found[name] = writer.teach(name, own_too, method=method, memory=memory, **rest)

    def features(pairs):
        """By seed: mean log-likelihoods of a character under both models."""
        both = [writer.log_likelihoods(params, pairs) for params in (positive, negative)]
        lengths = [np.array([len(x) + 1 for _, x in own]) for own in pairs]
        return [np.stack([a, b], 1) / n[:, None] for a, b, n in zip(*both, lengths, strict=True)]

    wrong_too = [a + b for a, b in zip(bad, failing, strict=True)]
    rankers = [
        LogisticRegression().fit(np.concatenate([x, y]), np.repeat([1, 0], [len(x), len(y)]))
        for x, y in zip(features(own_too), features(wrong_too), strict=True)
    ]
    prompts, samples = [[p for p, _ in own] for own in test], options.samples
    sampled = writer.write(found["calibrated"], prompts, samples=samples, temperature=1.0)
    given = features(
        [[(p, x) for p, several in zip(*own, strict=True) for x in several] for own in zip(prompts, sampled, strict=True)]
    )  # fmt: skip
    weights = [
        r.predict_proba(x)[:, 1].reshape(-1, samples) for r, x in zip(rankers, given, strict=True)
    ]
    votes = {"majority": [np.ones_like(w) for w in weights], "weighted": weights}
    bench.costs.update(dict.fromkeys(votes, bench.costs["calibrated"]))
    alone = {name: writer.accuracy(params, test, _right) for name, params in found.items()}
    voted = {
        name: [_voted(*own) for own in zip(test, sampled, each, strict=True)]
        for name, each in votes.items()
    }
    return {name: {"accuracy": values} for name, values in {**alone, **voted}.items()}


def _sum(first, second, forgets=False):
    """A question and its trace: sum of the units, sum of the tens with the carry, the answer."""
    units = first % 10 + second % 10
    tens = first // 10 + second // 10 + (0 if forgets else units // 10)
    return f"{first}+{second}=", f"{units},{tens};{tens}{units % 10}"


def _right(prompt, answer, text):
    del prompt
    return answer.partition(";")[2] == text.partition(";")[2]


def _voted(pairs, texts, weights):
    """How often the answer with the most weight among each question's traces is right."""
    return np.mean(
        [
            answers.weighted_vote([x.partition(";")[2] for x in several], w)
            == answer.partition(";")[2]
            for (_, answer), several, w in zip(pairs, texts, weights, strict=True)
        ]
    )
