"""Answers that a program can check: kept if they run, told apart by it, asked for where they fail."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from experiments.studies import _expressions as arithmetic
from experiments.studies._answers import Writer
from kdjax import methods
from kdjax.data import answers


def verified_translation(bench):
    """Infix to postfix: a model goes on with its own translations, those that evaluate right or any.

    Of `samples` candidates to an expression the first near duplicates are dropped too.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS, prompt=14, answer=8)

    def right(prompt, answer, text):
        return arithmetic.postfix_value(text) == arithmetic.postfix_value(answer)

    def pairs(seed, count):
        rng = np.random.default_rng([seed, count])
        trees = [arithmetic.drawn(rng, rng.integers(2, 5)) for _ in range(count)]
        return [(arithmetic.infix(tree) + "=", arithmetic.postfix(tree)) for tree in trees]

    gold, asked, validation, test = (
        [pairs(seed, count) for seed in bench.seeds]
        for count in (options.gold, options.asked, options.validation, options.test)
    )
    start = writer.teach("seed", gold, steps=options.seed_steps)
    prompts = [[prompt for prompt, _ in own] for own in asked]
    sampled = writer.write(start, prompts, samples=options.samples, temperature=0.8)
    kept, unchecked = [], []
    for own, texts in zip(asked, sampled, strict=True):
        passing = [
            [text for text in several if right(*pair, text)]
            for pair, several in zip(own, texts, strict=True)
        ]
        kept.append(
            [
                (prompt, several[i])
                for (prompt, _), several in zip(own, passing, strict=True)
                for i in answers.distinct(several, options.threshold)
            ]
        )
        first = [(prompt, several[0]) for (prompt, _), several in zip(own, texts, strict=True)]
        unchecked.append(first[: len(kept[-1])])
    found = {"seed": start}
    for name, taught in (("gold", gold), ("unverified", unchecked), ("verified", kept)):
        found[name] = writer.teach(
            name, taught, steps=options.steps, start=start, validation=validation, right=right
        )
    return {
        name: {"accuracy": writer.accuracy(params, test, right)} for name, params in found.items()
    }


def adversarial_rounds(bench):
    """Arithmetic that is asked for where the student fails: rounds of new prompts, by its last answers.

    The referee's scores are exact: 10 for the teacher, ten times the share of right characters for the
    student. A hard prompt asks for a new one of its operator and length, an easy one for a rare
    operator; a prompt that there is already is drawn again. The new prompts alone are learned next.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS, prompt=5, answer=4)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    pool = [[_task(rng, options.shares) for _ in range(options.pool)] for rng in rngs]
    validation, test = (
        [[_answered(_task(rng, np.eye(3)[k % 3])) for k in range(count)] for rng in rngs]
        for count in (options.validation, options.test)
    )
    start = writer.teach(
        "start", [[_answered(each) for each in own] for own in pool], steps=options.start_steps
    )
    found = {"start": start}
    for name in ("random", "hard", "hard_easy", "shuffled"):
        params, cache = start, [list(own) for own in pool]
        for turn in range(options.rounds):
            written, taught = writer.write(params, cache), []
            for seed, (own, texts) in enumerate(zip(cache, written, strict=True)):
                rng = np.random.default_rng([seed, turn])
                scores = [_score(each, text) for each, (text,) in zip(own, texts, strict=True)]
                hard = answers.is_hard(np.full(len(own), 10.0), scores)
                hard = rng.permutation(hard) if name == "shuffled" else hard
                new = _new_tasks(rng, own, hard, name, options)
                taught.append([_answered(each) for each in new])
                own.extend(new)
            params = writer.teach(
                name if turn == options.rounds - 1 else f"{name}/{turn}", taught,
                steps=options.steps, start=params, validation=validation,
            )  # fmt: skip
        found[name] = params
    return {name: {"accuracy": writer.accuracy(params, test)} for name, params in found.items()}


def _task(rng, shares, digits=0):
    """One or two digits, an operator by its share, one digit."""
    most = 10 ** (digits or rng.integers(1, 3))
    return f"{rng.integers(most // 10, most)}{'+-*'[rng.choice(3, p=shares)]}{rng.integers(10)}="


def _answered(task):
    left, right = task[:-2], task[-2]
    return task, str(arithmetic.value((left[-1], left[:-1], right)))


def _score(task, text):
    right = _answered(task)[1]
    length = max(len(text), len(right))
    return 10 * np.mean(
        [a == b for a, b in zip(text.ljust(length), right.ljust(length), strict=True)]
    )


def _new_tasks(rng, pool, hard, name, options):
    """A round of tasks that the pool does not have: all random or hard, or half hard and half easy."""
    difficult, easy = ([each for each, h in zip(pool, hard, strict=True) if h == w] for w in (1, 0))
    operators = np.array([["+-*".index(each[-3]) for each in pool]]) == np.arange(3)[:, None]
    rare = 1 / (1 + operators.sum(axis=1))
    made: dict[str, None] = {}
    while len(made) < options.round:
        if name == "random":
            task = _task(rng, options.shares)
        elif name == "hard" or 2 * len(made) < options.round:
            seed = (difficult or pool)[rng.integers(len(difficult or pool))]
            task = _task(rng, np.eye(3)["+-*".index(seed[-3])], digits=len(seed) - 3)
        else:
            seed = (easy or pool)[rng.integers(len(easy or pool))]
            task = _task(rng, rare / rare.sum(), digits=len(seed) - 3)
        if task not in pool:
            made[task] = None
    return list(made)


def two_dialects(bench):
    """Code for an expression in postfix, of which there is clean data, and in prefix, where it is wrong.

    A prompt is the expression and the dialect. An agent that learned both translates the clean data's
    expressions into the poor dialect; a test runner tells what passes. Every student goes on from the
    agent with as many pairs; the last learns from a passing and a failing answer of its own to each.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS + "<>", prompt=14, answer=8)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    size = options.pairs // 3

    def right(prompt, answer, text):
        return arithmetic.prefix_value(text) == arithmetic.prefix_value(answer)

    def poor(count, wrong=0.0):
        found = []
        for rng in rngs:
            own, others = ([_tree(rng) for _ in range(count)] for _ in range(2))
            found.append(
                [
                    _poor(b if rng.random() < wrong else a, a)
                    for a, b in zip(own, others, strict=True)
                ]
            )
        return found

    def judged(params, draw):
        """By seed and expression: the prompt, the answers that pass and those that fail."""
        prompts = [[prompt for prompt, _ in own] for own in asked]
        texts = writer.write(params, prompts, samples=options.samples, temperature=0.8, draw=draw)
        return [
            [
                (
                    pair[0],
                    *(
                        [x for x in dict.fromkeys(several) if right(*pair, x) == w]
                        for w in (True, False)
                    ),
                )
                for pair, several in zip(own, written, strict=True)
            ]
            for own, written in zip(asked, texts, strict=True)
        ]

    sources = [[_tree(rng) for _ in range(options.asked)] for rng in rngs]
    asked = [[_poor(x, x) for x in own] for own in sources]
    clean = [[(arithmetic.infix(x) + ">", arithmetic.postfix(x)) for x in own] for own in sources]
    noisy, validation, test = (
        poor(options.pairs, options.wrong),
        poor(options.validation),
        poor(options.test),
    )
    checked = {"validation": validation, "right": right}
    both = [own + others for own, others in zip(noisy, clean, strict=True)]
    agent = writer.teach("agent", both, steps=options.agent_steps)
    made = judged(agent, 0)
    verified = [[(prompt, x) for prompt, passing, _ in own for x in passing] for own in made]
    translated = {
        "poor_only": noisy,
        "unverified": [
            [(prompt, x) for prompt, *both in own for several in both for x in several]
            for own in made
        ],
        "verified": verified,
        "memory": [
            [own[i] for i in answers.distinct([x for _, x in own], options.threshold)]
            for own in verified
        ],
    }
    found = {"agent": agent}
    for name, third in translated.items():
        parts = [noisy, noisy if name == "poor_only" else clean, third]
        taught = [
            [own[k] for own in several for k in rng.choice(len(own), size)]
            for rng, *several in zip(rngs, *parts, strict=True)
        ]
        found[name] = writer.teach(name, taught, steps=options.steps, start=agent, **checked)
    start = found["verified"]
    pairs = [
        [
            [(prompt, passing[0]), (prompt, failing[0])]
            for prompt, passing, failing in own
            if passing and failing
        ]
        for own in judged(start, 1)
    ]
    rest = {"steps": options.preference_steps, "start": start, **checked}
    found["longer"] = writer.teach("longer", verified, **rest)
    found["dpo"] = writer.teach(
        "dpo", verified, method=methods.dpo(), candidates=writer.candidates(start, pairs), **rest
    )
    return {name: {"accuracy": writer.accuracy(each, test, right)} for name, each in found.items()}


def _tree(rng):
    return arithmetic.drawn(rng, rng.integers(2, 5))


def _poor(answered, asked):
    return arithmetic.infix(asked) + "<", arithmetic.prefix(answered)


def negative_data(bench):
    """Sums of two numbers with the carry written down; the teacher forgets it in some of the traces.

    `uniform` and `calibrated` learn the right traces and those that the `positive` model writes, from
    its distributions; the latter more where a model of the wrong traces would differ. `majority` and
    `weighted` are votes of the calibrated model's samples, the latter by a ranker of the traces.
    """
    options = bench.options
    writer = Writer(bench, "0123456789+=,;", prompt=6, answer=10)
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]

    def right(prompt, answer, text):
        return text.partition(";")[2] == answer.partition(";")[2]

    def questions(count):
        return [rng.integers(10, 100, (count, 2)) for rng in rngs]

    asked = questions(options.traces)
    forgets = [rng.random(options.traces) < options.wrong for rng in rngs]
    traces = [
        [_sum(*q, w) for q, w in zip(x, f, strict=True)]
        for x, f in zip(asked, forgets, strict=True)
    ]
    truth = [[_sum(*q) for q in own] for own in asked]
    correct = [
        [right(*b, a[1]) for a, b in zip(*both, strict=True)]
        for both in zip(traces, truth, strict=True)
    ]
    split = [
        [
            [pair for pair, c in zip(own, ok, strict=True) if c == wanted]
            for own, ok in zip(traces, correct, strict=True)
        ]
        for wanted in (True, False)
    ]
    validation, test = (
        [[_sum(*q) for q in own] for own in questions(n)]
        for n in (options.validation, options.test)
    )
    rest = {"steps": options.steps, "validation": validation, "right": right}
    found = {"all": writer.teach("all", traces, **rest)}
    found["positive"] = positive = writer.teach("positive", split[0], **rest)
    negative = writer.teach("calibrated/negative", split[1], steps=options.steps)
    written = writer.write(positive, [[p for p, _ in own] for own in traces], temperature=1.0)
    chains = [
        a + [(p, x) for (p, _), (x,) in zip(b, w, strict=True)]
        for a, b, w in zip(split[0], traces, written, strict=True)
    ]
    for name in ("uniform", "calibrated"):
        method = methods.negative_calibrated(calibrated=name == "calibrated")
        memory = {"positive": positive, "negative": negative}
        found[name] = writer.teach(name, chains, method=method, memory=memory, **rest)
    measured = {
        name: {"accuracy": writer.accuracy(params, test, right)} for name, params in found.items()
    }

    def features(pairs):
        """By seed: mean log-likelihoods of a character under both models."""
        both = [writer.log_likelihoods(params, pairs) for params in (positive, negative)]
        lengths = [np.array([len(x) + 1 for _, x in own]) for own in pairs]
        return [np.stack([a, b], 1) / n[:, None] for a, b, n in zip(*both, lengths, strict=True)]

    rankers = [
        LogisticRegression().fit(x, y) for x, y in zip(features(traces), correct, strict=True)
    ]
    sampled = writer.write(
        found["calibrated"],
        [[p for p, _ in own] for own in test],
        samples=options.samples,
        temperature=1.0,
    )
    flat = [
        [(p, x) for (p, _), several in zip(own, texts, strict=True) for x in several]
        for own, texts in zip(test, sampled, strict=True)
    ]
    scores = [
        r.predict_proba(x)[:, 1].reshape(-1, options.samples)
        for r, x in zip(rankers, features(flat), strict=True)
    ]
    for name, weigh in (("majority", np.ones_like), ("weighted", np.asarray)):
        measured[name] = {
            "accuracy": [
                np.mean(
                    [
                        right(
                            *pair,
                            ";"
                            + answers.weighted_vote(
                                [x.partition(";")[2] for x in several], weigh(w)
                            ),
                        )
                        for pair, several, w in zip(own, texts, given, strict=True)
                    ]
                )
                for own, texts, given in zip(test, sampled, scores, strict=True)
            ]
        }
    return measured


def _sum(first, second, forgets=False):
    """A question and its trace: sum of the units, sum of the tens with the carry, the answer."""
    units = first % 10 + second % 10
    tens = first // 10 + second // 10 + (0 if forgets else units // 10)
    return f"{first}+{second}=", f"{units},{tens};{tens}{units % 10}"
