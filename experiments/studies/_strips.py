"""Strips of handwritten digits side by side, in orders that a grammar allows, and their transcripts."""

import numpy as np

from kdjax.data import answers

FRAMES = 8  # columns of a digit


def grammar(rng, successors: int) -> list[np.ndarray]:
    """The digits that may come after each of the ten."""
    return [rng.permutation(10)[:successors] for _ in range(10)]


def transcripts(rng, allowed, options, count: int) -> np.ndarray:
    """Digits 1 to 10 of texts, `int32[count, longest]`, 0 where there are no more."""
    found = np.zeros((count, options.longest), np.int32)
    for row in found:
        digit = rng.integers(10)
        for place in range(rng.integers(options.shortest, options.longest + 1)):
            row[place] = digit + 1
            digit = rng.choice(allowed[digit])
    return found


def strips(rng, data, allowed, options, part: str, count: int) -> dict[str, np.ndarray]:
    """Frames `[count, 8 longest, height]` of a part's digits, their `labels` and which there are, `mask`.

    `data` are `Images`; every digit has noise of `options.noise` on it.
    """
    labels, numbers = transcripts(rng, allowed, options, count), getattr(data.parts, part)
    by_digit = [numbers[data.label[numbers] == digit] for digit in range(10)]
    height = data.image.shape[1]
    frames = np.zeros((count, options.longest, FRAMES, height), np.float32)
    for row, digits in zip(frames, labels, strict=True):
        for place, digit in enumerate(digits[digits > 0]):
            shown = data.image[rng.choice(by_digit[digit - 1]), ..., 0]
            row[place] = shown.T + options.noise * rng.normal(size=shown.shape)
    return {"frames": frames.reshape(count, -1, height), "labels": labels, "mask": labels > 0}


def error_rate(logits, labels) -> np.ndarray:
    """Edits from the best path of a CTC to the transcript, per token: `[S, N, T, V]` -> `[S]`."""
    wanted = [row[row > 0].tolist() for row in labels]
    edits = [
        sum(answers.edit_distance(_collapsed(a), b) for a, b in zip(paths, wanted, strict=True))
        for paths in np.asarray(logits).argmax(-1)
    ]
    return np.array(edits) / (labels > 0).sum()


def _collapsed(path):
    """The tokens of a path of a CTC: repeats are one, blanks none."""
    return [int(x) for x, before in zip(path, [0, *path[:-1]], strict=True) if x and x != before]
