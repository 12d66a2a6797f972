"""Rows of pairs, likeness of answers and judgements on them, against independent restatements."""

import itertools

import numpy as np
import pytest

from kdjax.data import answers

OWN = answers.Characters("abc=", prompt=4, answer=3)
RNG = np.random.default_rng(0)
TEXTS = ["".join(RNG.choice(list("abc"), size=n)) for n in RNG.integers(1, 7, 12)]


def common(a, b):
    """The longest common subsequence, by trying all of them."""
    return max(
        len(each)
        for n in range(len(a) + 1)
        for each in itertools.combinations(a, n)
        if subsequence(each, b)
    )


def subsequence(letters, text):
    rest = iter(text)
    return all(letter in rest for letter in letters)


def distance(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(
        distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0])
    )


def test_columns_put_the_answer_behind_the_prompt_and_count_it_alone():
    found = OWN.columns([("ab=", "c"), ("a=", "")])
    np.testing.assert_array_equal(found["tokens"], [[0, 1, 2, 4, 3, 0], [0, 0, 1, 4, 0, 0]])
    np.testing.assert_array_equal(found["targets"], [[1, 2, 4, 3, 0, 0], [0, 1, 4, 0, 0, 0]])
    np.testing.assert_array_equal(found["mask"], [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(found["segments"], [[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(found["positions"], [[0, 0, 1, 2, 3, 4], [0, 0, 0, 1, 2, 3]])
    tokens, mask = OWN.prompts(["ab=", "a="])
    np.testing.assert_array_equal(tokens, found["tokens"][:, :4])
    np.testing.assert_array_equal(mask, found["segments"][:, :4])
    assert OWN.texts(found["targets"][:, 3:]) == ["c", ""]
    unended = OWN.columns([("a=", "abc")])
    assert OWN.texts(unended["targets"][:, 3:]) == ["abc"] and unended["mask"].sum() == 3


@pytest.mark.parametrize("pair", [("abcab", "a"), ("a", "abca"), ("", "a"), ("x", "a")])
def test_pairs_that_do_not_fit_are_refused(pair):
    with pytest.raises(ValueError, match="must be up to"):
        OWN.columns([pair])


def test_rouge_l_and_edit_distance_are_those_of_all_alignments():
    for text in TEXTS[:5]:
        expected = [2 * common(text, x) / max(len(text) + len(x), 1) for x in TEXTS]
        np.testing.assert_allclose(answers.rouge_l(text, TEXTS), expected)
        assert [answers.edit_distance(text, x) for x in TEXTS] == [distance(text, x) for x in TEXTS]
    words = answers.rouge_l(["a", "bc"], [["a", "b", "bc"]])
    np.testing.assert_allclose(words, 2 * 2 / 5)


def test_distinct_keeps_the_first_of_what_is_alike_and_knows_what_is_there():
    kept = answers.distinct(TEXTS, 0.6)
    taken = [TEXTS[k] for k in kept]
    for a, b in itertools.combinations(taken, 2):
        assert 2 * common(a, b) <= 0.6 * (len(a) + len(b))
    for k in set(range(len(TEXTS))) - set(kept):
        before = [x for j, x in zip(kept, taken, strict=True) if j < k]
        assert max(answers.rouge_l(TEXTS[k], before)) > 0.6
    assert answers.distinct(TEXTS, 0.6, kept=TEXTS) == []


def test_the_farthest_pair_is_that_of_all_pairs():
    far = answers.farthest_pair(["aa", "ab", "bbbb", "a"])
    assert far == (0, 2)


def test_what_a_judge_owes_to_the_place_cancels():
    quality = {"x": 2.0, "y": 1.0}

    def judge(place):
        return lambda a, b: 0.5 + 0.1 * (quality[a] - quality[b]) + place

    for place in (-0.3, 0.0, 0.3):
        np.testing.assert_allclose(answers.order_averaged(judge(place), "x", "y"), 0.6)
        np.testing.assert_allclose(answers.order_averaged(judge(place), "y", "x"), 0.4)


def test_gaps_lengths_votes_and_buckets():
    np.testing.assert_array_equal(answers.is_hard([10, 10, 10], [9.5, 9, 2]), [False, True, True])
    assert answers.similar_lengths("abcde", "abcd") is False
    assert answers.similar_lengths("abcdef", "abcde") and answers.similar_lengths("ab", "cd")
    assert answers.weighted_vote(["a", "b", "b"]) == "b"
    assert answers.weighted_vote(["a", "b", "b"], [0.9, 0.2, 0.3]) == "a"
    assert answers.weighted_vote(["a", "b"]) == "a"
    np.testing.assert_array_equal(
        answers.score_buckets(np.array([0.0, 0.19, 0.2, 0.99, 1.0]), 5), [0, 0, 1, 4, 4]
    )
