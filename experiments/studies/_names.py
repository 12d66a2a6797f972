"""Names of functions of the standard library and short forms of them, made by rules."""

import re

from kdjax.data.text import standard_library

CHARACTERS = "abcdefghijklmnopqrstuvwxyz_="


def names(longest: int = 16) -> list[str]:
    """Names of two or three words, each once, in the order of the alphabet."""
    found = {
        name
        for source in standard_library().values()
        for name in re.findall(r"def ([a-z_]+)\(", source)
        if 2 <= len(words(name)) <= 3 and len(name) <= longest and name[0] != "_"
    }
    return sorted(found)


def words(name: str) -> list[str]:
    return [word for word in name.split("_") if word]


def initials(name: str) -> str:
    return "".join(word[0] for word in words(name))


def beginnings(name: str) -> str:
    return "".join(word[:2] for word in words(name))


def consonants(name: str) -> str:
    """The first letter of every word and up to two consonants behind it."""
    return "".join(
        word[0] + "".join(letter for letter in word[1:] if letter not in "aeiou")[:2]
        for word in words(name)
    )


STYLES = (initials, beginnings, consonants)


def quality(name: str, short: str) -> float:
    """In [0, 1]: initials that it has in order, letters in the name's order, two letters to a word."""
    own, length = words(name), 2 * len(words(name))
    in_order = in_sequence(initials(name), short) / len(own)
    of_name = in_sequence(short, name) / max(len(short), 1)
    return (in_order + of_name + max(0.0, 1 - abs(len(short) - length) / length)) / 3


def in_sequence(letters: str, text: str) -> int:
    """How many of the first letters follow each other in the text."""
    rest, found = iter(text), 0
    for letter in letters:
        if letter not in rest:
            break
        found += 1
    return found
