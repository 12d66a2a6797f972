"""Merged weights: what stands out stays, nothing else moves."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.surgery import arcee_fusion, task_arithmetic, weight_average

RNG = np.random.default_rng(0)
BASE = {"kernel": RNG.normal(size=(5, 4, 6)), "bias": RNG.normal(size=(9,))}
NEW = {name: x + RNG.standard_t(2, size=x.shape) * 0.1 for name, x in BASE.items()}


def fused_again(base, new):
    """The rule, written out in float64."""
    e_new, e_base = (np.exp(x - x.max(-1, keepdims=True)) for x in (new, base))
    p, q = (e / e.sum(-1, keepdims=True) for e in (e_new, e_base))
    importance = np.abs(new - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    low, middle, high = np.percentile(importance, [25, 50, 75])
    return np.where(importance >= middle + 1.5 * (high - low), new, base)


def test_merged_branches_fusion_keeps_only_the_changes_that_stand_out_of_their_tensor():
    found = arcee_fusion(BASE, NEW)
    for name, base in BASE.items():
        np.testing.assert_allclose(found[name], fused_again(base, NEW[name]), atol=1e-6)
        moved = np.abs(np.asarray(found[name]) - base) > 1e-6
        assert moved.sum() < moved.size / 3 and (moved.any() or name == "bias")
    for name, same in arcee_fusion(BASE, BASE).items():
        np.testing.assert_allclose(same, BASE[name], rtol=1e-6)
    with pytest.raises(ValueError, match="at least one axis"):
        arcee_fusion({"x": jnp.zeros(())}, {"x": jnp.ones(())})


def test_merged_branches_task_arithmetic_of_equal_shares_is_the_average():
    two = [BASE, NEW]
    for name, mean in weight_average(two).items():
        np.testing.assert_allclose(mean, (BASE[name] + NEW[name]) / 2)
        np.testing.assert_allclose(task_arithmetic(BASE, two, scale=0.5)[name], mean)
        np.testing.assert_allclose(task_arithmetic(BASE, [NEW], scale=1.0)[name], NEW[name])
