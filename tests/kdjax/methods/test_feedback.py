"""Competitive distillation: who is behind by how much, and what is asked about next."""

import numpy as np

from kdjax.methods import feedback


def test_competitive_choice_asks_half_about_what_the_student_fails_on():
    truth = np.array([0, 1, 0, 1])
    sure, unsure = np.array([8.0, -8.0]), np.zeros(2)
    teacher = np.stack([sure, -sure, sure, unsure])
    student = np.stack([sure, sure, unsure, unsure])[None]
    gaps = feedback.score_gaps(student, teacher, truth)
    np.testing.assert_allclose(gaps, [[0, 10, 5, 0]], atol=1e-4)
    rng = np.random.default_rng(0)
    drawn = feedback.competitive_choice(rng, gaps[0], 1000, threshold=1.0, share=0.5)
    counts = np.bincount(drawn, minlength=4)
    assert counts[[1, 2]].sum() == counts[[0, 3]].sum() == 500
    assert counts.min() > 200
    harder = feedback.competitive_choice(rng, gaps[0], 50, threshold=6.0, share=1.0)
    assert set(harder) == {1}
    whole = feedback.competitive_choice(rng, gaps[0], 400, threshold=11.0)
    assert set(whole) == {0, 1, 2, 3}, "where nothing is difficult, anything is asked about"
