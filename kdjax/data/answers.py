"""Prompts and answers in characters, and what is done on the host to answers that a model wrote.

Notation: a pair is (prompt, answer), two strings. A row holds one pair: the prompt ends at column P,
padded on the left, the answer begins there and ends with token 0; so answers of a batch begin
together, as `kdjax.generate` writes them.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

END = 0  # ends an answer, and fills what is padding
Pair = tuple[str, str]


class Characters(NamedTuple):
    """Rows of pairs: `alphabet` has tokens 1, 2, ...; prompts of up to P characters, answers of up to A.

    An answer of A characters has no room for its end.

    >>> own = Characters("ab+", prompt=3, answer=3)
    >>> own.columns([("a+", "b")])["targets"]
    array([[1, 3, 2, 0, 0]], dtype=int32)
    >>> own.texts(np.array([[2, 0, 0], [1, 3, 1]]))
    ['b', 'a+a']
    """

    alphabet: str
    prompt: int
    answer: int

    @property
    def vocabulary(self) -> int:
        return len(self.alphabet) + 1

    def tokens(self, text: str) -> list[int]:
        return [self.alphabet.index(each) + 1 for each in text]

    def prompts(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, mask), `[N, P]`, padded on the left."""
        tokens = np.full((len(texts), self.prompt), END, np.int32)
        for i, text in enumerate(texts):
            tokens[i, self.prompt - len(text) :] = self._tokens("prompt", text, self.prompt)
        return tokens, tokens != END

    def columns(self, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
        """The columns `[N, P + A - 1]` that `kdjax.methods.sequence` reads; the answer alone counts."""
        prompts, mask = self.prompts([prompt for prompt, _ in pairs])
        answers = np.full((len(pairs), self.answer), END, np.int32)
        counted = np.zeros((len(pairs), self.prompt + self.answer - 1), bool)
        for i, (_, text) in enumerate(pairs):
            answers[i, : len(text)] = self._tokens("answer", text, self.answer)
            counted[i, self.prompt - 1 : self.prompt + len(text)] = True
        whole = np.concatenate([prompts, answers], axis=1)
        padding = (~mask).sum(axis=1, keepdims=True).astype(np.int32)
        places = np.arange(whole.shape[1] - 1, dtype=np.int32)[None] - padding
        return {
            "tokens": whole[:, :-1],
            "targets": whole[:, 1:],
            "mask": counted,
            "segments": (places >= 0).astype(np.int32),
            "positions": np.maximum(places, 0),
        }

    def texts(self, tokens) -> list[str]:
        """What tokens `[N, A]` say, up to the end."""
        letters = [self.alphabet[k - 1] if k else "\0" for k in range(self.vocabulary)]
        return ["".join(letters[k] for k in row).partition("\0")[0] for row in np.asarray(tokens)]

    def _tokens(self, what, text, most):
        if (
            not (what == "answer" or text)
            or len(text) > most
            or not set(text) <= set(self.alphabet)
        ):
            raise ValueError(
                f"{what} must be up to {most} characters of {self.alphabet!r}, got {text!r}"
            )
        return self.tokens(text)


# --- Likeness -------------------------------------------------------------------------------------


def rouge_l(text: Sequence, others: Sequence[Sequence]) -> np.ndarray:
    """F1 of the longest common subsequence with each of the others, `[N]`; 0 where one is empty.

    >>> rouge_l("abcd", ["abd", "xyz"]).round(3).tolist()
    [0.857, 0.0]

    Reference:
        Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.
    """
    lengths = np.array([len(other) for other in others], int)
    # Every other text is a column: one pass over the table of the longest serves all of them.
    best = np.zeros((lengths.max(initial=0) + 1, len(lengths)), int)
    padded = [[*other, *[None] * (len(best) - 1 - len(other))] for other in others]
    columns = np.array(padded, dtype=object).reshape(len(lengths), -1).T
    for each in text:
        before, best = best, best.copy()
        for j, column in enumerate(columns):
            longer = np.where(column == each, before[j] + 1, before[j + 1])
            best[j + 1] = np.maximum(longer, best[j])
    common = best[lengths, np.arange(len(lengths))]
    return 2 * common / np.maximum(len(text) + lengths, 1)


def distinct(texts: Sequence[Sequence], threshold: float, kept: Sequence[Sequence] = ()):
    """Numbers of the texts whose ROUGE-L with `kept` and with all taken before stays in the threshold.

    Cassano et al., "Knowledge Transfer from High-Resource to Low-Resource Programming Languages for
    Code LLMs", 2024, drop what is above 0.6; Jiang et al., "Lion: Adversarial Distillation of
    Closed-Source Large Language Model", 2023, above 0.7.

    >>> distinct(["abcd", "abce", "xyz"], 0.6)
    [0, 2]
    """
    there, taken = list(kept), []
    for number, text in enumerate(texts):
        if not there or rouge_l(text, there).max() <= threshold:
            there.append(text)
            taken.append(number)
    return taken


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Insertions, deletions and substitutions from one to the other.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def farthest_pair(texts: Sequence[Sequence]) -> tuple[int, int]:
    """Numbers i < j of the two texts with the largest edit distance, the first such pair."""
    return max(
        itertools.combinations(range(len(texts)), 2),
        key=lambda pair: edit_distance(texts[pair[0]], texts[pair[1]]),
    )


# --- Judgement ------------------------------------------------------------------------------------


def order_averaged(judge: Callable[..., float], first, second) -> float:
    """How much a judge prefers the first, in [0, 1], asked in both orders.

    `judge(a, b)` is the probability of answering that the one it is shown first is better; what it
    owes to the place cancels.

    >>> order_averaged(lambda a, b: 0.9, "x", "y")
    0.5
    """
    return 0.5 * (judge(first, second) + 1 - judge(second, first))


def similar_lengths(first: Sequence, second: Sequence, *, low=0.8, high=1.2) -> bool:
    """Whether the first is between `low` and `high` times as long as the second, and the reverse."""
    long, short = max(len(first), len(second)), min(len(first), len(second))
    return long <= high * short and short >= low * long


def is_hard(teacher_scores, student_scores, *, threshold=1.0) -> np.ndarray:
    """Where the student's score is at least `threshold` below the teacher's: Lion's hard prompts."""
    return np.asarray(teacher_scores) - np.asarray(student_scores) >= threshold


def weighted_vote(answers: Sequence[str], weights: Sequence[float] | None = None) -> str:
    """The answer whose weights add up to the most, the earliest of several; 1 each by default.

    >>> weighted_vote(["7", "7", "8"], [0.2, 0.3, 0.9])
    '8'
    """
    given = [1.0] * len(answers) if weights is None else weights
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, given, strict=True):
        totals[answer] = totals.get(answer, 0.0) + weight
    return max(totals, key=lambda answer: totals[answer])


def score_buckets(scores, count: int) -> np.ndarray:
    """Which of `count` equal parts of [0, 1] each score is in; 1 is in the last.

    >>> score_buckets([0.0, 0.5, 1.0], 5).tolist()
    [0, 2, 4]
    """
    return np.floor(np.clip(scores, 0, 1 - 1e-6) * count).astype(int)
