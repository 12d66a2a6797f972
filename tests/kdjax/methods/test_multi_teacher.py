"""Several teachers of different architectures: weights, their own sharding, one pass per batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core

from kdjax import methods, networks
from kdjax.train import (
    build_train_step,
    fetch,
    init_state,
    join,
    make_mesh,
    place,
    put,
    state_sharding,
)

RNG = np.random.default_rng(0)
BATCH = {
    "labelled": {
        "image": RNG.normal(size=(16, 4, 4, 1)).astype(np.float32),
        "label": (np.arange(16) % 5).astype(np.int32),
    }
}
NETS = {
    "student": networks.multilayer_perceptron(5, widths=(6,), features=("hidden1",)),
    "teacher": networks.multilayer_perceptron(5, widths=(24,), features=("embedding",)),
    "second": networks.small_cnn(5, widths=(4, 8), hidden=16),
}
SHAPE = jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32)
INPUTS = {"student": SHAPE}


def frozen():
    arrays = {}
    for number, name in enumerate(("teacher", "second")):
        variables = NETS[name].init(jax.random.key(number), BATCH["labelled"]["image"])
        arrays[name] = jax.tree.map(lambda x: 3 * x, variables["params"])  # teachers that disagree
        arrays[f"{name}/model"] = variables["model"]
    return arrays


def trained(method, *, steps=1, mesh=None, rules=None, check=lambda frozen: None):
    mesh = make_mesh("data=1", jax.devices()[:1]) if mesh is None else mesh
    optimisers = {"student": optax.sgd(0.05)}

    def fresh():
        return jax.jit(
            lambda: init_state(jax.random.key(0), NETS, INPUTS, optimisers, hyper=method.hyper)
        )()

    of_state, of_frozen = state_sharding(mesh, jax.eval_shape(fresh), frozen(), rules or {})
    state, shared = jax.jit(fresh, out_shardings=of_state)(), put(frozen(), of_frozen)
    check(shared)
    step = place(lambda axis: build_train_step(NETS, method.phases, optimisers, axis=axis), mesh)
    with jax.default_matmul_precision("highest"):
        for _ in range(steps):
            state, metrics = step(state, shared, BATCH)
    return fetch(state.params["student"]), fetch(metrics)


def distance(left, right):
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), left, right)))


def test_a_teacher_of_weight_one_is_plain_distillation():
    mine, _ = trained(methods.weighted_teachers(weights={"teacher": 1.0, "second": 0.0}), steps=5)
    plain, _ = trained(methods.kd(), steps=5)
    other, _ = trained(methods.weighted_teachers(weights={"teacher": 0.0, "second": 1.0}), steps=5)
    assert distance(mine, plain) <= 1e-6
    assert distance(other, plain) > 1e-3


def test_the_term_is_the_weighted_sum_of_each_teachers():
    kl = {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.25, 2.0)):
        method = methods.weighted_teachers(
            weights=dict(zip(("teacher", "second"), weights, strict=True)), temperature=2.0
        )
        total, count = trained(method)[1]["kd"]
        kl[weights] = total / count
    expected = 0.25 * kl[1.0, 0.0] + 2.0 * kl[0.0, 1.0]
    np.testing.assert_allclose(kl[0.25, 2.0], expected, rtol=1e-5)


def test_each_teacher_has_sharding_rules_of_its_own():
    method = methods.weighted_teachers(weights={"teacher": 0.5, "second": 0.5})
    rules = {
        "teacher": [("dense1/kernel", (None, "fsdp")), ("head/kernel", ("fsdp",))],
        "second": [("conv2/kernel", (None, None, "tensor", None))],
    }

    def check(shared):
        shapes = jax.tree.map(lambda x: x.addressable_shards[0].data.shape, shared)
        assert shapes["teacher"]["dense1"]["kernel"] == (16, 12)
        assert shapes["second"]["conv2"]["kernel"] == (3, 3, 2, 8)
        assert shapes["second"]["conv1"]["kernel"] == (3, 3, 1, 4)

    mesh = make_mesh("data=2,fsdp=2,tensor=2")
    sharded, _ = trained(method, steps=20, mesh=mesh, rules=rules, check=check)
    alone, _ = trained(method, steps=20)
    assert distance(sharded, alone) <= 1e-6


def products_with(jaxpr, shape):
    """How many matrix products in a jaxpr, and in those inside it, read an array of `shape`."""
    count = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            count += any(v.aval.shape == shape for v in equation.invars)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, core.ClosedJaxpr):
                    inner = inner.jaxpr
                if isinstance(inner, core.Jaxpr):
                    count += products_with(inner, shape)
    return count


def test_a_teacher_runs_once_per_batch_however_many_losses_read_it():
    """Also without a backward pass: its kernels are in one product each."""
    pair = {"student_feature": "hidden1", "teacher_feature": "embedding"}
    method = join(
        renamed(methods.kd(), "kd"),
        renamed(methods.hint(**pair), "hint"),
        renamed(methods.relational(**pair), "relational"),
        renamed(methods.weighted_teachers(weights={"teacher": 0.5, "second": 0.5}), "two"),
        renamed(methods.supervised(), "alone"),
    )
    shapes = {name: networks.output_shapes(net, SHAPE) for name, net in NETS.items()}
    made = {name: make(shapes) for name, make in method.players.items()}
    nets = {**NETS, **{name: net for name, (net, _) in made.items()}}
    inputs = {**INPUTS, **{name: shape for name, (_, shape) in made.items()}}
    optimisers = dict.fromkeys(method.phases[0].trains, optax.sgd(0.05))
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
    )()
    step = build_train_step(nets, method.phases, optimisers)
    ten = jax.tree.map(lambda x: x[:10], BATCH)  # no batch of the size of a layer
    jaxpr, (_, metrics) = jax.make_jaxpr(step, return_shape=True)(state, frozen(), ten)
    assert {"kd/kd", "hint/hint", "relational/relational", "two/kd"} <= set(metrics)
    for kernel in ((16, 24), (24, 5)):
        assert products_with(jaxpr.jaxpr, kernel) == 1, kernel
    # The student's: its pass and the two products of its gradient less that of the input.
    assert products_with(jaxpr.jaxpr, (16, 6)) == 1 and products_with(jaxpr.jaxpr, (6, 5)) == 2


def renamed(method, prefix):
    """A method whose terms and numbers carry a prefix, so that it can be joined with the others."""
    (phase,) = method.phases

    class Named:
        def __init__(self, scope):
            self._scope = scope
            self.hyper = {
                n.split("/")[1]: v for n, v in scope.hyper.items() if n.startswith(f"{prefix}/")
            }

        def __getattr__(self, name):
            return getattr(self._scope, name)

    def objective(scope):
        terms, updates = phase.objective(Named(scope))
        return {f"{prefix}/{name}": term for name, term in terms.items()}, updates

    hyper = {f"{prefix}/{name}": value for name, value in method.hyper.items()}
    return method._replace(phases=(phase._replace(objective=objective),), hyper=hyper)


@pytest.mark.parametrize("weights", [{}, {"teacher": -0.1}])
def test_weights_that_name_nobody_or_are_negative_are_refused(weights):
    with pytest.raises(ValueError, match="weights must name a teacher"):
        methods.weighted_teachers(weights=weights)
