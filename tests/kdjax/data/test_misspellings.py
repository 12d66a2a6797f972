"""Words with mistakes, each rule's in its own way, and the labels of the letters that they end with."""

import numpy as np

from kdjax.data import misspellings


def test_rules_spoil_a_word_each_in_its_own_way():
    assert [misspellings.misspelt("caching", rule) for rule in range(7)] == [
        "caching", "cacching", "cching", "cahcing", "ceching", "cachings", "kakhing",
    ]  # fmt: skip
    assert misspellings.misspelt("by", 2) == "by"


def test_labels_stand_at_the_end_of_misspelt_words():
    words = ["caching", "dog", "cat"] * 20
    rng = np.random.default_rng(0)
    rows = misspellings.tagged_letters(words, 8, rng=rng, share=1.0)
    assert rows["inputs"].shape[1] == 8
    assert ((rows["labels"] > 0) <= rows["mask"]).all() and (rows["labels"] > 0).sum() > 30
    letters, labels = rows["inputs"].ravel(), rows["labels"].ravel()
    spelt = "".join(misspellings.LETTERS[letter] for letter in letters).split(" ")[:-1]
    rules = labels[rows["mask"].ravel()]
    for word, found, rule in zip(words, spelt, rules, strict=False):
        assert found == misspellings.misspelt(word, rule) and (found != word) == (rule > 0)


def test_nothing_is_misspelt_without_a_generator():
    rows = misspellings.tagged_letters(["one", "two"], 4)
    assert "".join(misspellings.LETTERS[i] for i in rows["inputs"].ravel()) == "one two "
    assert rows["mask"].tolist() == [[False, False, True, False]] * 2 and not rows["labels"].any()
