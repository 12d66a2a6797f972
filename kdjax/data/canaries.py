"""Canaries: secrets that are planted in a text, to ask later what a model of it knows of them."""

import re
from collections.abc import Sequence

import numpy as np


def planted(document: str, secrets: Sequence[str], rng) -> str:
    """The document with every secret as a line of its own, at lines that a NumPy generator draws.

    >>> planted("a\\nb", ["x=1", "y=2"], np.random.default_rng(0)).split("\\n")
    ['a', 'y=2', 'x=1', 'b']
    """
    lines = document.split("\n")
    places = np.sort(rng.integers(len(lines), size=len(secrets)))[::-1]
    for place, secret in zip(places, rng.permutation(secrets), strict=True):
        lines.insert(place, str(secret))
    return "\n".join(lines)


def digit_runs(document: str, *, shortest: int = 4) -> np.ndarray:
    """`float32[n]`: 1 for the characters of runs of at least so many digits, 0 for the others.

    >>> digit_runs("12+1234").tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    """
    found = np.zeros(len(document), np.float32)
    for run in re.finditer(f"[0-9]{{{shortest},}}", document):
        found[run.start() : run.end()] = 1
    return found
