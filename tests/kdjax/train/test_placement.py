"""One mathematics on one device, on eight by pjit and by pmap, and on two processes of four."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from jax.sharding import PartitionSpec

from kdjax.train import build_train_step, init_state, make_mesh, place, replicated, tree_sharding

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="module")
def alone():
    return small.trained(make_mesh("data=1", jax.devices()[:1]), "pjit")


@pytest.mark.parametrize("how", ["pjit", "pmap"])
def test_eight_devices_equal_one(alone, how):
    params, metrics = small.trained(make_mesh(), how)
    assert small.largest_difference(params, alone[0]) <= 1e-6
    for name, (total, count) in metrics.items():
        expected = alone[1][name][0] / alone[1][name][1]
        np.testing.assert_allclose(total / count, expected, rtol=1e-5, err_msg=name)


def test_training_changed_the_parameters(alone):
    """The equality above would hold for a step that does nothing."""
    state = init_state(
        jax.random.key(0),
        small.networks(),
        small.INPUTS,
        dict.fromkeys(small.PLAYERS, optax.sgd(0.05)),
    )
    start = jax.tree.map(np.asarray, state.params)
    assert small.largest_difference(start, alone[0]) > 1e-2


@pytest.mark.parametrize("spec", ["data=2,fsdp=4", "fsdp=-1"])
def test_batches_are_split_over_all_data_axes(alone, spec):
    params, _ = small.trained(make_mesh(spec), "pjit")
    assert small.largest_difference(params, alone[0]) <= 1e-6


def test_two_processes_of_four_devices_equal_one(alone, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                HERE / "two_processes.py",
                str(port),
                str(number),
                tmp_path / "out.npz",
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors[-2000:]
    flat = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(alone[0])}
    with np.load(tmp_path / "out.npz") as found:
        assert set(found.files) == set(flat)
        assert max(np.abs(found[name] - flat[name]).max() for name in flat) <= 1e-6


def test_replicas_run_as_one_program_with_their_own_states_and_batches():
    networks, optimisers = small.networks(), {n: optax.sgd(0.05) for n in small.PLAYERS}

    def fresh(seed):
        return init_state(jax.random.key(seed), networks, small.INPUTS, optimisers)

    def builder(axis):
        return build_train_step(networks, small.PHASES, optimisers, axis=axis)

    mesh = make_mesh("data=1", jax.devices()[:1])
    pair = list(small.batches(2))
    together = place(builder, mesh, replicas=("seed", 2))
    states = jax.vmap(fresh)(jnp.arange(2))
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *pair)
    states, metrics = together(states, small.frozen(), stacked)
    for seed in range(2):
        state, single = place(builder, mesh)(fresh(seed), small.frozen(), pair[seed])
        mine = jax.tree.map(lambda x, seed=seed: x[seed], states.params)
        assert small.largest_difference(mine, state.params) < 1e-6
        np.testing.assert_allclose(metrics["kd"][0][seed], single["kd"][0], rtol=1e-5)


def test_rules_shard_by_path_and_the_rest_is_replicated():
    mesh = make_mesh("data=2,fsdp=4")
    tree = {"dense": {"kernel": jnp.zeros((8, 16)), "bias": jnp.zeros(16)}}
    shardings = tree_sharding(mesh, tree, [("dense/kernel", (None, "fsdp"))])
    assert shardings["dense"]["kernel"].spec == PartitionSpec(None, "fsdp")
    assert shardings["dense"]["bias"] == replicated(mesh)


@pytest.mark.parametrize(
    "rule, message",
    [
        (("conv", (None,)), "conv.*match no parameter.*dense/kernel"),
        (("kernel", ("fsdp",)), r"dense/kernel \(6, 16\): fsdp=4 does not divide 6"),
        (("kernel", ("model",)), "no axis 'model'"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule, message):
    tree = {"dense": {"kernel": jnp.zeros((6, 16))}}
    with pytest.raises(ValueError, match=message):
        tree_sharding(make_mesh("data=2,fsdp=4"), tree, [rule])


@pytest.mark.parametrize("spec", ["data=3", "data=-1,fsdp=3", "data=-1,fsdp=-1", "data", "data=0"])
def test_a_mesh_that_does_not_fit_is_refused(spec):
    with pytest.raises(ValueError, match="mesh"):
        make_mesh(spec)


@pytest.mark.parametrize("how", ["pjit", "pmap"])
def test_a_batch_that_the_devices_do_not_divide_is_refused(how):
    with pytest.raises(
        ValueError, match="8 devices do not divide the 30 examples of transfer/image"
    ):
        small.trained(make_mesh(), how, steps=1, size=30)


def test_an_unknown_placement_is_refused():
    with pytest.raises(ValueError, match="'pjit' or 'pmap', got 'xmap'"):
        place(lambda axis: None, make_mesh(), "xmap")
