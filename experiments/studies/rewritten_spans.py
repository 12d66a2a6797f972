"""Lines of source code whose spans an imperfect model filled, and a student that learns to rewrite them.

A line is a text whose characters stand for words: the most frequent ones of the standard library.
"""

import collections
import re

import numpy as np

from experiments.studies._answers import Writer, each, likeness, or_else, parts
from kdjax.data import plans
from kdjax.data.text import standard_library

MARKS = "<|>"  # the first span stands between the first two, a second between the last two


def span_rewriting(bench):
    """A small model goes on by infilling, or by rewriting fills: its own, a larger model's, random ones.

    Then all learn to mend lines with a wrong word, which is what they are tested by: F1 of a line's words
    in their order. `curriculum` has the larger model's fills, short and likely spans first.

    Zhou, Ge, Xu, Li, Wei, "Improving Sequence-to-Sequence Pre-training via Sequence Span Rewriting",
    2021, with fills drawn at top-p 0.9.
    """
    options = bench.options
    words, lines = _lines(options.words, options.longest)
    shape = {"prompt": 2 * options.longest + 5, "answer": options.longest + 1}
    small = Writer(bench, words + MARKS + "=", **shape)
    large = Writer(bench, words + MARKS + "=", **shape, width=options.large_width)
    sizes = (options.known, options.read, options.mended, options.validation, options.test)
    rngs, *rest = parts(bench, lines, *sizes)
    masked = (
        each(lambda rng, own: [(x, _spans(rng, len(x))) for x in own], rngs, y) for y in rest[:2]
    )
    wrong = (
        each(lambda rng, own: [(_wrong(rng, x, words) + "=", x) for x in own], rngs, y)
        for y in rest[2:]
    )
    (known, read), (mended, validation, test) = masked, wrong

    def filled(rng, own):
        return [
            _rewriting(x, s, ["".join(rng.choice(list(words), b - a)) for a, b in s])
            for x, s in own
        ]

    def rewriting(writer, params):
        """Pairs with the model's fills, easy ones first; lines without a whole fill are left out."""
        texts = writer.write(params, infilling, temperature=1.0, top_p=0.9)
        likely = writer.log_likelihoods(params, infilling)
        return or_else(each(_rewritten, read, texts, likely), infilling)

    begun_with, infilling = (
        [[_rewriting(x, spans, [""] * len(spans)) for x, spans in own] for own in y]
        for y in (known, read)
    )
    begun = small.teach("infilling/begun", begun_with, steps=options.begun_steps)
    teacher = large.teach("teacher/large", begun_with, steps=options.large_steps)
    of_teacher = rewriting(large, teacher)
    taught = {
        "infilling": infilling,
        "own": rewriting(small, begun),
        "teacher": of_teacher,
        "curriculum": of_teacher,
        "random": each(filled, rngs, read),
    }
    found = {}
    for name, pairs in taught.items():
        sampler = plans.opening(options.steps) if name == "curriculum" else plans.uniform
        params = small.teach(
            f"{name}/read", pairs, steps=options.steps, start=begun, sampler=sampler
        )
        found[name] = small.teach(
            name, mended, steps=options.mend_steps, start=params, validation=validation,
            right=likeness,
        )  # fmt: skip
    return {name: {"f1": small.accuracy(own, test, likeness)} for name, own in found.items()}


def _rewritten(own, texts, likely):
    """The pairs of lines with whole fills, by the ranks of their spans' lengths and surprise together."""
    rows = [
        (_rewriting(line, spans, fills), sum(b - a for a, b in spans), -value)
        for (line, spans), (text,), value in zip(own, texts, likely, strict=True)
        if (fills := _fills(text, spans))
    ]
    places = sum(np.argsort(np.argsort([row[k] for row in rows])) for k in (1, 2))
    return [rows[k][0] for k in np.argsort(places, kind="stable")]


def _lines(count, longest):
    """(characters of the most frequent words, lines of six or more that have no others).

    A line has four different words at least.
    """
    split = [
        re.findall(r"\w+|[^\w\s]", line)
        for source in standard_library().values()
        for line in source.splitlines()
    ]
    counts = collections.Counter(word for line in split for word in line)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:count]
    letters = {word: chr(0x4E00 + k) for k, word in enumerate(ranked)}
    whole = [
        line
        for line in split
        if 6 <= len(line) <= longest and len(set(line)) >= 4 and set(line) <= set(letters)
    ]
    return "".join(letters.values()), sorted({"".join(map(letters.get, line)) for line in whole})


def _wrong(rng, line, words):
    """The line with one word that is another."""
    place = rng.integers(len(line))
    other = rng.choice([word for word in words if word != line[place]])
    return line[:place] + other + line[place + 1 :]


def _spans(rng, length):
    """One or two (start, stop) that neither overlap nor touch, of max(1, Poisson(3)) words each.

    Together they leave half of the line.
    """
    count = min(2, max(1, round(0.075 * length) + int(rng.integers(-1, 2))))
    while True:
        sizes = np.minimum(np.maximum(1, rng.poisson(3, count)), max(1, length // (2 * count)))
        starts = np.sort(rng.integers(0, length, count))
        spans = [(int(a), int(a + n)) for a, n in zip(starts, sizes, strict=True)]
        ends = [-1, *(b for _, b in spans)]
        if spans[-1][1] <= length and all(
            a > end for (a, _), end in zip(spans, ends, strict=False)
        ):
            return spans


def _rewriting(line, spans, fills):
    """(the line with each span's fill between marks, the gold spans with a mark behind each).

    Empty fills are ordinary infilling.
    """
    shown, answer, last = "", "", 0
    for k, ((start, stop), fill) in enumerate(zip(spans, fills, strict=True)):
        shown += line[last:start] + MARKS[k] + fill + MARKS[k + 1]
        answer += line[start:stop] + MARKS[k + 1]
        last = stop
    return shown + line[last:] + "=", answer


def _fills(text, spans):
    """What an answer puts into each span, of up to twice as many words as the longest of them has.

    None where a mark is missing, or a span is empty or longer.
    """
    most = 2 * max(stop - start for start, stop in spans)
    form = "".join(f"([^{MARKS}=]{{1,{most}}})[{MARKS[k + 1]}]" for k in range(len(spans)))
    found = re.fullmatch(form, text)
    return list(found.groups()) if found else None
