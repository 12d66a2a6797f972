"""Answers with a score in [0, 1]: of an evaluator that has references, of a ranker of candidates."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies import _names
from experiments.studies._answers import Writer
from kdjax.data import answers


def evaluator_supervision(bench):
    """Short names, of which several are right: what an evaluator's score of an answer is used for.

    `static` and `dynamic` add the generator's own answers that score at least 1/2, drawn once or again
    half way; `difficulty` weighs a target by how bad the generator's present answer is, `quality` by
    the target's own score, `shuffled` by that of another. Rows go on from the same model for as many
    steps; `noisy` ones have learned from targets of which a share is another name's.
    """
    options = bench.options
    writer = Writer(bench, _names.CHARACTERS, prompt=17, answer=10)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    sizes = np.cumsum([options.held, options.taught, options.validation, options.test])
    parts = [np.split(rng.permutation(_names.names())[: sizes[-1]], sizes[:-1]) for rng in rngs]
    evaluators = [_evaluator(rng, own[0]) for rng, own in zip(rngs, parts, strict=True)]
    validation, test = ([[(n + "=", "") for n in own[k]] for own in parts] for k in (2, 3))
    prompts = [[n + "=" for n in own[1]] for own in parts]

    def scored(pairs):
        return [score(own) for score, own in zip(evaluators, pairs, strict=True)]

    def own_answers(params, temperature, draw=0):
        texts = writer.write(params, prompts, temperature=temperature, draw=draw)
        return [
            [(p, *x) for p, x in zip(own, several, strict=True)]
            for own, several in zip(prompts, texts, strict=True)
        ]

    def augmented(params, targets, draw):
        made = own_answers(params, 1.0, draw)
        return [
            a + [pair for pair, v in zip(b, values, strict=True) if v >= 0.5]
            for a, b, values in zip(targets, made, scored(made), strict=True)
        ]

    found, half = {}, options.steps // 2
    for setting, wrong in (("clean", 0.0), ("noisy", options.wrong)):
        targets = [_targets(rng, own[1], wrong) for rng, own in zip(rngs, parts, strict=True)]
        start = writer.teach(f"{setting}_start", targets, steps=options.start_steps)

        def learned(name, own, weights=None, steps=options.steps, begun=start, setting=setting):
            return writer.teach(
                f"{setting}_{name}", own, steps=steps, weights=weights, start=begun,
                validation=validation, right=_is_reference,
            )  # fmt: skip

        def harder(params):
            return [1 - values for values in scored(own_answers(params, 0.0))]

        found |= {f"{setting}_start": start, f"{setting}_labels": learned("labels", targets)}
        if setting == "clean":
            hard = learned("difficulty/first", targets, harder(start), half)
            found["clean_difficulty"] = learned("difficulty", targets, harder(hard), half, hard)
            continue
        own, quality = augmented(start, targets, 0), scored(targets)
        first = learned("dynamic/first", own, steps=half)
        second = augmented(first, targets, 1)
        others = [rng.permutation(weights) for rng, weights in zip(rngs, quality, strict=True)]
        found |= {
            "noisy_static": learned("static", own),
            "noisy_dynamic": learned("dynamic", second, steps=half, begun=first),
            "noisy_quality": learned("quality", targets, quality),
            "noisy_shuffled": learned("shuffled", targets, others),
        }
    return {
        name: {"accuracy": writer.accuracy(params, test, _is_reference)}
        for name, params in found.items()
    }


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
    [0, 1] that a score is in before every candidate and, to be predicted first, before the target.
    """
    options = bench.options
    writer = Writer(bench, _names.CHARACTERS + "|01234", prompt=30, answer=8)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    sizes = np.cumsum([options.held, options.taught, options.validation, options.test])
    parts = [np.split(rng.permutation(_names.names(12))[: sizes[-1]], sizes[:-1]) for rng in rngs]
    rankers = [_ranker(rng, own[0]) for rng, own in zip(rngs, parts, strict=True)]

    def ranked(k):
        """By seed and name: (name, [(candidate, score), ...]), the best first."""
        return [
            [(name, rank(name, _candidates(rng, name, own[0]))) for name in own[k]]
            for rng, rank, own in zip(rngs, rankers, parts, strict=True)
        ]

    asked, *held = (ranked(k) for k in (1, 2, 3))
    weights = [[several[0][1] for _, several in own] for own in asked]
    found = {}
    for name, (weighted, shaped) in {
        "unweighted": (False, False),
        "weighted": (True, False),
        "shaped": (False, True),
        "both": (True, True),
    }.items():
        taught = [
            [(_context(n, several[1:3], shaped), _marked(several[0], shaped)) for n, several in own]
            for own in asked
        ]
        validation, test = (
            [[(_context(n, several[:2], shaped), _names.beginnings(n)) for n, several in own] for own in x]
            for x in held
        )  # fmt: skip
        params = writer.teach(
            name, taught, steps=options.steps, weights=weights if weighted else None,
            validation=validation, right=_likeness,
        )  # fmt: skip
        found[name] = {"f1": writer.accuracy(params, test, _likeness)}
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
    del prompt
    return answers.rouge_l(text.lstrip("01234"), [answer])[0]
