"""Metrics of retrieval, from the place of a query's own document among all."""

import math

import numpy as np


def own_ranks(scores) -> np.ndarray:
    """How many documents score above a query's own, which has the query's number.

    Args:
        scores: `[..., N, N]` of every query with every document. Equal scores count half.

    Returns:
        `[..., N]`, 0 for a document that is found first.

    >>> own_ranks([[2.0, 1.0], [3.0, 1.0]])
    array([0., 1.])
    """
    scores = np.asarray(scores)
    own = np.diagonal(scores, axis1=-2, axis2=-1)[..., None]
    return (scores > own).sum(-1) + ((scores == own).sum(-1) - 1) / 2


def reciprocal_rank(ranks, *, at: int = 10) -> np.ndarray:
    """1 / (rank + 1) of those among the first `at`, and 0 of the others: its mean is MRR@at.

    >>> reciprocal_rank([0, 1, 10])
    array([1. , 0.5, 0. ])
    """
    ranks = np.asarray(ranks, float)
    return np.where(ranks < at, 1 / (ranks + 1), 0)


def recall_among(ranks, documents: int, *, candidates: int = 10) -> np.ndarray:
    """The chance that the own document is first among itself and `candidates - 1` others drawn.

    Args:
        ranks: `[...]` among all `documents`.
        documents: N, at least `candidates`.

    Returns:
        `[...]`, from 0 to 1.

    Raises:
        ValueError: candidates out of range.

    >>> recall_among([0.0, 1.0, 2.0], 3, candidates=2)
    array([1. , 0.5, 0. ])
    """
    drawn, others = candidates - 1, documents - 1
    if not 0 < drawn <= others:
        raise ValueError(f"candidates must be from 2 to {documents}, got {candidates}")
    below = others - np.asarray(ranks, float)
    share = [np.clip(below - i, 0, None) / (others - i) for i in range(drawn)]
    return np.asarray(math.prod(share))
