"""Which leaves are trained: the parts of a tree, and a step that sees one of them alone."""

import jax
import jax.numpy as jnp
import linear
import numpy as np
import optax
import pytest
import small
from linear import close, normal, pulled

from kdjax.networks import merge, multilayer_perceptron
from kdjax.train import restrict, split, term
from kdjax.train.method import Phase

TREE = {"body": {"dense": {"kernel": 1, "bias": 2}, "norm": {"bias": 3}}, "head": {"kernel": 4}}


@pytest.mark.parametrize(
    "patterns", [["head"], ["bias$"], ["^body"], ["."], ["dense/kernel", "norm"]]
)
def test_the_parts_are_disjoint_and_merge_gives_the_whole_back(patterns):
    trained, frozen = split(TREE, patterns)
    leaves = jax.tree.leaves(trained) + jax.tree.leaves(frozen)
    assert sorted(leaves) == [1, 2, 3, 4]
    assert merge(trained, frozen) == TREE and merge(frozen, trained) == TREE


def test_patterns_are_searched_in_whole_paths_and_empty_branches_are_left_out():
    assert split(TREE, ["bias$"]) == (
        {"body": {"dense": {"bias": 2}, "norm": {"bias": 3}}},
        {"body": {"dense": {"kernel": 1}}, "head": {"kernel": 4}},
    )
    assert split(TREE, ["."]) == (TREE, {})
    assert split(TREE, []) == ({}, TREE)


def test_a_pattern_that_matches_nothing_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"\['neck'\] match no parameter.*body/dense/kernel.*head"):
        split(TREE, ["head", "neck"])


def test_the_step_trains_the_named_leaves_and_the_others_keep_their_bits():
    """A linear head on a frozen body: its gradient by hand, and Adam's state for it alone."""
    x, label = normal(0, 8, 5), np.arange(8) % 3
    whole = {"w0": jnp.asarray(normal(1, 5, 4)), "w1": jnp.asarray(normal(2, 4, 3))}
    network = small.dense(5, 4, 3)
    network = network._replace(init=lambda key, inputs: {"params": whole, "model": {}})
    frozen = split(whole, ["w1"])[1]

    def objective(scope):
        z, _ = scope.apply("student", scope.batch["image"])
        values = optax.softmax_cross_entropy_with_integer_labels(z.logits, scope.batch["label"])
        return {"labels": term(values)}, {}

    (state,), _ = linear.run(
        {"student": restrict(network, ["w1"])},
        [Phase(objective, ("student",))],
        {"student": optax.chain(optax.trace(0.9), optax.scale(-0.3))},
        {"image": x, "label": label},
        frozen={"student": frozen},
    )
    hidden = np.tanh(x @ np.asarray(whole["w0"], np.float64))
    expected = whole["w1"] - 0.3 * pulled(hidden, whole["w1"], np.eye(3)[label])
    close(state.params["student"]["w1"], expected)
    assert set(state.params["student"]) == {"w1"}
    assert [leaf.shape for leaf in jax.tree.leaves(state.opt)] == [(4, 3)]
    np.testing.assert_array_equal(frozen["w0"], normal(1, 5, 4))


def test_a_linen_network_runs_from_its_two_parts():
    network, x = multilayer_perceptron(3, widths=(4,)), jnp.asarray(normal(0, 6, 5))
    params = network.init(jax.random.key(0), x)["params"]
    part = restrict(network, ["head"])
    trained = part.init(jax.random.key(0), x)["params"]
    assert set(trained) == {"head"}
    frozen = split(params, ["head"])[1]
    outputs, _ = part.apply(
        {"params": trained, "frozen": frozen, "model": {}}, x, train=False, rngs={}
    )
    expected, _ = network.apply({"params": params, "model": {}}, x, train=False, rngs={})
    np.testing.assert_array_equal(outputs.logits, expected.logits)
