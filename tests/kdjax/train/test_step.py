"""The step builder against plain gradients, and everything it must refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from flax import linen

from kdjax.networks.adapters import from_linen
from kdjax.networks.network import Network, Outputs
from kdjax.train import build_train_step, init_state, join, make_mesh, place, term
from kdjax.train.method import Method, Phase, Term


def line(weight=2.0):
    """y = w x, so that every gradient is known."""

    def apply(variables, inputs, *, train, rngs):
        return Outputs(variables["params"]["w"] * inputs), {}

    return Network(lambda key, inputs: {"params": {"w": jnp.float32(weight)}, "model": {}}, apply)


def line_state(optimisers, **kwargs):
    nets = {name: line() for name in optimisers}
    return init_state(jax.random.key(0), nets, dict.fromkeys(optimisers, 0.0), optimisers, **kwargs)


X = np.array([1.0, 2.0, 3.0, 4.0], np.float32)


def test_loss_is_the_weighted_sum_of_totals_over_counts():
    """Masked means of unequal counts: a mean of means would give another update."""
    kept = np.array([True, False, False, False])

    def objective(scope):
        y, _ = scope.apply("student", scope.batch["x"])
        return {
            "all": term(y.logits, weight=3.0),
            "one": term(y.logits**2, where=kept, weight=0.5),
        }, {}

    optimisers = {"student": optax.sgd(0.1)}
    step = build_train_step({"student": line()}, [Phase(objective, ("student",))], optimisers)
    state, metrics = step(line_state(optimisers), {}, {"x": X})
    gradient = 3.0 * X.mean() + 0.5 * 2 * 2.0 * X[0] ** 2
    np.testing.assert_allclose(state.params["student"]["w"], 2.0 - 0.1 * gradient, rtol=1e-6)
    assert metrics["all"] == (20.0, 4.0) and metrics["one"] == (4.0, 1.0)
    assert int(state.step) == 1


def test_weights_and_counts_are_not_differentiated():
    def objective(scope):
        y, _ = scope.apply("student", scope.batch["x"])
        return {"t": Term(jnp.sum(y.logits), 4.0 + y.logits[0], weight=y.logits[0])}, {}

    optimisers = {"student": optax.sgd(1.0)}
    step = build_train_step({"student": line()}, [Phase(objective, ("student",))], optimisers)
    state, _ = step(line_state(optimisers), {}, {"x": X})
    np.testing.assert_allclose(state.params["student"]["w"], 2.0 - 2.0 * 10.0 / 6.0, rtol=1e-6)


def test_players_outside_the_phase_keep_their_bits():
    def objective(scope):
        a, _ = scope.apply("a", scope.batch["x"])
        b, _ = scope.apply("b", scope.batch["x"])
        return {"t": term((a.logits - 0.5 * b.logits) ** 2)}, {}

    optimisers = {"a": optax.sgd(0.1), "b": optax.adamw(0.1)}
    step = build_train_step({"a": line(), "b": line()}, [Phase(objective, ("a",))], optimisers)
    state, _ = step(line_state(optimisers), {}, {"x": X})
    assert float(state.params["b"]["w"]) == 2.0
    assert float(state.params["a"]["w"]) != 2.0


def test_accumulation_over_micro_batches_is_the_masked_full_batch():
    kept = np.array([1, 1, 1, 0, 0, 0, 1, 0], bool)

    def objective(scope):
        y, _ = scope.apply("student", scope.batch["x"])
        return {"t": term(y.logits**2, where=scope.batch["kept"]), "u": term(y.logits)}, {}

    optimisers = {"student": optax.sgd(0.1)}
    batch = {"x": np.arange(8, dtype=np.float32), "kept": kept}
    found = []
    for parts in (1, 4):
        phase = Phase(objective, ("student",), micro_batches=parts)
        step = build_train_step({"student": line()}, [phase], optimisers)
        found.append(jax.jit(step)(line_state(optimisers), {}, batch))
    np.testing.assert_allclose(
        found[0][0].params["student"]["w"], found[1][0].params["student"]["w"], rtol=1e-6
    )
    assert found[0][1]["t"][1] == found[1][1]["t"][1] == 4


def test_moving_average_follows_its_decay():
    def objective(scope):
        y, _ = scope.apply("student", scope.batch["x"])
        return {"t": term(y.logits)}, {}

    optimisers = {"student": optax.sgd(0.1)}
    decay = {"student": lambda step: 1 - 1 / (step + 2)}
    step = build_train_step(
        {"student": line()}, [Phase(objective, ("student",))], optimisers, averages=decay
    )
    state = line_state(optimisers, averages=("student",))
    average, weight = 2.0, 2.0
    for number in range(3):
        state, _ = step(state, {}, {"x": X})
        weight -= 0.1 * X.mean()
        kept = 1 - 1 / (number + 2)
        average = kept * average + (1 - kept) * weight
        np.testing.assert_allclose(state.average["student"]["w"], average, rtol=1e-6)


def test_hyperparameters_are_leaves_that_a_change_reaches_without_a_new_program():
    traces = []

    def objective(scope):
        traces.append(scope.hyper["weight"])
        y, _ = scope.apply("student", scope.batch["x"])
        return {"t": term(y.logits, weight=scope.hyper["weight"])}, {}

    optimisers = {"student": optax.sgd(0.1)}
    step = jax.jit(
        build_train_step({"student": line()}, [Phase(objective, ("student",))], optimisers)
    )
    traced = 0
    for weight in (1.0, 3.0):
        state, _ = step(line_state(optimisers, hyper={"weight": weight}), {}, {"x": X})
        expected = 2.0 - 0.1 * weight * X.mean()
        np.testing.assert_allclose(state.params["student"]["w"], expected, rtol=1e-6)
        traced = traced or len(traces)
        assert len(traces) == traced


def test_joined_methods_share_the_forward_pass_and_add_their_gradients():
    calls = []

    def counted(variables, inputs, *, train, rngs):
        calls.append(train)
        return Outputs(variables["params"]["w"] * inputs), {}

    def method(name, scale):
        def objective(scope):
            y, model = scope.apply("student", scope.batch["x"])
            values = scope.hyper[name] * y.logits
            return {name: term(values, weight=scale)}, {"model": {"student": model}}

        return Method({}, (Phase(objective, ("student",)),), hyper={name: 1.0})

    both = join(method("a", 1.0), method("b", 2.0))
    optimisers = {"student": optax.sgd(0.1)}
    network = line()._replace(apply=counted)
    step = build_train_step({"student": network}, both.phases, optimisers)
    state, metrics = step(line_state(optimisers, hyper=both.hyper), {}, {"x": X})
    assert calls == [True] and set(metrics) == {"a", "b"}
    np.testing.assert_allclose(state.params["student"]["w"], 2.0 - 0.1 * 3 * X.mean(), rtol=1e-6)


def test_joined_methods_with_one_name_for_two_things_are_refused():
    player = Method({"projector": None}, (Phase(small.objective, ("projector",)),))
    with pytest.raises(ValueError, match=r"players named \['projector'\]"):
        join(player, player)
    with pytest.raises(ValueError, match="one phase without a rule"):
        join(Method({}, (Phase(small.objective, ("student",), rule=lambda *a: a),)))


def test_the_callers_key_and_frozen_arrays_survive_donation():
    key, frozen = jax.random.key(0), small.frozen()
    optimisers = {name: optax.sgd(0.05) for name in small.PLAYERS}
    state = init_state(key, small.networks(), small.INPUTS, optimisers)
    step = place(
        lambda axis: build_train_step(small.networks(), small.PHASES, optimisers, axis=axis),
        make_mesh("data=1", jax.devices()[:1]),
    )
    old = state.params["student"]["w0"]
    state, _ = step(state, frozen, next(small.batches(1)))
    assert old.is_deleted()
    assert not any(x.is_deleted() for x in jax.tree.leaves((key, frozen)))


def refused(message, objective=small.objective, *, trains=small.PLAYERS, axis=None, **phase):
    nets = {**small.networks(), "norm": small.dense(8, 4, couples=True)}
    optimisers = {name: optax.sgd(0.05) for name in (*small.PLAYERS, "norm")}
    state = init_state(
        jax.random.key(0), nets, {**small.INPUTS, "norm": jnp.zeros((1, 8))}, optimisers
    )
    with pytest.raises(ValueError, match=message):
        phases = [Phase(objective, trains, **phase)]
        step = place(
            lambda _: build_train_step(nets, phases, optimisers, axis=axis), make_mesh(),
            "pmap" if axis else "pjit",
        )  # fmt: skip
        step(state, small.frozen(), next(small.batches(1)))


def with_terms(make):
    return lambda scope: (
        make(scope, scope.apply("student", scope.batch["transfer"]["image"])[0]),
        {},
    )


def test_what_the_builder_must_refuse_is_refused_with_names():
    refused(r"trains \['pupil'\].*'student'", trains=("pupil",))
    refused(r"terms \['relational'\] couple", micro_batches=4)
    refused("does not divide the batch of 32", lambda s: ({}, {}), micro_batches=5)
    refused("no terms for its rule", lambda s: ({}, {}), rule=lambda *a: a)
    loose = with_terms(lambda s, y: {"loose": term(y.logits[:, 0], couples=True)})
    refused(r"terms \['loose'\] couple.*scope.gather", loose, axis="devices")
    norm = lambda s: ({"t": term(s.apply("norm", s.batch["transfer"]["image"])[0].logits)}, {})
    refused("'norm' couples.*under pmap", norm, trains=("norm",), axis="devices")
    refused("'norm' couples.*micro_batches", norm, trains=("norm",), micro_batches=4)
    refused("no network 'tutor'", lambda s: s.apply("tutor", 0))
    kept = lambda s: ({"t": term(jnp.ones(8))}, {"memory": {"seen": jnp.ones(3)}})
    refused("only the last part would count", kept, micro_batches=4)
    refused("updates of .*'bank'", lambda s: ({"t": term(jnp.ones(8))}, {"bank": {}}))


class Normed(linen.Module):
    couples = True

    @linen.compact
    def __call__(self, x, train):
        return linen.BatchNorm(use_running_average=not train)(linen.Dense(3)(x))


def test_a_model_state_that_was_trained_and_not_given_back_is_refused():
    nets, image = {"student": from_linen(Normed())}, jnp.ones((8, 4))
    optimisers = {"student": optax.sgd(0.1)}
    state = init_state(jax.random.key(0), nets, {"student": image}, optimisers)

    def step(train, **updates):
        def objective(scope):
            outputs, model = scope.apply("student", scope.batch["image"], train=train)
            given = {name: {"student": model} for name in updates}
            return {"labels": term(outputs.logits[:, 0])}, given

        phases = [Phase(objective, ("student",))]
        return build_train_step(nets, phases, optimisers)(state, {}, {"image": image})

    with pytest.raises(ValueError, match=r"\['student'\] have a model state.*not give back"):
        step(True)
    fixed, _ = step(False)  # statistics that stay as they are
    jax.tree.map(np.testing.assert_array_equal, fixed.model, state.model)
    moved, _ = step(True, model=True)
    means = moved.model["student"]["batch_stats"]["BatchNorm_0"]["mean"]
    assert float(jnp.abs(means).max()) > 0


def test_averages_of_nobody_are_refused():
    with pytest.raises(ValueError, match=r"averages of \['tutor'\]"):
        build_train_step({}, [], {}, averages={"tutor": lambda step: 0.9})


def test_random_streams_differ_by_name_step_phase_repeat_and_not_by_order():
    drawn = {}

    def objective(name):
        def run(scope):
            y, _ = scope.apply("student", scope.batch["x"])
            number = jax.random.uniform(scope.rng("noise"))
            other = jax.random.uniform(scope.rng("other"))
            rows = jax.vmap(jax.random.uniform)(scope.rng("rows", jnp.array([7, 3])))
            return {name: term(y.logits)}, {"memory": {name: jnp.stack([number, other, *rows])}}

        return run

    optimisers = {"student": optax.sgd(0.1)}
    phases = [Phase(objective("p"), ("student",)), Phase(objective("q"), ("student",), repeats=2)]
    step = build_train_step({"student": line()}, phases, optimisers)
    state = line_state(optimisers, memory={"p": jnp.zeros(4), "q": jnp.zeros(4)})
    for number in range(2):
        state, _ = step(state, {}, {"x": X})
        drawn[number] = np.concatenate([state.memory["p"], state.memory["q"]])
    values = np.concatenate(list(drawn.values()))
    assert len(np.unique(values)) == len(values)
