"""Traces of sums with right and wrong answers, and what a model of the wrong ones is good for."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies._answers import Writer, each, parts
from kdjax import methods
from kdjax.data import answers


def negative_data(bench):
    """Sums of two numbers with the carry written down; the teacher forgets it in some of the traces.

    `positive` learns the right traces; `uniform` and `calibrated` also those that it writes itself and
    that end rightly, from its distributions, the latter more where a model of the wrong traces would
    differ. `majority` and `weighted` are votes of the calibrated model's samples, the latter by a
    ranker that learned to tell all those traces from wrong ones.

    Li, Yuan, Feng, Pan, Sun, Wang, Wang, Li, "Turning Dust into Gold: Distilling Complex Reasoning
    Capabilities from LLMs by Leveraging Negative Data", 2024; whose positive model is gated with the
    low-rank factors of the negative one, and here learns alone.
    """
    options = bench.options
    writer = Writer(bench, "0123456789+=,;", prompt=6, answer=10)
    sizes = (options.traces, options.validation, options.test)
    rngs, asked, *held = parts(bench, lambda rng: rng.integers(10, 100, 2), *sizes)
    truth, validation, test = ([[_sum(*q) for q in own] for own in x] for x in (asked, *held))
    traces = each(
        lambda rng, own: [_sum(*q, forgets=rng.random() < options.wrong) for q in own], rngs, asked
    )

    def split(pairs, wanted):
        return each(
            lambda own, true: [a for a, b in zip(own, true, strict=True) if _right(*b, a[1]) == wanted],
            pairs, truth,
        )  # fmt: skip

    rest = {"steps": options.steps, "validation": validation, "right": _right}
    good, bad = split(traces, True), split(traces, False)
    found = {"all": writer.teach("all", traces, **rest)}
    found["positive"] = positive = writer.teach("positive", good, **rest)
    negative = writer.teach("calibrated/negative", bad, steps=options.steps)
    texts = writer.write(positive, truth, temperature=1.0)
    chains = each(lambda own, x: [(p, *t) for (p, _), t in zip(own, x, strict=True)], truth, texts)
    right = each(list.__add__, good, split(chains, True))
    wrong = each(list.__add__, bad, split(chains, False))
    for name in ("uniform", "calibrated"):
        method = methods.negative_calibrated(calibrated=name == "calibrated")
        memory = {"positive": positive, "negative": negative}
        found[name] = writer.teach(name, right, method=method, memory=memory, **rest)

    def features(pairs):
        """By seed: mean log-likelihoods of a character under both models."""
        both = [writer.log_likelihoods(params, pairs) for params in (positive, negative)]
        lengths = [np.array([len(x) + 1 for _, x in own]) for own in pairs]
        return each(lambda a, b, n: np.stack([a, b], 1) / n[:, None], *both, lengths)

    def ranker(x, y):
        return LogisticRegression().fit(np.concatenate([x, y]), np.repeat([1, 0], [len(x), len(y)]))

    rankers, size = each(ranker, features(right), features(wrong)), options.samples
    sampled = writer.write(found["calibrated"], test, samples=size, temperature=1.0)
    flat = each(lambda own, x: [(p, t) for (p, _), s in zip(own, x, strict=True) for t in s], test, sampled)  # fmt: skip
    scores = each(lambda r, x: r.predict_proba(x)[:, 1].reshape(-1, size), rankers, features(flat))
    votes = {"majority": [np.ones_like(w) for w in scores], "weighted": scores}
    bench.costs.update(dict.fromkeys(votes, bench.costs["calibrated"]))
    voted = {name: {"accuracy": each(_voted, test, sampled, w)} for name, w in votes.items()}
    return {**writer.accuracies(found, test, _right), **voted}


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
