"""One mathematics on one device, on eight by pjit and by pmap, and on two processes of four."""

import functools
import os
import re
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

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.train import (
    batch_sharding,
    build_train_step,
    fetch,
    init_state,
    make_mesh,
    place,
    put,
    replicated,
    scanned,
    share_reader,
    state_sharding,
    tree_sharding,
)

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


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """{name: parameters}, of each process, from `two_processes.py` on four devices each."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
    environment["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"
    )
    program = [sys.executable, HERE / "two_processes.py", str(port)]
    runs = [
        subprocess.Popen(
            [*program, str(number), folder], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors[-2000:]
    return folder


def check_equal(folder, name, expected):
    flat = {jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(expected)}
    for number in range(2):
        with np.load(folder / f"{name}{number}.npz") as found:
            assert set(found.files) == set(flat)
            assert max(np.abs(found[key] - flat[key]).max() for key in flat) <= 1e-6


def test_two_processes_of_four_devices_equal_one(alone, two_processes):
    check_equal(two_processes, "whole", alone[0])


def test_processes_that_read_their_shares_of_a_batch_equal_one_that_reads_it_all(two_processes):
    one = small.streamed(make_mesh("data=1", jax.devices()[:1]), shares=False)
    check_equal(two_processes, "shares", one)


def test_parameters_sharded_over_two_processes_equal_one_device(two_processes):
    one, _ = small.trained_sharded(make_mesh("data=1", jax.devices()[:1]), {}, steps=5)
    check_equal(two_processes, "sharded", one.params)


def test_a_share_of_a_batch_that_does_not_divide_is_refused():
    read = share_reader(lambda index: {"x": index}, make_mesh())
    with pytest.raises(ValueError, match="8 devices do not divide the 12 examples of index"):
        read(np.zeros((3, 12), np.int32))


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


def shard_shapes(tree):
    return jax.tree.map(lambda x: x.addressable_shards[0].data.shape, tree)


@pytest.fixture(scope="module")
def sgd_alone():
    return small.trained_sharded(make_mesh("data=1", jax.devices()[:1]), {})[0]


@pytest.mark.parametrize("owner", ["teacher", "student"])
@pytest.mark.parametrize("spec, parts", [("data=2,fsdp=4", 4), ("fsdp=8", 8)])
def test_one_side_is_sharded_and_the_other_replicated(owner, spec, parts, sgd_alone):
    """A device holds its share of one side from the first moment on, and after every step."""
    hidden = {"teacher": 32, "student": 16}
    whole = {name: {"w0": (8, n), "w1": (n, 4)} for name, n in hidden.items()}
    share = {name: {"w0": (8, n // parts), "w1": (n // parts, 4)} for name, n in hidden.items()}
    expected = {**whole, owner: share[owner]}

    def check(state, frozen):
        assert shard_shapes(frozen["teacher"]) == expected["teacher"]
        assert shard_shapes(state.params["student"]) == expected["student"]
        assert shard_shapes(state.average["student"]) == expected["student"]
        assert shard_shapes(state.opt["student"][0].trace) == expected["student"]
        assert shard_shapes(state.params["projector"]) == {"w0": (16, 32)}

    rules = {owner: small.HIDDEN_SPLIT}
    state, frozen = small.trained_sharded(make_mesh(spec), rules, check=check)
    check(state, frozen)
    assert small.largest_difference(fetch(state.params), fetch(sgd_alone.params)) <= 1e-6
    assert small.largest_difference(fetch(state.average), fetch(sgd_alone.average)) <= 1e-6


def test_adam_and_replicas_follow_the_rules_too():
    """Counts of axes start behind the seed axis; what has not a parameter's shape is replicated."""
    optimiser = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)

    def fresh(seed):
        inputs = {"student": small.INPUTS["student"]}
        return init_state(jax.random.key(seed), small.networks(), inputs, {"student": optimiser})

    mesh = make_mesh("data=2,fsdp=4")
    shapes = jax.eval_shape(jax.vmap(fresh), jnp.arange(3))
    frozen = {"student": {"base": {"w0": jnp.zeros((8, 16))}}, "student/model": {}}
    of_state, of_frozen = state_sharding(
        mesh, shapes, frozen, {"student": small.HIDDEN_SPLIT}, replicas=True
    )
    state = jax.jit(jax.vmap(fresh), out_shardings=of_state)(jnp.arange(3))
    share = {"w0": (3, 8, 4), "w1": (3, 4, 4)}
    assert shard_shapes(state.params["student"]) == share
    adam = state.opt["student"].inner_state[0]
    assert shard_shapes(adam.mu) == shard_shapes(adam.nu) == share
    assert adam.count.sharding == replicated(mesh)
    assert shard_shapes(put(frozen, of_frozen)["student"]) == {"base": {"w0": (8, 4)}}


@pytest.mark.parametrize(
    "rules, message",
    [
        ({"studnt": ()}, r"rules of \['studnt'\]; there are \['projector', 'student', 'teacher'\]"),
        ({"teacher": [("w7", ("fsdp",))]}, r"teacher: rules \['w7'\].*\['w0', 'w1'\]"),
        ({"student": [("w1", (None, "fsdp", None))]}, r"student: w1 \(16, 4\) has fewer axes"),
        ({"student": [("w0", ("fsdp",))]}, r"student: w0 \(8, 16\): fsdp=3 does not divide 8"),
    ],
)
def test_sharding_rules_that_do_not_fit_are_refused_by_player(rules, message):
    mesh = make_mesh("data=2,fsdp=3", jax.devices()[:6])
    with pytest.raises(ValueError, match=message):
        small.trained_sharded(mesh, rules, steps=0)


@pytest.mark.parametrize("sharded", [(), ("student", "teacher")])
def test_the_batch_stays_split_inside_the_scan(sharded):
    """What a chunk gathers and draws inside its scan: five of 40 images on each of 8 devices."""
    mesh = make_mesh("data=2,fsdp=4")
    optimisers = dict.fromkeys(small.PLAYERS, optax.sgd(0.05))
    columns = {"image": np.zeros((50, 8), np.float32), "label": np.zeros(50, np.int32)}

    def shaken(key, example):
        return {**example, "image": example["image"] + jax.random.normal(key, (8,))}

    streams = {"transfer": Stream(IndexPlan(np.arange(50), 40), columns, augment=shaken)}
    networks = small.networks()
    builder = functools.partial(build_train_step, networks, small.PHASES, optimisers)
    chunk = scanned(lambda axis: builder(axis=axis), streams)(None)

    def fresh():
        return init_state(jax.random.key(0), networks, small.INPUTS, optimisers)

    rules = {name: small.HIDDEN_SPLIT for name in sharded}
    of_state, of_frozen = state_sharding(mesh, jax.eval_shape(fresh), small.frozen(), rules)
    shared = {
        "frozen": put(small.frozen(), of_frozen),
        "resident": put({"transfer": columns}, replicated(mesh)),
    }
    state = jax.jit(fresh, out_shardings=of_state)()
    xs = put({"transfer": streams["transfer"].xs(0, 0, 3)}, batch_sharding(mesh, 1))
    text = jax.jit(chunk).lower(state, shared, xs).compile().as_text()
    rows = set(re.findall(r"= f32\[(\d+),8\]", text))
    assert "5" in rows and "40" not in rows, rows


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
