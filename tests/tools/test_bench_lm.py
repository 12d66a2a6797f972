"""`python -m tools.bench lm`: the comparisons at sizes for a moment."""

import numpy as np
import pytest

from tools.bench import lm


@pytest.fixture
def tiny(monkeypatch):
    sizes = {"depth": 1, "heads": 2, "key_heads": 1, "hidden": 8}
    changes = {"BATCH": 2, "LENGTH": 16, "CLASSES": 512, "CHUNK": 4, "ROUNDS": 1, "KEPT": 4}
    changes |= {"TEACHER": {"width": 8, **sizes}, "STUDENT": {"width": 4, **sizes}}
    for name, value in changes.items():
        monkeypatch.setattr(lm, name, value)
    lm.data.cache_clear(), lm.params.cache_clear()
    yield
    lm.data.cache_clear(), lm.params.cache_clear()


@pytest.mark.full
def test_both_forms_of_the_loss_are_the_same_step(tiny):
    method = lm.methods.token_kd(weight=0.5, chunk=lm.CHUNK)
    dense, chunks = (lm.Steps(method, lm.networks_for(h), lm.data()) for h in (False, True))
    (_, found), (_, again) = dense(), chunks()
    for name in ("kd", "labels"):  # the second of two steps sees what the first has made
        np.testing.assert_allclose(found[name], again[name], rtol=1e-4)
    assert chunks.temporaries() < dense.temporaries()


@pytest.mark.full
def test_the_stored_teacher_has_its_row(tiny):
    (row,) = lm.rows("stored")
    assert row["name"] == "stored_top4" and row["ratio"] > 0 and row["tokens"] > 0
