"""Python sources as data: the words and lines in them, and the labels that their grammar gives."""

import ast
import collections
import io
import keyword
import re
import tokenize
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

# Numbers of kinds of characters: 0 is blank, 2 a keyword.
KINDS = {
    tokenize.NAME: 1,
    tokenize.OP: 3,
    tokenize.NUMBER: 4,
    tokenize.STRING: 5,
    tokenize.COMMENT: 6,
}
PADDING, FIRST, OTHER = range(3)


class Lines(NamedTuple):
    """Tokens `int32[N, L]` of lines, the document `int32[N]` that each is of, and what tokens say."""

    tokens: np.ndarray
    document: np.ndarray
    words: list[str]


def distinct_lines(documents: Sequence[str], *, words: int, length: int) -> Lines:
    """The lines of at least three words that one document alone has, each once, in sorted order.

    Args:
        documents: sources.
        words: how many have a token of their own, the most frequent ones; all others are `OTHER`.
        length: L; a line begins with `FIRST` and ends with `PADDING`, longer ones are left out.

    >>> lines = distinct_lines(["x = 1", "x += y\\nx = 1\\nif x == 1:"], words=2, length=6)
    >>> lines.words
    ['', 'first', 'other', '=', 'x']
    >>> lines.tokens.tolist(), lines.document.tolist()
    ([[1, 4, 2, 3, 2, 0]], [1])
    """
    split = [
        (number, tuple(re.findall(r"\w+|[^\w\s]", line)))
        for number, source in enumerate(documents)
        for line in source.splitlines()
    ]
    counts = collections.Counter(word for _, line in split for word in line)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    known = ["", "first", "other", *ranked]
    token = {word: number for number, word in enumerate(known)}
    owners: dict[tuple[str, ...], set[int]] = {}
    for number, line in split:
        if 3 <= len(line) < length:
            owners.setdefault(line, set()).add(number)
    own = sorted(line for line, numbers in owners.items() if len(numbers) == 1)
    tokens = np.full((len(own), length), PADDING, np.int32)
    for row, line in zip(tokens, own, strict=True):
        row[: len(line) + 1] = [FIRST, *(token.get(word, OTHER) for word in line)]
    return Lines(tokens, np.array([min(owners[line]) for line in own], np.int32), known)


def character_kinds(source: str) -> np.ndarray:
    """`int32[n]`: the kind of token that each of a source's n characters is of, by `KINDS`.

    >>> character_kinds("if x:  # y").tolist()
    [2, 2, 0, 1, 3, 0, 0, 6, 6, 6]
    """
    starts = np.cumsum([0, *map(len, io.StringIO(source))])
    kinds = np.zeros(len(source), np.int32)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = 2 if keyword.iskeyword(token.string) else KINDS.get(token.type, 0)
        first, last = (starts[row - 1] + column for row, column in (token.start, token.end))
        kinds[first:last] = kind
    return kinds


def documented_functions(source: str) -> Iterator[tuple[str, str]]:
    """Every function's (name with its parameters, first line of its documentation or nothing).

    >>> list(documented_functions("class A:\\n  def add(self, x):\\n    'Adds one.'"))
    [('add(x)', 'Adds one.')]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            line = (ast.get_docstring(node) or "").strip().partition("\n")[0]
            names = [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
            yield f"{node.name}({', '.join(names)})", line


def comment_words(source: str) -> list[str]:
    """The words of 2 to 12 letters in comments and triple-quoted strings, lower case, in order.

    >>> comment_words('x = "no"  # Yes, a lot.')
    ['yes', 'lot']
    """
    return [
        word
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT or token.string.startswith('"""')
        for word in re.findall(r"[a-z]{2,12}", token.string.lower())
    ]
