"""Federated averaging: ten clients and twenty rounds in one program, against a loop over clients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.train import (
    Method,
    Phase,
    Stage,
    Stopped,
    federated,
    init_state,
    make_mesh,
    run_stages,
    term,
    train_stage,
    weighted_average,
)
from kdjax.train.checkpoints import Checkpoints

CLIENTS, ROUNDS, LOCAL = 10, 20, 3
RNG = np.random.default_rng(0)
SIZES = RNG.integers(6, 20, CLIENTS)
COLUMNS = {
    "image": RNG.normal(size=(SIZES.sum(), 8)).astype(np.float32),
    "label": RNG.integers(0, 4, SIZES.sum()).astype(np.int32),
}
OWNED = np.split(np.arange(SIZES.sum()), np.cumsum(SIZES)[:-1])
PLAN = IndexPlan(lambda client: OWNED[client], 4)
NETWORKS = {"student": small.dense(8, 8, 4)}
MESH = make_mesh("data=1", jax.devices()[:1])
RUN = functools.partial(
    train_stage, seeds=range(CLIENTS), mesh=MESH, replicas=("client", CLIENTS)
)  # fmt: skip
TRACES = []


def objective(scope):
    TRACES.append(1)
    batch = scope.batch["own"]
    y, _ = scope.apply("student", batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(y.logits, batch["label"])
    return {"labels": term(values)}, {}


def stage(optimiser, aggregate):
    optimisers = {"student": optimiser}

    def init(previous):
        one = init_state(jax.random.key(0), NETWORKS, small.INPUTS, optimisers)
        keys = jax.random.split(one.key, CLIENTS)
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, (CLIENTS, *x.shape)), one)
        return state.replace(key=keys), {}

    return Stage(
        "clients", Method({}, (Phase(objective, ("student",)),)), NETWORKS, optimisers,
        {"own": Stream(PLAN, COLUMNS)}, ROUNDS * LOCAL, init,
        lambda state, frozen: jax.device_get(state.params["student"]), aggregate=aggregate,
    )  # fmt: skip


def by_hand(optimiser, average):
    """One client after another, round after round."""
    state = init_state(jax.random.key(0), NETWORKS, small.INPUTS, {"student": optimiser})
    server = state.params["student"]

    def loss(params, image, label):
        log_p = jax.nn.log_softmax(jnp.tanh(image @ params["w0"]) @ params["w1"])
        return -jnp.mean(log_p[jnp.arange(4), label])

    @jax.jit
    def local(params, opt, rows):
        grads = jax.grad(loss)(params, COLUMNS["image"][rows], COLUMNS["label"][rows])
        updates, opt = optimiser.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt

    COLUMNS.update({name: jnp.asarray(column) for name, column in COLUMNS.items()})
    for round in range(ROUNDS):
        found = []
        for client in range(CLIENTS):
            params, opt = server, optimiser.init(server)
            for step in range(round * LOCAL, (round + 1) * LOCAL):
                params, opt = local(params, opt, PLAN.indices(client, step))
            found.append(params)
        server = jax.tree.map(lambda *x: average(np.stack(x)).astype(np.float32), *found)
    return server


def weighted(stacked):
    return np.average(stacked.astype(np.float64), axis=0, weights=SIZES)


SGD = stage(optax.sgd(0.3), federated(SIZES, local_steps=LOCAL))


def test_one_program_gives_what_a_loop_over_clients_gives():
    before = len(TRACES)
    found = run_stages([SGD], RUN)
    assert len(TRACES) <= before + 1  # one program for all rounds and clients
    expected = by_hand(optax.sgd(0.3), weighted)
    for client in range(CLIENTS):  # after the last round all have the server's
        params = jax.tree.map(lambda x, client=client: x[client], found)
        assert small.largest_difference(params, expected) < 1e-5
    plain = by_hand(optax.sgd(0.3), lambda stacked: stacked.mean(0))
    assert small.largest_difference(params, plain) > 1e-3  # the weights matter


def test_optimisers_begin_anew_in_every_round_where_asked():
    adam = optax.adam(0.02)
    fresh = federated(SIZES, local_steps=LOCAL, optimisers={"student": adam})
    kept = federated(SIZES, local_steps=LOCAL)
    expected = by_hand(adam, weighted)
    found, other = (run_stages([stage(adam, a)], RUN)["w0"][0] for a in (fresh, kept))
    np.testing.assert_allclose(found, expected["w0"], atol=1e-4)
    assert np.abs(other - expected["w0"]).max() > 1e-2


def test_another_combination_of_the_clients():
    def median(tree, weights):
        return jax.tree.map(lambda x: jnp.median(x, axis=0), tree)

    aggregate = federated(SIZES, local_steps=LOCAL, combine=median)
    found = run_stages([stage(optax.sgd(0.3), aggregate)], RUN)
    expected = by_hand(optax.sgd(0.3), lambda stacked: np.median(stacked, axis=0))
    np.testing.assert_allclose(found["w0"][0], expected["w0"], atol=1e-4)


def test_clients_resume_in_the_middle_of_a_round(tmp_path):
    """Chunks of 25 steps do not divide rounds of 3."""
    options = {"slots": lambda name: Checkpoints(tmp_path / name)}
    run = functools.partial(RUN, chunk_length=25, stop=lambda: True)
    for reached in (25, 50):
        with pytest.raises(Stopped, match=f"clients stopped at step {reached} of 60"):
            run_stages([SGD], run, **options)
    found = run_stages([SGD], run, **options)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, run_stages([SGD], RUN)))


@pytest.mark.parametrize("how", ["pjit", "pmap"])
def test_clients_do_not_depend_on_the_devices(how):
    mesh = make_mesh("data=2", jax.devices()[:2])
    found, alone = (
        run_stages([SGD], run) for run in (functools.partial(RUN, mesh=mesh, how=how), RUN)
    )
    assert small.largest_difference(found, alone) < 1e-5


def test_leaves_that_are_no_real_numbers_stay_the_clients():
    state = SGD.init(None)[0].replace(
        step=jnp.full(CLIENTS, LOCAL),
        model={"student": {"mean": jnp.arange(10.0), "count": jnp.arange(10)}},
    )
    model = federated(SIZES, local_steps=LOCAL)(state).model["student"]
    np.testing.assert_allclose(
        model["mean"], np.full(10, np.average(np.arange(10), weights=SIZES)), rtol=1e-6
    )
    assert np.array_equal(model["count"], np.arange(10))


def test_weighted_average_is_numpys():
    x = RNG.normal(size=(5, 3, 2)).astype(np.float32)
    weights = np.array([1.0, 0.0, 2.0, 3.0, 0.5], np.float32)
    np.testing.assert_allclose(
        weighted_average({"x": x}, weights)["x"], np.average(x, axis=0, weights=weights), rtol=1e-5
    )


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="its clients must be replicas"):
        run_stages([SGD], functools.partial(RUN, replicas=None))
    with pytest.raises(ValueError, match=r"3 weights for clients \(10,\)"):
        run_stages([stage(optax.sgd(0.3), federated(np.ones(3), local_steps=1))], RUN)
    with pytest.raises(ValueError, match="local_steps at least 1"):
        federated(np.ones(3), local_steps=0)
