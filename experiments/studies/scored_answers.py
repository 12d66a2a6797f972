"""Answers with a score in [0, 1]: of an evaluator that has references, of a ranker of candidates."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies import _names
from experiments.studies._answers import Writer, each, likeness, parts
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
    writer = Writer(bench, _names.CHARACTERS, prompt=17, answer=10)
    sizes = (options.held, options.taught, options.validation, options.test)
    rngs, held, taught, *rest = parts(bench, _names.names(), *sizes)
    validation, test = ([[(n + "=", "") for n in own] for own in x] for x in rest)
    evaluators = each(_evaluator, rngs, held)

    def scored(pairs):
        return each(lambda score, own: score(own), evaluators, pairs)

    def written(params, targets, **how):
        texts = writer.write(params, targets, **how)
        return each(
            lambda own, x: [(p, *t) for (p, _), t in zip(own, x, strict=True)], targets, texts
        )

    def augmented(params, targets, draw):
        made = written(params, targets, temperature=1.0, draw=draw)
        return each(
            lambda own, x, v: own + [pair for pair, score in zip(x, v, strict=True) if score >= 0.5],
            targets, made, scored(made),
        )  # fmt: skip

    def learned(name, pairs, begun, weights=None, steps=options.steps):
        return writer.teach(
            name, pairs, steps=steps, weights=weights, start=begun, validation=validation,
            right=_is_reference,
        )  # fmt: skip

    def harder(params):
        return [1 - values for values in scored(written(params, clean))]

    half = options.steps // 2
    clean, noisy = (
        each(lambda rng, own, w=wrong: _targets(rng, own, w), rngs, taught)
        for wrong in (0.0, options.wrong)
    )
    easy = writer.teach("clean_start", clean, steps=options.start_steps)
    hard = learned("clean_difficulty/first", clean, easy, harder(easy), half)
    start = writer.teach("noisy_start", noisy, steps=options.start_steps)
    quality, own = scored(noisy), augmented(start, noisy, 0)
    first = learned("noisy_dynamic/first", own, start, steps=half)
    again = augmented(first, noisy, 1)
    found = {
        "clean_start": easy,
        "clean_labels": learned("clean_labels", clean, easy),
        "clean_difficulty": learned("clean_difficulty", clean, hard, harder(hard), half),
        "noisy_start": start,
        "noisy_labels": learned("noisy_labels", noisy, start),
        "noisy_static": learned("noisy_static", own, start),
        "noisy_dynamic": learned("noisy_dynamic", again, first, steps=half),
        "noisy_quality": learned("noisy_quality", noisy, start, quality),
        "noisy_shuffled": learned(
            "noisy_shuffled", noisy, start, each(lambda rng, w: rng.permutation(w), rngs, quality)
        ),
    }
    return writer.accuracies(found, test, _is_reference)


def _targets(rng, names, wrong):
    """A short form of each name, of the share `wrong` that of another name."""
    other = rng.permutation(names)
    return [
        (name + "=", _any_style(rng, another if rng.random() < wrong else name))
        for name, another in zip(names, other, strict=True)
    ]


def _any_style(rng, name):
    return _names.STYLES[rng.integers(len(_names.STYLES))](name)


def _is_reference(prompt, answer, text):
    del answer
    return text in [style(prompt[:-1]) for style in _names.STYLES]


def _evaluator(rng, names):
    """pairs -> `[N]` scores: how like an answer is to references, learned on names kept for that.

    The negatives are short forms of others, and right ones with a letter changed; an answer is held
    against one to all of the references.
    """

    def features(pairs):
        rows = []
        for prompt, text in pairs:
            references = [style(prompt[:-1]) for style in _names.STYLES]
            given = rng.choice(references, rng.integers(1, 4), replace=False).tolist()
            edits = min(answers.edit_distance(text, each) for each in given)
            rows.append([answers.rouge_l(text, given).max(), edits, len(text) == edits, edits == 0])
        return np.array(rows, float)

    right, wrong = _targets(rng, names, 0.0), _targets(rng, names, 1.0)
    changed = [(prompt, _changed(rng, text)) for prompt, text in _targets(rng, names, 0.0)]
    labels = np.repeat([1, 0, 0], len(names))
    fitted = LogisticRegression().fit(features([*right, *wrong, *changed]), labels)
    return lambda pairs: fitted.predict_proba(features(pairs))[:, 1]


def _changed(rng, text):
    place = rng.integers(len(text))
    return text[:place] + _names.CHARACTERS[rng.integers(26)] + text[place + 1 :]


def ranked_targets(bench):
    """Short names from a ranker alone: the best candidate is the target, the next ones are context.

    `weighted` multiplies a target's loss by the ranker's score of it; `shaped` writes the fifth of
    [0, 1] that a score is in before every candidate and, to be predicted first, before the target. At
    the test the best candidate is in the context, and `copied` is that candidate.

    Gabburo, Koncel-Kedziorski, Garg, Soldaini, Moschitti, "Knowledge Transfer from Answer Ranking to
    Answer Generation", 2022; there are five candidates of context, two here.
    """
    options = bench.options
    writer = Writer(bench, _names.CHARACTERS + "|01234", prompt=30, answer=8)
    sizes = (options.held, options.taught, options.validation, options.test)
    rngs, known, *rest = parts(bench, _names.names(12), *sizes)
    rankers = each(_ranker, rngs, known)
    taught, validation, test = (
        each(
            lambda rng, rank, own, names: [(n, rank(n, _candidates(rng, n, own))) for n in names],
            rngs, rankers, known, asked,
        )
        for asked in rest
    )  # fmt: skip
    scores = [[several[0][1] for _, several in own] for own in taught]
    copied = [
        np.mean([_likeness(n, _names.beginnings(n), several[0][0]) for n, several in own])
        for own in test
    ]
    found = {"copied": {"f1": np.array(copied)}}
    for name in ("unweighted", "weighted", "shaped", "both"):
        weighted, shaped = name in ("weighted", "both"), name in ("shaped", "both")
        pairs = [
            [(_context(n, several[1:3], shaped), _marked(several[0], shaped)) for n, several in own]
            for own in taught
        ]
        chosen, tested = (
            [[(_context(n, x[:2], shaped), _names.beginnings(n)) for n, x in own] for own in held]
            for held in (validation, test)
        )
        params = writer.teach(
            name, pairs, steps=options.steps, weights=scores if weighted else None,
            validation=chosen, right=_likeness,
        )  # fmt: skip
        found[name] = {"f1": writer.accuracy(params, tested, _likeness)}
    return found


def _candidates(rng, name, others):
    """Six short forms: letters of the name in order, those of others, one with a letter changed.

    The right one is among them for two names of three.
    """
    own = _names.beginnings(name)
    places = np.sort(rng.choice(len(name), len(own), replace=False))
    letters = "".join(name[k] for k in places).replace("_", "")
    wrong = [_names.beginnings(each) for each in rng.choice(others, 3)]
    first = own if rng.random() < 2 / 3 else _names.beginnings(rng.choice(others))
    return rng.permutation([first, _changed(rng, own), letters, *wrong]).tolist()


def _ranker(rng, names):
    """(name, candidates) -> [(candidate, score), ...], best first; learned on the names given to it."""

    def features(name, text):
        in_order = _names.in_sequence(_names.initials(name), text) / len(_names.words(name))
        return [answers.rouge_l(text, [name])[0], text[:1] == name[0], in_order]

    rows, labels = [], []
    for name in names:
        several = _candidates(rng, name, names)
        rows += [features(name, each) for each in several]
        labels += [each == _names.beginnings(name) for each in several]
    fitted = LogisticRegression().fit(np.array(rows, float), labels)

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
