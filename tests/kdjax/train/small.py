"""Small networks, batches and objectives that the tests of `kdjax.train` share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream, host_reader
from kdjax.losses import relational_distance, softened_kl_divergence
from kdjax.networks.network import Network, Outputs
from kdjax.train import (
    build_train_step,
    init_state,
    place,
    put,
    replicated,
    scanned,
    settle,
    share_reader,
    state_sharding,
    term,
)
from kdjax.train.method import Phase


def dense(*sizes, couples=False):
    """A tanh network as plain functions, features `hidden`."""

    def init(key, inputs):
        keys = jax.random.split(key, len(sizes) - 1)
        params = {
            f"w{i}": jax.random.normal(k, (a, b)) / np.sqrt(a)
            for i, (k, a, b) in enumerate(zip(keys, sizes[:-1], sizes[1:], strict=True))
        }
        return {"params": params, "model": {}}

    def apply(variables, inputs, *, train, rngs):
        params, x = {**variables["frozen"], **variables["params"]}, inputs
        for i in range(len(sizes) - 2):
            x = jnp.tanh(x @ params[f"w{i}"])
        return Outputs(x @ params[f"w{len(sizes) - 2}"], {"hidden": x}), variables["model"]

    return Network(init, apply, couples)


def networks():
    return {"student": dense(8, 16, 4), "teacher": dense(8, 32, 4), "projector": dense(16, 32)}


INPUTS = {"student": jnp.zeros((1, 8)), "projector": jnp.zeros((1, 16))}


def batches(count, size=32):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.normal(size=(size, 8)).astype(np.float32)
        yield {"transfer": {"image": x, "label": rng.integers(0, 4, size).astype(np.int32)}}


def objective(scope):
    """Logits, a projected hint and a gathered relational term: one of each kind."""
    batch = scope.batch["transfer"]
    student, _ = scope.apply("student", batch["image"])
    teacher, _ = scope.apply("teacher", batch["image"])
    hint, _ = scope.apply("projector", student.features["hidden"])
    kept = batch["label"] > 0
    f_s, f_t = scope.gather((student.features["hidden"], teacher.features["hidden"]))
    values = softened_kl_divergence(student.logits, teacher.logits, temperature=4.0)
    return {
        "kd": term(values, where=kept, weight=0.9),
        "hint": term(jnp.mean((hint.logits - teacher.features["hidden"]) ** 2, -1)),
        "relational": term(relational_distance(f_s, f_t), couples=True, gathered=True, weight=2.0),
    }, {}


PLAYERS = ("student", "projector")
PHASES = (Phase(objective, PLAYERS),)


def frozen():
    return {"teacher": dense(8, 32, 4).init(jax.random.key(5), None)["params"]}


def trained(mesh, how, *, steps=20, phases=PHASES, size=32):
    """The parameters after SGD steps of learning rate 0.05, as NumPy arrays, and the last metrics."""
    optimisers = {name: optax.sgd(0.05) for name in PLAYERS}
    state = init_state(jax.random.key(0), networks(), INPUTS, optimisers)
    step = place(lambda a: build_train_step(networks(), phases, optimisers, axis=a), mesh, how)
    shared = frozen()
    if how == "pjit":
        state, shared = put(state, replicated(mesh)), put(shared, replicated(mesh))
    with jax.default_matmul_precision("highest"):
        for batch in batches(steps, size):
            state, metrics = step(state, shared, batch)
    return jax.tree.map(np.asarray, (state.params, metrics))


def streamed(mesh, *, shares):
    """The parameters after 10 steps in two chunks; with `shares` each process reads its part only."""
    rng = np.random.default_rng(1)
    columns = {
        "image": rng.normal(size=(50, 8)).astype(np.float32),
        "label": rng.integers(0, 4, 50).astype(np.int32),
    }
    plan, size = IndexPlan(np.arange(50), 32), 32 // jax.process_count()

    def read(index):
        assert index.shape[-1] == size, (index.shape, size)
        return host_reader(columns)(index)

    kept = {"read": share_reader(read, mesh)} if shares else {"resident": columns}
    streams = {"transfer": Stream(plan, **kept)}
    optimisers = {name: optax.sgd(0.05) for name in PLAYERS}
    state = init_state(jax.random.key(0), networks(), INPUTS, optimisers)
    builder = lambda axis: build_train_step(networks(), PHASES, optimisers, axis=axis)
    chunk = place(scanned(builder, streams), mesh, batch_axis=1)
    resident = {"transfer": dict(streams["transfer"].resident)}
    state, shared = settle(state, mesh), settle({"frozen": frozen(), "resident": resident}, mesh)
    with jax.default_matmul_precision("highest"):
        for start in (0, 5):
            xs = {"transfer": streams["transfer"].xs(0, start, 5)}
            state, _ = chunk(state, shared, xs)
    return jax.tree.map(np.asarray, state.params)


HIDDEN_SPLIT = (("w0", (None, "fsdp")), ("w1", ("fsdp",)))


def trained_sharded(mesh, rules, *, steps=20, check=lambda state, frozen: None):
    """The state and the teacher after steps from a state that was born sharded by `rules`."""
    optimisers = {name: optax.sgd(0.025, momentum=0.5) for name in PLAYERS}

    def fresh():
        return init_state(
            jax.random.key(0), networks(), INPUTS, optimisers, averages={"student": None}
        )

    of_state, of_frozen = state_sharding(mesh, jax.eval_shape(fresh), frozen(), rules)
    state, shared = jax.jit(fresh, out_shardings=of_state)(), put(frozen(), of_frozen)
    check(state, shared)
    averages = {"student": lambda step: 0.9}
    step = place(
        lambda a: build_train_step(networks(), PHASES, optimisers, averages=averages, axis=a), mesh
    )
    with jax.default_matmul_precision("highest"):
        for batch in batches(steps):
            state, _ = step(state, shared, batch)
    return state, shared


def largest_difference(left, right):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left, right)))
