"""`python -m tools.bench generate`: the pair that it trains for its last row."""

import jax
import numpy as np
import pytest

from kdjax.generate import speculate
from tools.bench import generate


@pytest.mark.full
def test_a_distilled_draft_is_taught_by_the_teacher_that_it_drafts_for():
    teacher, draft, prompts = generate.distilled(2, tiny=True)
    given = {"length": 8, "key": jax.random.key(0), "mask": np.ones(prompts.shape, bool)}
    drawn = speculate(*teacher, *draft, prompts, drafted=2, **given)
    assert prompts.shape == (2, 16) and 0.3 < float(drawn.acceptance_rate) <= 1
