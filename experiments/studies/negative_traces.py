"""Traces of sums with right and wrong answers, and what a model of the wrong ones is good for."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies._answers import Writer, each, every, parts, same
from experiments.studies._expressions import traced_sum
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
    sizes = ("traces", "validation", "test")
    rngs, asked, *held = parts(bench, lambda rng: rng.integers(10, 100, 2), *sizes)
    truth, *held = (every(lambda numbers: traced_sum(*numbers), x) for x in (asked, *held))
    right = same(_answer)
    writer = Writer(
        bench, "0123456789+=,;", prompt=6, answer=10, held=held, metrics={"accuracy": right}
    )

    def trace(rng, numbers):
        return traced_sum(*numbers, forgets=rng.random() < options.wrong)

    def split(pairs, wanted):
        def of_seed(own, true):
            return [a for a, b in zip(own, true, strict=True) if right(*b, a[1]) == wanted]

        return each(of_seed, pairs, truth)

    traces = every(trace, rngs, asked)
    writer.teach("all", traces)
    good, bad = split(traces, True), split(traces, False)
    positive = writer.teach("positive", good)
    negative = writer.teach("calibrated/negative", bad)
    chains = writer.answered(positive, truth, temperature=1.0)
    good = each(list.__add__, good, split(chains, True))
    bad = each(list.__add__, bad, split(chains, False))
    memory = {"positive": positive, "negative": negative}
    for name in ("uniform", "calibrated"):
        method = methods.negative_calibrated(calibrated=name == "calibrated")
        calibrated = writer.teach(name, good, method=method, memory=memory)

    def features(pairs):
        """By seed: mean log-likelihoods of a character under both models."""
        both = (writer.log_likelihoods(params, pairs) for params in (positive, negative))
        lengths = every(lambda pair: [len(pair[1]) + 1], pairs)
        return each(lambda a, b, n: np.stack([a, b], 1) / n, *both, lengths)

    def ranker(x, y):
        return LogisticRegression().fit(np.concatenate([x, y]), np.repeat([1, 0], [len(x), len(y)]))

    sampled = writer.answered(calibrated, held[1], samples=options.samples, temperature=1.0)
    rankers = each(ranker, features(good), features(bad))
    scores = each(lambda r, x: r.predict_proba(x)[:, 1], rankers, features(sampled))
    votes = {"majority": [np.ones_like(w) for w in scores], "weighted": scores}
    bench.costs.update(dict.fromkeys(votes, bench.costs["calibrated"]))
    voted = {name: each(_voted, held[1], sampled, w) for name, w in votes.items()}
    return {**writer.measured(), **voted}


def _answer(trace):
    return trace.partition(";")[2]


def _voted(pairs, sampled, weights):
    """How often the answer with the most weight among each question's traces is right."""
    given = np.reshape([_answer(x) for _, x in sampled], (len(pairs), -1))
    voted = list(map(answers.weighted_vote, given, np.reshape(weights, given.shape)))
    return np.mean(np.array(voted) == [_answer(x) for _, x in pairs])
