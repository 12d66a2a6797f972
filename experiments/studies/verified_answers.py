"""Answers that a program can check: kept if they run, told apart by it, asked for where they fail."""

import functools
import itertools

import numpy as np

from experiments.studies import _expressions as arithmetic
from experiments.studies._answers import Writer, each, every, or_else, parts, same
from kdjax import methods
from kdjax.data import answers


def verified_translation(bench):
    """Infix to postfix: a model goes on with its own translations, those that evaluate right or any.

    Of `samples` candidates to an expression the first near duplicates are dropped too.

    Cassano et al., "Knowledge Transfer from High-Resource to Low-Resource Programming Languages for
    Code LLMs", 2024, with 50 candidates at temperature 0.8 and a ROUGE-L of 0.6.
    """
    options = bench.options
    _, gold, asked, *held = parts(bench, _postfix_task, "gold", "asked", "validation", "test")
    right = same(arithmetic.postfix_value)

    def passing(own, texts):
        found = []
        for pair, several in zip(own, texts, strict=True):
            kept = [text for text in several if right(*pair, text)]
            found += [(pair[0], kept[i]) for i in answers.distinct(kept, options.threshold)]
        return found

    def first(own, texts, kept):
        return [(p, several[0]) for (p, _), several in zip(own, texts, strict=True)][: len(kept)]

    writer = Writer(
        bench, arithmetic.CHARACTERS, prompt=14, answer=8, held=held, metrics={"accuracy": right}
    )
    start = writer.teach("seed", gold)
    sampled = writer.write(start, asked, samples=options.samples, temperature=0.8)
    verified = each(passing, asked, sampled)
    unverified = each(first, asked, sampled, verified)
    rows = {"gold": gold, "unverified": unverified, "verified": verified}
    return writer.compare({name: or_else(x, gold) for name, x in rows.items()}, start=start)


def _postfix_task(rng):
    tree = arithmetic.drawn(rng)
    return arithmetic.infix(tree) + "=", arithmetic.postfix(tree)


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
    skewed, even = functools.partial(arithmetic.problem, shares=options.shares), arithmetic.problem
    rngs, pool, *held = parts(bench, {"pool": skewed, "validation": even, "test": even})
    taken = each(list.__add__, *held)
    held = [every(arithmetic.solved, own) for own in held]
    writer = Writer(bench, arithmetic.CHARACTERS, prompt=5, answer=4, held=held)
    start = writer.teach("start", every(arithmetic.solved, pool))
    for name in ("random", "hard", "hard_easy", "shuffled"):
        params, cache = start, pool
        for turn in range(options.rounds):
            hard = each(_hard, cache, writer.write(params, cache))
            if name == "shuffled":
                hard = each(lambda rng, own: rng.permutation(own), rngs, hard)
            new = each(functools.partial(_new_tasks, options, name), rngs, cache, hard, taken)
            cache = each(list.__add__, cache, new)
            label = f"{name}/{turn}" if turn < options.rounds - 1 else name
            params = writer.teach(label, every(arithmetic.solved, new), start=params)
    return writer.measured()


def _hard(tasks, texts):
    """`[N]`: whether a text scores a point or more below the teacher, who has all ten."""
    scores = [_score(task, text) for task, (text,) in zip(tasks, texts, strict=True)]
    return answers.is_hard(10.0, scores)


def _score(task, text):
    right = arithmetic.solved(task)[1]
    return 10 * np.mean([a == b for a, b in itertools.zip_longest(text, right)])


def _new_tasks(options, kind, rng, pool, hard, taken=()):
    """A round of tasks in neither `pool` nor `taken`: all random or hard, or half hard, half easy."""
    difficult, easy = ([x for x, h in zip(pool, hard, strict=True) if h == w] for w in (1, 0))
    rare = 1 / np.array([1 + sum(x[-3] == operator for x in pool) for operator in "+-*"])
    there, made = {*pool, *taken}, {}
    for tries in itertools.count(1):
        if len(made) == options.round:
            return list(made)
        scarce = tries > 50 * options.round  # of some kind there is none left of its length
        shares, digits = options.shares, 0
        if kind != "random":
            of_hard = kind == "hard" or 2 * len(made) < options.round
            seeds = (difficult if of_hard else easy) or pool
            seed = seeds[rng.integers(len(seeds))]
            shares = np.eye(3)["+-*".index(seed[-3])] if of_hard else rare / rare.sum()
            digits = 0 if scarce else len(seed) - 3
        task = arithmetic.problem(rng, shares, digits)
        if task not in there:
            made[task] = None


def two_dialects(bench):
    """Code for an expression in postfix, of which there is clean data, and in prefix, where it is wrong.

    A prompt is the expression and the dialect. An agent that learned both translates the clean data's
    expressions into the poor dialect; a test runner tells what passes. Every student goes on from the
    agent with as many pairs; the last learns from a passing and a failing answer of its own to each.

    Yang et al., "Multi-Agent Collaboration for Multilingual Code Instruction Tuning", 2025.
    """
    options = bench.options
    sizes = ("asked", "pairs", "pairs", "validation", "test")
    rngs, source, trees, others, *held = parts(bench, arithmetic.drawn, *sizes)
    asked, *held = (every(_poor, own) for own in (source, *held))
    clean = every(lambda x: (arithmetic.infix(x) + ">", arithmetic.postfix(x)), source)
    right = same(arithmetic.prefix_value)

    def with_wrong(rng, own, other):
        wrong = rng.random(len(own)) < options.wrong
        return [_poor(a, b if w else a) for a, b, w in zip(own, other, wrong, strict=True)]

    def told_apart(pair, several):
        own = [(pair[0], x) for x in dict.fromkeys(several)]
        return [[x for x in own if right(*pair, x[1]) == passes] for passes in (True, False)]

    def judged(params, draw):
        """By seed and expression: the pairs of its own answers that pass, and those that fail."""
        texts = writer.write(params, asked, samples=options.samples, temperature=0.8, draw=draw)
        return each(lambda own, several: each(told_apart, own, several), asked, texts)

    def mixed(rng, *own):
        return [x[k] for x in own for k in rng.choice(len(x), options.pairs // 3)]

    writer = Writer(
        bench, arithmetic.CHARACTERS + "<>", prompt=14, answer=8, held=held,
        metrics={"accuracy": right},
    )  # fmt: skip
    noisy = each(with_wrong, rngs, trees, others)
    agent = writer.teach("agent", each(list.__add__, noisy, clean))
    made = judged(agent, 0)
    unverified = [[x for both in own for several in both for x in several] for own in made]
    verified = or_else([[x for passing, _ in own for x in passing] for own in made], noisy)
    memory = [
        [own[i] for i in answers.distinct([x for _, x in own], options.threshold)]
        for own in verified
    ]
    for name, second, third in (
        ("poor_only", noisy, noisy),
        ("unverified", clean, unverified),
        ("verified", clean, verified),
        ("memory", clean, memory),
    ):
        writer.teach(name, each(mixed, rngs, noisy, second, third), start=agent)
    start = writer.taught["verified"]
    pairs = [[(a[0], b[0]) for a, b in own if a and b] for own in judged(start, 1)]
    pairs = or_else(pairs, [[own[:1] * 2] for own in noisy])
    rows = {"longer": {}, "dpo": {"method": methods.dpo(), "judged": pairs}}
    return writer.compare(rows, pairs=verified, start=start, steps=options.preference_steps)


def _poor(asked, answered=None):
    return arithmetic.infix(asked) + "<", arithmetic.prefix(answered or asked)
