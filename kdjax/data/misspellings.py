"""Words with mistakes that rules make, as letters whose words end with the number of their rule."""

from collections.abc import Iterable

import numpy as np

LETTERS = " abcdefghijklmnopqrstuvwxyz"
VOWELS = "aeiou"
RULES = 6


def misspelt(word: str, rule: int) -> str:
    """A word with the mistake of a rule, 1 to 6; itself where the rule finds nothing to spoil.

    >>> [misspelt("caching", rule) for rule in range(1, 7)]
    ['cacching', 'cching', 'cahcing', 'ceching', 'cachings', 'kakhing']
    """
    first = next((i for i, letter in enumerate(word) if letter in VOWELS), None)
    middle = len(word) // 2
    if rule == 1:  # a letter twice
        return word[:middle] + word[middle - 1] + word[middle:]
    if rule == 2 and first is not None:  # no vowel
        return word[:first] + word[first + 1 :]
    if rule == 3:  # two letters in the other order
        return word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    if rule == 4 and first is not None:  # another vowel
        return word[:first] + VOWELS[(VOWELS.index(word[first]) + 1) % 5] + word[first + 1 :]
    if rule == 5:  # a needless ending
        return word + "s"
    if rule == 6:  # k for c
        return word.replace("c", "k")
    return word


def tagged_letters(
    words: Iterable[str], length: int, *, rng=None, share: float = 0.0, most: int | None = None
) -> dict[str, np.ndarray]:
    """Windows `[N, length]` of words side by side, their `inputs`, `labels` and `mask`.

    Args:
        words: of two small letters at least.
        length: of a window; the last letters that fill none are left out.
        rng: a NumPy generator that draws which words are misspelt, and by which rule.
        share: of the words; a rule may find nothing to spoil.
        most: how many windows are kept at most, the first ones.

    Returns:
        `inputs`: `LETTERS` by number, a space behind every word. `mask`: where a word ends. `labels`:
        the rule of the word that ends, 0 for none.

    >>> rows = tagged_letters(["see", "no"], 3, rng=np.random.default_rng(0), share=1.0)
    >>> rows["inputs"].tolist(), rows["labels"].tolist()
    ([[19, 9, 5], [0, 14, 0]], [[0, 0, 4], [0, 2, 0]])
    """
    spelt, rules = [], []
    for word in words:
        rule = 0 if rng is None or rng.random() > share else int(rng.integers(1, RULES + 1))
        spelt.append(misspelt(word, rule))
        rules.append(0 if spelt[-1] == word else rule)
    letters = np.array([LETTERS.index(letter) for letter in " ".join([*spelt, ""])], np.int32)
    ends = np.append(letters[1:] == 0, False)
    labels = np.zeros_like(letters)
    labels[ends] = rules
    size = len(letters) // length * length
    columns = {"inputs": letters, "labels": labels, "mask": ends}
    return {name: column[:size].reshape(-1, length)[:most] for name, column in columns.items()}
