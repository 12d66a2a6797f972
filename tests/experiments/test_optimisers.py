"""What a config's optimiser does: clipping, then coupled decay, then the rule; decay by pattern."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar100, digits
from experiments import setup
from kdjax import networks

PARAMS = {
    "dense1": {"kernel": jnp.full((3, 4), 2.0), "bias": jnp.full(4, 2.0)},
    "norm1": {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 2.0)},
}
GRADS = jax.tree.map(lambda x: 0.5 * jnp.ones_like(x), PARAMS)
NO_DECAY = ("bias$", "norm")


def settings(make=digits.optimiser, **changes):
    config = make()
    config.schedule, config.warmup, config.learning_rate = "constant", 0.0, 0.1
    with config.unlocked():
        for name, value in changes.items():
            config[name] = value
    return config


def sgd(**changes):
    return settings(cifar100.sgd, **{"options": {}, "coupled_decay": 0.0, **changes})


def update(config, grads=GRADS):
    tx = setup.build_optimiser("run.optimiser", config, 10)
    deltas, _ = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS)
    return deltas


def check(deltas, expected):
    for (path, mine), theirs in zip(
        jax.tree.leaves_with_path(deltas), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, err_msg=jax.tree_util.keystr(path))


def test_gradients_are_clipped_by_their_global_norm():
    norm = 0.5 * np.sqrt(24)
    check(update(sgd(clip=1.0)), jax.tree.map(lambda g: -0.1 * g / norm, GRADS))
    check(update(sgd(clip=3.0)), jax.tree.map(lambda g: -0.1 * g, GRADS))
    check(update(sgd()), jax.tree.map(lambda g: -0.1 * g, GRADS))


def test_coupled_decay_is_added_behind_the_clipping_to_what_decays():
    norm = 0.5 * np.sqrt(24)

    def expected(path, g, p):
        decays = "kernel" in jax.tree_util.keystr(path)
        return -0.1 * (g / norm + (0.25 * p if decays else 0.0))

    deltas = update(sgd(clip=1.0, coupled_decay=0.25, no_decay=NO_DECAY))
    check(deltas, jax.tree.map_with_path(expected, GRADS, PARAMS))
    everywhere = update(sgd(coupled_decay=0.25))
    check(everywhere, jax.tree.map(lambda g, p: -0.1 * (g + 0.25 * p), GRADS, PARAMS))


def test_the_rules_own_decay_leaves_out_biases_and_norms():
    options = {"weight_decay": 0.5}
    plain = update(settings(options={"weight_decay": 0.0}))
    deltas = update(settings(options=options, no_decay=NO_DECAY))

    def expected(path, delta, p):
        return delta - (0.1 * 0.5 * p if "kernel" in jax.tree_util.keystr(path) else 0.0)

    check(deltas, jax.tree.map_with_path(expected, plain, PARAMS))
    check(
        update(settings(options=options)),
        jax.tree.map(lambda delta, p: delta - 0.1 * 0.5 * p, plain, PARAMS),
    )


def test_patterns_without_any_decay_are_refused():
    with pytest.raises(
        setup.ConfigError, match=r"run\.optimiser\.no_decay: sgd has no weight decay"
    ):
        update(sgd(no_decay=NO_DECAY))


def test_a_pattern_that_matches_no_parameter_is_refused():
    network = networks.multilayer_perceptron(3, widths=(4,))
    shape = jax.ShapeDtypeStruct((1, 5), jnp.float32)
    with pytest.raises(setup.ConfigError, match=r"no_decay: \['norm'\].*'dense1/bias'"):
        setup.check_no_decay("run.optimiser", settings(no_decay=NO_DECAY), network, shape)
    setup.check_no_decay("run.optimiser", settings(no_decay=("bias$",)), network, shape)


def test_a_negative_clip_is_refused():
    with pytest.raises(
        setup.ConfigError, match=r"run\.optimiser\.clip must be 0 \(none\) or above"
    ):
        update(sgd(clip=-1.0))
