"""Methods over several teachers: what their targets and choices are, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    FROZEN,
    LABELLED,
    NETS,
    assert_close,
    descended,
    divergence,
    label_loss,
    outputs,
    prepared,
    stepped,
)

from kdjax import methods
from kdjax.methods.multi_teacher import combined_evidence
from kdjax.train.method import Phase

SECOND = NETS["teacher"].init(jax.random.key(5), LABELLED["image"])["params"]
TWO = {
    "nets": {**NETS, "second": NETS["teacher"]},
    "frozen": {**FROZEN, "second": jax.tree.map(lambda x: 4 * x, SECOND)},
}
PAIR = ("teacher", "second")


def taught():
    return jnp.stack([outputs("teacher", TWO["frozen"][name]).logits for name in PAIR], axis=-2)


def dempster(first, second):
    """Dempster's rule over two mass functions {frozenset: mass}, written out."""
    combined: dict = {}
    for a, x in first.items():
        for b, y in second.items():
            combined[a & b] = combined.get(a & b, 0.0) + x * y
    conflict = combined.pop(frozenset(), 0.0)
    return {key: mass / (1 - conflict) for key, mass in combined.items()}


def masses(p, reliability):
    frame = frozenset(range(len(p)))
    return {**{frozenset({k}): reliability * x for k, x in enumerate(p)}, frame: 1 - reliability}


def test_dempster_fusion_combines_masses_by_the_rule():
    p = np.random.default_rng(1).dirichlet(np.ones(4), 3)
    reliabilities = (0.9, 0.4, 0.7)
    whole = masses(p[0], reliabilities[0])
    for each, reliability in zip(p[1:], reliabilities[1:], strict=True):
        whole = dempster(whole, masses(each, reliability))
    left = whole[frozenset(range(4))] / 4
    expected = [whole[frozenset({k})] + left for k in range(4)]
    target = np.exp(combined_evidence(jnp.log(p), jnp.asarray(reliabilities)))
    np.testing.assert_allclose(target, expected, rtol=1e-5)
    order = np.array([2, 0, 1])  # the rule knows no order
    turned = combined_evidence(jnp.log(p)[order], jnp.asarray(reliabilities)[order])
    np.testing.assert_allclose(np.exp(turned), expected, rtol=1e-5)


def test_dempster_fusion_ignores_who_is_unreliable_and_multiplies_who_is_certain():
    p = jnp.asarray(np.random.default_rng(2).dirichlet(np.ones(4), 2))
    alone = combined_evidence(jnp.log(p), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(np.exp(alone), p[0], rtol=1e-5)
    product = jnp.prod(p, axis=0)
    certain = combined_evidence(jnp.log(p), 1.0)
    np.testing.assert_allclose(np.exp(certain), product / product.sum(), rtol=1e-5)
    nobody = combined_evidence(jnp.log(p), 0.0)
    np.testing.assert_allclose(np.exp(nobody), np.full(4, 0.25), rtol=1e-5)
    # Of two who contradict each other without a doubt, nothing is left, and nothing is nan.
    torn = combined_evidence(jnp.array([[200.0, 0.0], [0.0, 200.0]]), jnp.array([0.9, 1.0]))
    assert np.isfinite(torn).all()


def test_dempster_fusion_descends_its_divergence_and_the_labels():
    method = methods.dempster_fusion(teachers=PAIR, reliability=0.7, temperature=2.0, weight=0.6)
    before, _, after = stepped(method, **TWO)
    target = combined_evidence(taught() / 2.0, 0.7)

    def loss(params):
        own = outputs("student", params).logits
        return 0.4 * label_loss(own) + 0.6 * jnp.mean(divergence(target, own))

    gradients = {"student": jax.jit(jax.grad(loss))(before.params["student"])}
    assert_close(after.params, descended(before, gradients))


def test_rl_kd_teaches_with_those_chosen_and_rewards_the_choice_afterwards():
    method = methods.rl_kd(
        teachers=PAIR, student_feature="hidden1", temperature=2.0, weight=0.6, warmup=1,
        divergence_reward=0.5,
    )  # fmt: skip
    keep = Phase(lambda scope: ({}, {"memory": {"chosen": scope.batch["choice"]["chosen"]}}), ())
    memory = {"expected_reward": jnp.float32(-3.0), "chosen": jnp.zeros((8, 2))}
    method = method._replace(phases=(*method.phases, keep), memory=memory)
    start, step = prepared(method, nets=TWO["nets"])
    batch = {"labelled": {**LABELLED, "index": np.arange(8)}}
    warm, _ = step(start, TWO["frozen"], batch)
    assert (warm.memory["chosen"] == 1).all()
    assert_close(warm.params["policy"], start.params["policy"], atol=0)
    before = start.replace(step=start.step + 1)
    after, _ = step(before, TWO["frozen"], batch)
    chosen = after.memory["chosen"]
    assert {0.0, 1.0} == set(np.ravel(chosen).tolist())

    p, rows = jax.nn.softmax(taught()), jnp.arange(8)
    wrong = -jnp.log(p)[rows, :, LABELLED["label"]]
    content = outputs("student", before.params["student"]).features["hidden1"]
    seen = jnp.concatenate([content, p[:, 0], p[:, 1], wrong], axis=-1)

    def parts(params):
        own = outputs("student", params).logits
        each = [divergence(taught()[:, k], own, 2.0) for k in range(2)]
        hard = -jax.nn.log_softmax(own)[rows, LABELLED["label"]]
        return hard, 0.5 * jnp.sum(chosen * jnp.stack(each, axis=-1), axis=-1)

    def student_loss(params):
        hard, soft = parts(params)
        return jnp.mean(0.4 * hard + 0.6 * soft)

    def policy_loss(policy):
        head = policy["head"]
        chance = jax.nn.sigmoid(seen @ head["kernel"] + head["bias"][None])
        log_chance = jnp.sum(jnp.log(jnp.where(chosen > 0, chance, 1 - chance)), axis=-1)
        hard, soft = parts(after.params["student"])
        return -jnp.mean((-(hard + 0.5 * soft) + 3.0) * log_chance)

    losses = {"student": student_loss, "policy": policy_loss}
    gradients = {
        name: jax.jit(jax.grad(loss))(before.params[name]) for name, loss in losses.items()
    }
    assert_close(after.params, descended(before, gradients), atol=1e-5)


@pytest.mark.parametrize("teachers", [(), ("teacher",), ("teacher", "teacher")])
def test_teachers_must_be_several(teachers):
    with pytest.raises(ValueError, match="two networks or more"):
        methods.dempster_fusion(teachers=teachers)


def test_a_reliability_out_of_range_is_refused():
    with pytest.raises(ValueError, match="reliability"):
        methods.dempster_fusion(teachers=PAIR, reliability=1.5)
