"""Two tokenizers over one text: whether they are the same, and where both end a token.

Notation: a stretch of text has L_s tokens of the student and L_t of the teacher; `ends` are the bytes
of the text (UTF-8) up to and with each token. A segment is a stretch between two neighbouring byte
positions at which both sides end a token. All of it is computed on the host, once, and goes into the
batch as integers: what is compiled has one shape.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import decoders

# Words, digits, indentation, punctuation, what is not ASCII: what tokenizers differ in.
PROBE = (
    "Def main(argv: list[str]) -> int:\n    return 3.14159 + 1_000_000  # naïve café\n\n\t"
    'if x != None: print("hello world", 2026)\n«¡Ünïcödé!» 日本語 Привет 🙂\r\n    '
)


def same_tokenizer(student, teacher, text: str = PROBE) -> bool:
    """Whether both give the same numbers for a text: equal sizes say nothing about that.

    >>> from kdjax.data.text import train_tokenizer
    >>> left, right = (train_tokenizer([word * 9], 260) for word in ("hello ", "print "))
    >>> left.get_vocab_size() == right.get_vocab_size(), same_tokenizer(left, right)
    (True, False)
    """
    sides = (student.encode(text, add_special_tokens=False).ids for student in (student, teacher))
    left, right = sides
    return left == right


def check_same_tokenizer(student, teacher) -> None:
    """Refuses two tokenizers for which a class of one is another class of the other.

    Raises:
        ValueError: what they make of the probe text differs.
    """
    if not same_tokenizer(student, teacher):
        raise ValueError(
            f"the tokenizers of student ({student.get_vocab_size()} tokens) and teacher "
            f"({teacher.get_vocab_size()}) encode a probe text differently: their classes mean "
            "different things, and only a cross-tokenizer loss compares them"
        )


def byte_ends(tokenizer, encoding, text: str) -> np.ndarray:
    """The byte after each token of an encoding of the text: `int64[n]`, never decreasing.

    For a byte-level tokenizer exactly. For others from the offsets in characters: tokens that are
    parts of one character all end with it.
    """
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        # One character of the spelling stands for one byte.
        return np.cumsum([len(token) for token in encoding.tokens])
    sizes = [len(character.encode()) for character in text]
    until = np.concatenate([[0], np.cumsum(sizes)])
    ends = until[[end for _, end in encoding.offsets]]
    return np.maximum.accumulate(ends) if len(ends) else ends


def shared_segments(student_ends, teacher_ends) -> tuple[np.ndarray, np.ndarray]:
    """The number of the segment that each token is of, for both sides; -1 behind the last boundary.

    Tokens that end at the byte of the one before (they are empty) belong to the segment that ends
    there.

    >>> student, teacher = shared_segments(np.array([2, 4, 6]), np.array([1, 4, 6]))
    >>> student.tolist(), teacher.tolist()
    ([0, 0, 1], [0, 0, 1])
    """
    boundaries = np.intersect1d(student_ends, teacher_ends)
    numbers = (np.searchsorted(boundaries, ends) for ends in (student_ends, teacher_ends))
    left, right = (np.where(n < len(boundaries), n, -1).astype(np.int32) for n in numbers)
    return left, right


def aligned_rows(
    texts: Sequence[str],
    student,
    teacher,
    *,
    student_length: int,
    teacher_length: int,
    student_end: int,
    teacher_end: int,
) -> dict[str, np.ndarray]:
    """Rows of the same text for two tokenizers, a stretch of whole lines in each.

    Args:
        texts: documents, cut at line ends; a line that fits in no row is left out.
        student, teacher: the tokenizers.
        student_length: L_s, the tokens of a row.
        teacher_length: L_t.
        student_end: the end token, which stands before a stretch.
        teacher_end: likewise.

    Returns:
        `tokens`, `targets`, `mask` and `alignment` `[N, L_s]`, and `teacher_tokens`,
        `teacher_targets`, `teacher_mask` and `teacher_alignment` `[N, L_t]`. An alignment is the
        segment of the target, -1 where there is none.

    Raises:
        ValueError: no line of any text fits in a row.
    """
    sides = (student, student_length, student_end), (teacher, teacher_length, teacher_end)
    columns: dict[str, list[np.ndarray]] = {}
    for text in texts:
        stretches = _stretches(text, sides)
        encodings = [_encoded(side[0], stretches) for side in sides]
        for stretch, *pair in zip(stretches, *encodings, strict=True):
            if any(len(e.ids) > side[1] for e, side in zip(pair, sides, strict=True)):
                continue  # longer as a whole than its lines were one by one
            ends = [byte_ends(side[0], e, stretch) for side, e in zip(sides, pair, strict=True)]
            numbers = shared_segments(*ends)
            for prefix, (_, length, end), encoding, number in zip(
                ("", "teacher_"), sides, pair, numbers, strict=True
            ):
                count = len(encoding.ids)
                row = {"tokens": end, "targets": end, "mask": False, "alignment": -1}
                given = {
                    "tokens": [end, *encoding.ids[:-1]],
                    "targets": encoding.ids,
                    "mask": np.ones(count, bool),
                    "alignment": number,
                }
                for name, fill in row.items():
                    column = np.full(length, fill, bool if name == "mask" else np.int32)
                    column[:count] = given[name]
                    columns.setdefault(prefix + name, []).append(column)
    if not columns:
        raise ValueError(f"no line fits in {student_length} and {teacher_length} tokens")
    return {name: np.stack(rows) for name, rows in columns.items()}


def _encoded(tokenizer, texts):
    """The encodings of texts in which nothing is a special token."""
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = True
    try:
        return tokenizer.encode_batch(texts, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = before


def _stretches(text, sides):
    """The text as runs of whole lines, whose tokens line by line fit in a row of both sides."""
    lines = text.splitlines(keepends=True)
    sizes = np.array([[len(e.ids) for e in _encoded(side[0], lines)] for side in sides])
    limits = np.array([side[1] for side in sides])
    runs: list[str] = []
    run, used = "", np.zeros(len(sides), int)
    for line, size in zip(lines, sizes.T, strict=True):
        if run and (used + size > limits).any():
            runs.append(run)
            run, used = "", np.zeros(len(sides), int)
        if (size <= limits).all():
            run, used = run + line, used + size
    return [*runs, run] if run else runs
