"""Every example in a docstring of kdjax runs and prints what it says, numbers to rounding."""

import doctest
import importlib
import pkgutil
import re

import jax
import numpy as np
import pytest

import kdjax

MODULES = ["kdjax"] + [m.name for m in pkgutil.walk_packages(kdjax.__path__, "kdjax.")]
NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?(?![\w.])")


class ToRounding(doctest.OutputChecker):
    """The last digit of a float32 differs between processors; what surrounds it does not."""

    def check_output(self, want, got, optionflags):
        if super().check_output(want, got, optionflags):
            return True
        if re.sub(r"\s", "", NUMBER.sub("#", want)) != re.sub(r"\s", "", NUMBER.sub("#", got)):
            return False
        wanted, given = (np.array(NUMBER.findall(text), float) for text in (want, got))
        return np.allclose(given, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(checker=ToRounding(), optionflags=doctest.NORMALIZE_WHITESPACE)
    with jax.numpy_rank_promotion("raise"):
        for example in doctest.DocTestFinder(exclude_empty=True).find(module):
            runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("Array([0.1438, 2.])", "Array([0.14379999, 2.0000002])", True),
        ("Array([0.1438])", "Array([0.1439])", False),
        ("Array([1., 2.])", "Array([1.])", False),
        ("Array([1.], dtype=float32)", "Array([1.], dtype=float64)", False),
        ("(3, 4)", "(3, 5)", False),
    ],
)
def test_examples_are_held_to_rounding_and_no_further(want, got, same):
    assert ToRounding().check_output(want, got, 0) == same
