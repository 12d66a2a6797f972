"""Answers with a score in [0, 1]: of an evaluator that has references, of a ranker of candidates."""

import functools
import itertools

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies import _names
from experiments.studies._answers import Writer, each, every, likeness, parts
from kdjax.data import answers


def evaluator_supervision(bench):
    """Short names, of which several are right: what an evaluator's score of an answer is used for.

    `static` and `dynamic` add the generator's own answers that score at least 1/2, drawn once or again
    half way; `difficulty` weighs a target by how bad the generator's present answer is, `quality` by
    the target's own score, `shuffled` by that of another. Rows go on from the same model for as many
    steps; `noisy` ones have learned from targets of which a share is another name's.

    Gabburo, Garg, Koncel-Kedziorski, Moschitti, "Learning Answer Generation using Supervision from
    Automatic Question Answering Evaluators", 2023; the threshold and both weights are ours.
    """
    options = bench.options
    sizes = ("held", "taught", "validation", "test")
    rngs, known, taught, *held = parts(bench, _names.names(), *sizes)
    writer = Writer(
        bench, _names.CHARACTERS, prompt=17, answer=10,
        held=[every(lambda name: (name + "=", ""), part) for part in held],
        metrics={"accuracy": lambda prompt, _, text: text in _names.short_forms(prompt[:-1])},
    )  # fmt: skip
    evaluators = each(_evaluator, rngs, known)

    def scored(pairs):
        return each(lambda score, own: score(own), evaluators, pairs)

    def difficulty(params):
        return [1 - values for values in scored(writer.answered(params, clean))]

    def augmented(params, draw):
        made = writer.answered(params, noisy, temperature=1.0, draw=draw)
        good = each(lambda own, x: list(itertools.compress(own, x >= 0.5)), made, scored(made))
        return each(list.__add__, noisy, good)

    clean = each(_names.shortened, rngs, taught)
    noisy = each(functools.partial(_names.shortened, wrong=options.wrong), rngs, taught)
    half = options.steps // 2
    easy = writer.teach("clean_start", clean, steps=options.start_steps)
    first = {"pairs": clean, "start": easy, "weights": difficulty(easy), "steps": half}
    hard = writer.teach("clean_difficulty/first", **first)
    start = writer.teach("noisy_start", noisy, steps=options.start_steps)
    quality, static = scored(noisy), augmented(start, 0)
    begun = writer.teach("noisy_dynamic/first", static, start=start, steps=half)
    dynamic = augmented(begun, 1)
    rows = {
        "clean_labels": {"pairs": clean, "start": easy},
        "clean_difficulty": {**first, "start": hard, "weights": difficulty(hard)},
        "noisy_labels": noisy,
        "noisy_static": static,
        "noisy_dynamic": {"pairs": dynamic, "start": begun, "steps": half},
        "noisy_quality": {"weights": quality},
        "noisy_shuffled": {"weights": each(lambda rng, w: rng.permutation(w), rngs, quality)},
    }
    return writer.compare(rows, pairs=noisy, start=start)


def _evaluator(rng, names):
    """pairs -> `[N]` scores: how like an answer is to references, learned on names kept for that.

    The negatives are short forms of others, and right ones with a letter changed; an answer is held
    against one to all of the references.
    """

    def features(pairs):
        rows = []
        for prompt, text in pairs:
            references = _names.short_forms(prompt[:-1])
            given = rng.choice(references, rng.integers(1, 4), replace=False).tolist()
            edits = min(answers.edit_distance(text, each) for each in given)
            rows.append([answers.rouge_l(text, given).max(), edits, len(text) == edits, edits == 0])
        return np.array(rows, float)

    right, wrong, again = (_names.shortened(rng, names, share) for share in (0.0, 1.0, 0.0))
    changed = [(prompt, _names.changed(rng, text)) for prompt, text in again]
    labels = np.repeat([1, 0, 0], len(names))
    fitted = LogisticRegression().fit(features([*right, *wrong, *changed]), labels)
    return lambda pairs: fitted.predict_proba(features(pairs))[:, 1]


def ranked_targets(bench):
    """Short names from a ranker alone: the best candidate is the target, the next ones are context.

    `weighted` multiplies a target's loss by the ranker's score of it; `shaped` writes the fifth of
    [0, 1] that a score is in before every candidate and, to be predicted first, before the target. At
    the test the best candidate is in the context, and `copied` is that candidate.

    Gabburo, Koncel-Kedziorski, Garg, Soldaini, Moschitti, "Knowledge Transfer from Answer Ranking to
    Answer Generation", 2022; there are five candidates of context, two here.
    """
    sizes = ("held", "taught", "validation", "test")
    rngs, known, *rest = parts(bench, _names.names(12), *sizes)

    def ranked(rng, rank, known, name):
        return name, rank(name, _names.candidates(rng, name, known))

    rankers = each(_ranker, rngs, known)
    taught, *held = (every(ranked, rngs, rankers, known, part) for part in rest)
    weights = every(lambda row: row[1][0][1], taught)
    copied = every(lambda row: likeness("", _names.beginnings(row[0]), row[1][0][0]), held[1])
    found = {"copied": {"f1": np.mean(copied, axis=1)}}
    for shaped, rows in ((False, ("unweighted", "weighted")), (True, ("shaped", "both"))):
        pairs = [
            [(_context(n, x[1:3], shaped), _marked(x[0], shaped)) for n, x in own] for own in taught
        ]
        asked = [
            [[(_context(n, x[:2], shaped), _names.beginnings(n)) for n, x in own] for own in part]
            for part in held
        ]
        writer = Writer(
            bench, _names.CHARACTERS + "|01234", prompt=30, answer=8, held=asked,
            metrics={"f1": _likeness},
        )  # fmt: skip
        found |= writer.compare({rows[0]: pairs, rows[1]: {"pairs": pairs, "weights": weights}})
    return found


def _ranker(rng, names):
    """(name, candidates) -> [(candidate, score), ...], best first; learned on the names given to it."""

    def features(name, text):
        in_order = _names.in_sequence(_names.initials(name), text) / len(_names.words(name))
        return [answers.rouge_l(text, [name])[0], text[:1] == name[0], in_order]

    drawn = [(name, each) for name in names for each in _names.candidates(rng, name, names)]
    labels = [text == _names.beginnings(name) for name, text in drawn]
    fitted = LogisticRegression().fit(np.array([features(*each) for each in drawn], float), labels)

    def rank(name, several):
        scores = fitted.predict_proba(np.array([features(name, x) for x in several], float))[:, 1]
        order = np.argsort(-scores, kind="stable")
        return [(several[k], float(scores[k])) for k in order]

    return rank


def _marked(scored, shaped):
    text, score = scored
    return f"{answers.score_buckets(score, 5)}{text}" if shaped else text


def _context(name, several, shaped):
    return "|".join([name, *(_marked(each, shaped) for each in several)]) + "="


def _likeness(prompt, answer, text):
    """F1 with the right answer, without what the text says of its own score."""
    return likeness(prompt, answer, text.lstrip("01234"))
