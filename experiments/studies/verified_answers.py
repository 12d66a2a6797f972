"""Answers that a program can check: kept if they run, told apart by it, asked for where they fail."""

import numpy as np

from experiments.studies import _expressions as arithmetic
from experiments.studies._answers import Writer, or_else
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
            name,
            or_else(taught, gold),
            steps=options.steps,
            start=start,
            validation=validation,
            right=right,
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
    verified = or_else(
        [[(prompt, x) for prompt, passing, _ in own for x in passing] for own in made], noisy
    )
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
    pairs = or_else(pairs, [[[own[0]] * 2] for own in noisy])
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
