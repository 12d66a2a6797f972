"""Two tokenizers over one text: bytes are counted exactly, and both end at every boundary."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from kdjax.data import alignment, text
from kdjax.losses import cross_tokenizer

TEXTS = [
    "def add(left, right):\n    return left + right\n" * 8,
    "# naïve café, 日本語 🙂\nprint('hello world')\n" * 8,
    "for name in names:\n    print(name)\n" * 8,
]
SMALL, LARGE = (text.train_tokenizer(TEXTS, size) for size in (270, 340))


def words():
    """A tokenizer of whole words that knows nothing of bytes."""
    vocabulary = {word: i for i, word in enumerate(["[unk]", "naïve", "café", "日本語", "x", ","])}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("written", TEXTS)
def test_the_bytes_of_byte_level_tokens_add_up(written):
    for tokenizer in (SMALL, LARGE):
        encoding = tokenizer.encode(written)
        ends = alignment.byte_ends(tokenizer, encoding, written)
        assert ends[-1] == len(written.encode()) and (np.diff(ends) > 0).all()
        for token, start, end in zip(encoding.ids, [0, *ends], ends, strict=False):
            assert tokenizer.decode([token]).encode() == written.encode()[start:end] or (
                "\ufffd" in tokenizer.decode([token])
            )


def test_other_tokenizers_end_where_their_offsets_say_in_bytes():
    written = "naïve café, 日本語 x"
    ends = alignment.byte_ends(words(), words().encode(written), written)
    wanted = [len(written[: written.index(w) + len(w)].encode()) for w in written.split()]
    wanted.insert(1, wanted[1] - 1)  # the comma is a word of its own
    assert ends.tolist() == wanted


def test_both_sides_of_a_segment_are_the_same_bytes():
    rows = alignment.aligned_rows(
        TEXTS, SMALL, LARGE, student_length=48, teacher_length=40, student_end=0, teacher_end=0
    )
    shared = 0
    for row in range(len(rows["tokens"])):
        stretches = []
        for prefix, tokenizer in (("", SMALL), ("teacher_", LARGE)):
            targets, mask, numbers = (
                rows[prefix + name][row] for name in ("targets", "mask", "alignment")
            )
            assert rows[prefix + "tokens"][row, 0] == 0
            np.testing.assert_array_equal(
                rows[prefix + "tokens"][row, 1:][mask[1:]], targets[:-1][mask[1:]]
            )
            assert (numbers[~mask] == -1).all()
            spelt = [tokenizer.id_to_token(t) for t in targets]
            stretches.append(
                {
                    n: "".join(s for s, k in zip(spelt, numbers, strict=True) if k == n)
                    for n in set(numbers[mask])
                }
            )
        assert stretches[0] == stretches[1]
        shared += len(stretches[0])
    # Not all one segment: the tokenizers agree about most boundaries.
    assert shared > rows["teacher_mask"].sum() / 2


def test_segments_are_those_that_the_loss_counts_on_the_device():
    rng = np.random.default_rng(0)
    ends = [np.sort(rng.choice(np.arange(1, 40), 12, replace=False)) for _ in range(2)]
    ends = [np.append(x, 40) for x in ends]
    kept = np.ones((1, 13), bool)
    on_device = cross_tokenizer.byte_segments(ends[0][None], ends[1][None], kept, kept)
    for mine, theirs in zip(alignment.shared_segments(*ends), on_device, strict=True):
        np.testing.assert_array_equal(mine, theirs[0])


def test_what_follows_the_last_shared_boundary_is_no_segment():
    student, teacher = alignment.shared_segments(np.array([2, 5]), np.array([2, 4, 6]))
    assert student.tolist() == [0, -1] and teacher.tolist() == [0, -1, -1]


def test_equal_sizes_are_not_equal_tokenizers():
    other = text.train_tokenizer([TEXTS[2]], 270)
    assert other.get_vocab_size() == SMALL.get_vocab_size() == 270
    with pytest.raises(ValueError, match="only a cross-tokenizer loss"):
        alignment.check_same_tokenizer(SMALL, other)
    alignment.check_same_tokenizer(SMALL, text.train_tokenizer(TEXTS, 270))


def test_lines_that_fit_in_no_row_are_left_out():
    long = "word " * 60 + "\nshort = 1\n"
    rows = alignment.aligned_rows(
        [long], SMALL, LARGE, student_length=16, teacher_length=16, student_end=0, teacher_end=0
    )
    assert SMALL.decode(rows["targets"][0][rows["mask"][0]].tolist()) == "short = 1\n"
    with pytest.raises(ValueError, match="no line fits"):
        alignment.aligned_rows(
            ["word " * 60], SMALL, LARGE, student_length=16, teacher_length=16,
            student_end=0, teacher_end=0,
        )  # fmt: skip
