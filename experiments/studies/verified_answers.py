"""Answers that a program can check: kept if they run, told apart by it, asked for where they fail."""

import numpy as np

from experiments.studies import _expressions as arithmetic
from experiments.studies._answers import Writer, each, or_else, parts, unseen
from kdjax import methods
from kdjax.data import answers


def verified_translation(bench):
    """Infix to postfix: a model goes on with its own translations, those that evaluate right or any.

    Of `samples` candidates to an expression the first near duplicates are dropped too.

    Cassano et al., "Knowledge Transfer from High-Resource to Low-Resource Programming Languages for
    Code LLMs", 2024, with 50 candidates at temperature 0.8 and a ROUGE-L of 0.6.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS, prompt=14, answer=8)
    sizes = (options.gold, options.asked, options.validation, options.test)
    _, gold, asked, validation, test = parts(bench, _postfix_task, *sizes)

    def right(prompt, answer, text):
        return arithmetic.postfix_value(text) == arithmetic.postfix_value(answer)

    def passing(own, texts):
        found = []
        for pair, several in zip(own, texts, strict=True):
            kept = [text for text in several if right(*pair, text)]
            found += [(pair[0], kept[i]) for i in answers.distinct(kept, options.threshold)]
        return found

    def first(own, texts, kept):
        return [(p, several[0]) for (p, _), several in zip(own, texts, strict=True)][: len(kept)]

    start = writer.teach("seed", gold, steps=options.seed_steps)
    sampled = writer.write(start, asked, samples=options.samples, temperature=0.8)
    kept = each(passing, asked, sampled)
    rest = {"steps": options.steps, "start": start, "validation": validation, "right": right}
    taught = {"gold": gold, "unverified": each(first, asked, sampled, kept), "verified": kept}
    found = {name: writer.teach(name, or_else(x, gold), **rest) for name, x in taught.items()}
    return writer.accuracies({"seed": start, **found}, test, right)


def _postfix_task(rng):
    tree = _tree(rng)
    return arithmetic.infix(tree) + "=", arithmetic.postfix(tree)


def _tree(rng):
    return arithmetic.drawn(rng, rng.integers(2, 5))


def adversarial_rounds(bench):
    """Arithmetic that is asked for where the student fails: rounds of new prompts, by its last answers.

    The referee's scores are exact: 10 for the teacher, ten times the share of right characters for the
    student. A hard prompt asks for a new one of its operator and length, an easy one for a rare
    operator; a prompt that there is already is drawn again. The new prompts alone are learned next.
    Values are written units first: the other way round a pool of this size teaches nothing new.

    Jiang, Chan, Chen, Wang, "Lion: Adversarial Distillation of Closed-Source Large Language Model",
    2023, with a pool of 52,000 and three rounds of 3,000 hard and 3,000 easy prompts.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS, prompt=5, answer=4)
    rngs, pool = parts(bench, lambda rng: _task(rng, options.shares), options.pool)
    there = [set(own) for own in pool]
    validation, test = (
        each(
            lambda *own, n=n: [_answered(x) for x in unseen(own[0], _even_task, n, own[1])],
            rngs,
            there,
        )
        for n in (options.validation, options.test)
    )
    held = [own - set(tasks) for own, tasks in zip(there, pool, strict=True)]

    def grown(rng, own, texts, held, name):
        scores = [_score(task, text) for task, (text,) in zip(own, texts, strict=True)]
        hard = answers.is_hard(np.full(len(own), 10.0), scores)
        hard = rng.permutation(hard) if name == "shuffled" else hard
        return own + _new_tasks(rng, own, hard, name, options, held)

    learned = [[_answered(task) for task in own] for own in pool]
    found = {"start": writer.teach("start", learned, steps=options.start_steps)}
    for name in ("random", "hard", "hard_easy", "shuffled"):
        params, cache = found["start"], pool
        for turn in range(options.rounds):
            texts = writer.write(params, cache)
            cache = each(grown, rngs, cache, texts, held, [name] * len(rngs))
            new = [[_answered(task) for task in own[-options.round :]] for own in cache]
            label = name if turn == options.rounds - 1 else f"{name}/{turn}"
            params = writer.teach(
                label, new, steps=options.steps, start=params, validation=validation
            )
        found[name] = params
    return writer.accuracies(found, test)


def _task(rng, shares, digits=0):
    """One or two digits, an operator by its share, one digit."""
    most = 10 ** (digits or rng.integers(1, 3))
    return f"{rng.integers(most // 10, most)}{'+-*'[rng.choice(3, p=shares)]}{rng.integers(10)}="


def _even_task(rng):
    return _task(rng, np.ones(3) / 3)


def _answered(task):
    """The task and its value, units first."""
    left, right = task[:-2], task[-2]
    return task, str(arithmetic.value((left[-1], left[:-1], right)))[::-1]


def _score(task, text):
    right = _answered(task)[1]
    length = max(len(text), len(right))
    return 10 * np.mean(
        [a == b for a, b in zip(text.ljust(length), right.ljust(length), strict=True)]
    )


def _new_tasks(rng, pool, hard, name, options, held=frozenset()):
    """A round of tasks in neither `pool` nor `held`: all random or hard, or half hard and half easy."""
    difficult, easy = ([each for each, h in zip(pool, hard, strict=True) if h == w] for w in (1, 0))
    operators = np.array([["+-*".index(each[-3]) for each in pool]]) == np.arange(3)[:, None]
    rare = 1 / (1 + operators.sum(axis=1))
    made: dict[str, None] = {}
    tries = 0
    while len(made) < options.round:
        tries += 1
        scarce = tries > 50 * options.round  # of some kind there is none left of its length
        if name == "random":
            task = _task(rng, options.shares)
        elif name == "hard" or 2 * len(made) < options.round:
            seed = (difficult or pool)[rng.integers(len(difficult or pool))]
            kind = np.eye(3)["+-*".index(seed[-3])]
            task = _task(rng, kind, digits=0 if scarce else len(seed) - 3)
        else:
            seed = (easy or pool)[rng.integers(len(easy or pool))]
            task = _task(rng, rare / rare.sum(), digits=0 if scarce else len(seed) - 3)
        if task not in pool and task not in held:
            made[task] = None
    return list(made)


def two_dialects(bench):
    """Code for an expression in postfix, of which there is clean data, and in prefix, where it is wrong.

    A prompt is the expression and the dialect. An agent that learned both translates the clean data's
    expressions into the poor dialect; a test runner tells what passes. Every student goes on from the
    agent with as many pairs; the last learns from a passing and a failing answer of its own to each.

    Yang et al., "Multi-Agent Collaboration for Multilingual Code Instruction Tuning", 2025.
    """
    options = bench.options
    writer = Writer(bench, arithmetic.CHARACTERS + "<>", prompt=14, answer=8)
    sizes = (options.asked, options.pairs, options.pairs, options.validation, options.test)
    rngs, source, trees, others, *held = parts(bench, _tree, *sizes)
    asked, validation, test = ([[_poor(x, x) for x in own] for own in y] for y in (source, *held))
    clean = [[(arithmetic.infix(x) + ">", arithmetic.postfix(x)) for x in own] for own in source]

    def right(prompt, answer, text):
        return arithmetic.prefix_value(text) == arithmetic.prefix_value(answer)

    def with_wrong(rng, own, other):
        wrong = rng.random(len(own)) < options.wrong
        return [_poor(b if w else a, a) for a, b, w in zip(own, other, wrong, strict=True)]

    def judged(params, draw):
        """By seed and expression: [(prompt, text), ...] that pass, and those that fail."""
        texts = writer.write(params, asked, samples=options.samples, temperature=0.8, draw=draw)

        def told_apart(pair, several):
            own = [(pair[0], x, right(*pair, x)) for x in dict.fromkeys(several)]
            return [[(p, x) for p, x, passes in own if passes == w] for w in (True, False)]

        return each(lambda own, several: each(told_apart, own, several), asked, texts)

    noisy = each(with_wrong, rngs, trees, others)
    rest = {"validation": validation, "right": right}
    agent = writer.teach("agent", each(list.__add__, noisy, clean), steps=options.agent_steps)
    made = judged(agent, 0)
    verified = or_else([[x for passing, _ in own for x in passing] for own in made], noisy)
    memory = [
        [own[i] for i in answers.distinct([x for _, x in own], options.threshold)]
        for own in verified
    ]
    found = {"agent": agent}
    for name, third in {
        "poor_only": noisy,
        "unverified": [[x for both in own for several in both for x in several] for own in made],
        "verified": verified,
        "memory": memory,
    }.items():
        mixed = each(
            lambda rng, *own: [x[k] for x in own for k in rng.choice(len(x), options.pairs // 3)],
            rngs, noisy, noisy if name == "poor_only" else clean, third,
        )  # fmt: skip
        found[name] = writer.teach(name, mixed, steps=options.steps, start=agent, **rest)
    start = found["verified"]
    pairs = [[(a[0], b[0]) for a, b in own if a and b] for own in judged(start, 1)]
    rows = writer.candidates(start, or_else(pairs, [[own[:1] * 2] for own in noisy]))
    rest |= {"steps": options.preference_steps, "start": start}
    found["longer"] = writer.teach("longer", verified, **rest)
    found["dpo"] = writer.teach("dpo", verified, method=methods.dpo(), candidates=rows, **rest)
    return writer.accuracies(found, test, right)


def _poor(answered, asked):
    return arithmetic.infix(asked) + "<", arithmetic.prefix(answered)
