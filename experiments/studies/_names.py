"""Names of functions of the standard library and short forms of them, made by rules."""

import collections
import re

import numpy as np

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


def by_module(modules: int, most: int) -> dict[str, list[str]]:
    """`{module: names}` of the modules with the most names that no other module has."""
    found = {
        file.removesuffix(".py"): set(re.findall(r"def ([a-z_0-9]{3,16})\(", source))
        for file, source in standard_library().items()
    }
    counts = collections.Counter(name for names in found.values() for name in names)
    own = {m: sorted(n for n in names if counts[n] == 1) for m, names in found.items()}
    longest = sorted(own, key=lambda module: -len(own[module]))[:modules]
    return {module: own[module][:most] for module in longest}


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


def short_forms(name: str) -> list[str]:
    """All that are right."""
    return [initials(name), beginnings(name), consonants(name)]


def shortened(rng, names, wrong: float = 0.0) -> list[tuple[str, str]]:
    """A short form of each name as a pair, of the share `wrong` that of another name."""
    return [
        (name + "=", short_forms(other if rng.random() < wrong else name)[rng.integers(3)])
        for name, other in zip(names, rng.permutation(names), strict=True)
    ]


def changed(rng, text: str) -> str:
    """A text with a letter changed."""
    place = rng.integers(len(text))
    return text[:place] + CHARACTERS[rng.integers(26)] + text[place + 1 :]


def candidates(rng, name: str, others) -> list[str]:
    """Six short forms: letters of the name in order, those of others, one with a letter changed.

    Its `beginnings` are among them for two names of three.
    """
    own = beginnings(name)
    places = np.sort(rng.choice(len(name), len(own), replace=False))
    letters = "".join(name[k] for k in places).replace("_", "")
    wrong = [beginnings(each) for each in rng.choice(others, 3)]
    first = own if rng.random() < 2 / 3 else beginnings(rng.choice(others))
    return rng.permutation([first, changed(rng, own), letters, *wrong]).tolist()


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
