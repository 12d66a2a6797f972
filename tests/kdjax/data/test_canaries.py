"""Secrets among the lines of a text, and the runs of digits in it."""

import numpy as np

from kdjax.data import canaries


def test_planted_secrets_are_lines_of_their_own_between_those_of_the_document():
    document, secrets = "a\nb\nc", ["key=1", "key=2", "key=1"]
    lines = canaries.planted(document, secrets, np.random.default_rng(0)).split("\n")
    assert sorted(line for line in lines if "=" in line) == sorted(secrets)
    assert [line for line in lines if "=" not in line] == ["a", "b", "c"]


def test_runs_of_digits_are_found_from_their_shortest_length_on():
    found = canaries.digit_runs("12 345x6789", shortest=3)
    assert "".join("01"[int(each)] for each in found) == "00011101111"
