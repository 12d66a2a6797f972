"""Lines of source code whose spans an imperfect model filled, and a student that learns to rewrite them.

A line is a text whose characters stand for words: the most frequent ones of the standard library.
"""

import re

import numpy as np

from experiments.studies import _lines
from experiments.studies._answers import Writer, each, every, likeness, or_else, parts
from kdjax.data import plans

MARKS = "<|>"  # the first span stands between the first two, a second between the last two


def span_rewriting(bench):
    """A small model goes on by infilling, or by rewriting fills: its own, a larger model's, random ones.

    Then all learn to mend lines with a wrong word, which is what they are tested by: F1 of a line's words
    in their order. `curriculum` has the larger model's fills, short and likely spans first.

    Zhou, Ge, Xu, Li, Wei, "Improving Sequence-to-Sequence Pre-training via Sequence Span Rewriting",
    2021, with fills drawn at top-p 0.9.
    """
    options = bench.options
    words, lines = _lines.in_words(options.words, options.longest)
    rngs, *rest = parts(bench, lines, "known", "read", "mended", "validation", "test")
    known, read = (every(_masked, rngs, part) for part in rest[:2])

    def mending(rng, line):
        return _lines.with_wrong_word(rng, line, words) + "=", line

    mended, *held = (every(mending, rngs, part) for part in rest[2:])
    shape = {"prompt": 2 * options.longest + 5, "answer": options.longest + 1}
    small = Writer(bench, words + MARKS + "=", **shape, held=held, metrics={"f1": likeness})
    large = Writer(bench, words + MARKS + "=", **shape, width=options.large_width)
    begun_with, infilling = (every(lambda masked: _rewriting(*masked), x) for x in (known, read))

    def at_random(rng, masked):
        return _rewriting(*masked, ["".join(rng.choice(list(words), b - a)) for a, b in masked[1]])

    def rewriting(writer, params):
        """Pairs with the model's fills, easy ones first; lines without a whole fill are left out."""
        texts = writer.write(params, infilling, temperature=1.0, top_p=0.9)
        likely = writer.log_likelihoods(params, infilling)
        return or_else(each(_rewritten, read, texts, likely), infilling)

    begun = small.teach("infilling/begun", begun_with)
    of_teacher = rewriting(large, large.teach("teacher/large", begun_with))
    taught = {
        "infilling": infilling,
        "own": rewriting(small, begun),
        "teacher": of_teacher,
        "curriculum": of_teacher,
        "random": every(at_random, rngs, read),
    }
    for name, pairs in taught.items():
        sampler = plans.opening(options.steps) if name == "curriculum" else plans.uniform
        params = small.teach(f"{name}/read", pairs, start=begun, sampler=sampler)
        small.teach(name, mended, start=params, steps=options.mend_steps)
    return small.measured()


def _masked(rng, line):
    return line, _spans(rng, len(line))


def _rewritten(own, texts, likely):
    """The pairs of lines with whole fills, by the ranks of their spans' lengths and surprise together."""
    rows = [
        (_rewriting(line, spans, fills), sum(b - a for a, b in spans), -value)
        for (line, spans), (text,), value in zip(own, texts, likely, strict=True)
        if (fills := _fills(text, spans))
    ]
    places = sum(np.argsort(np.argsort([row[k] for row in rows])) for k in (1, 2))
    return [rows[k][0] for k in np.argsort(places, kind="stable")]


def _spans(rng, length):
    """One or two (start, stop) that neither overlap nor touch, of max(1, Poisson(3)) words each.

    Together they leave half of the line.
    """
    count = min(2, max(1, round(0.075 * length) + int(rng.integers(-1, 2))))
    while True:
        sizes = np.minimum(np.maximum(1, rng.poisson(3, count)), max(1, length // (2 * count)))
        starts = np.sort(rng.integers(0, length, count))
        stops = starts + sizes
        if stops[-1] <= length and (starts[1:] > stops[:-1]).all():
            return list(zip(starts.tolist(), stops.tolist(), strict=True))


def _rewriting(line, spans, fills=("", "")):
    """(the line with each span's fill between marks, the gold spans with a mark behind each).

    Empty fills are ordinary infilling.
    """
    shown, answer, last = "", "", 0
    for k, ((start, stop), fill) in enumerate(zip(spans, fills, strict=False)):
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
