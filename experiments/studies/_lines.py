"""Lines of source code of the standard library, each once, and what is asked about them."""

import collections
import keyword
import re

from kdjax.data.text import standard_library


def in_words(count: int, longest: int) -> tuple[str, list[str]]:
    """Characters that stand for the most frequent words, and lines of six or more that have no others.

    A line is a text of such characters, four different ones at least.
    """
    split = [
        re.findall(r"\w+|[^\w\s]", line)
        for source in standard_library().values()
        for line in source.splitlines()
    ]
    counts = collections.Counter(word for line in split for word in line)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:count]
    letters = {word: chr(0x4E00 + k) for k, word in enumerate(ranked)}
    lines = {
        "".join(letters[word] for word in line)
        for line in split
        if 6 <= len(line) <= longest and len(set(line)) >= 4 and set(line) <= set(letters)
    }
    return "".join(letters.values()), sorted(lines)


def with_wrong_word(rng, line: str, words: str) -> str:
    """The line with one of its words, which are characters, that is another."""
    place = rng.integers(len(line))
    other = rng.choice([word for word in words if word != line[place]])
    return line[:place] + other + line[place + 1 :]


def with_triggers(longest: int, alphabet: set[str]) -> list[str]:
    """Lines of 8 to `longest` of these characters that have one to three triggers."""
    found = {
        line
        for source in standard_library().values()
        for line in (" ".join(line.split()) for line in source.splitlines())
        if 8 <= len(line) <= longest and set(line) <= alphabet
    }
    return sorted(line for line in found if 1 <= len(triggers(line)) <= 3)


def triggers(line: str) -> dict[str, str]:
    """`{trigger: kind}` in the line's order: the first two letters of words that are of a kind.

    Keywords are `k`, called functions `f`, attributes `a`.
    """
    found = {}
    for match in re.finditer(r"[a-z_]+", line):
        word, before, after = match[0], line[: match.start()], line[match.end() :]
        if keyword.iskeyword(word):
            found[word[:2]] = "k"
        elif after.startswith("("):
            found[word[:2]] = "f"
        elif before.endswith("."):
            found[word[:2]] = "a"
    return found
