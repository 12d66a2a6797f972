"""Prompts of several lengths as one array."""

from collections.abc import Sequence

import numpy as np


def left_padded(
    prompts: Sequence[Sequence[int]], *, length: int | None = None, padding: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts that end together: `(tokens, mask)`, both `[B, P]`, the mask false on what is padding.

    Args:
        prompts: B sequences of tokens.
        length: P; None is the longest prompt. A fixed one keeps a program from being made anew.
        padding: the token that fills; nothing reads it.

    Raises:
        ValueError: no prompts, an empty one, one longer than `length`.

    >>> left_padded([[5, 6], [7]])
    (array([[5, 6],
           [0, 7]], dtype=int32), array([[ True,  True],
           [False,  True]]))
    """
    if not prompts:
        raise ValueError("there are no prompts")
    lengths = [len(prompt) for prompt in prompts]
    if min(lengths) < 1:
        raise ValueError(f"prompt {lengths.index(0)} is empty: give it a token that begins texts")
    length = max(lengths) if length is None else length
    if max(lengths) > length:
        number = lengths.index(max(lengths))
        raise ValueError(f"prompt {number} has {lengths[number]} tokens, length is {length}")
    tokens = np.full((len(prompts), length), padding, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt
        mask[row, length - len(prompt) :] = True
    return tokens, mask
