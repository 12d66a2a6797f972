import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.losses import softened_kl_divergence
from kdjax.train import build_train_step, init_state, make_mesh, place, put, replicated, term
from kdjax.train.method import Phase
from kdjax.train.trials import with_trials

TEMPERATURES = [1.0, 4.0, 9.0]
RATES = [0.05, 0.2, 0.1]


def objective(scope):
    x = scope.batch["transfer"]["image"]
    student, _ = scope.apply("student", x)
    teacher, _ = scope.apply("teacher", x)
    temperature = scope.hyper["temperature"]
    return {
        "kd": term(softened_kl_divergence(*both(student, teacher), temperature=temperature))
    }, {}


def both(student, teacher):
    return student.logits, teacher.logits


def clipped(rate):
    """The injected optimiser sits inside a chain, as `experiments` builds it."""
    return optax.chain(
        optax.clip_by_global_norm(10.0), optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    )


def scaled(rate):
    """A schedule, whose peak is tried through a factor behind it."""
    falling = optax.cosine_decay_schedule(1.0, 30)
    return optax.chain(optax.sgd(falling), optax.inject_hyperparams(optax.scale)(step_size=rate))


def trained(optimiser, replicas=None, trials=None, temperature=2.0, steps=10):
    optimisers, mesh = {"student": optimiser}, make_mesh("data=1", jax.devices()[:1])

    def fresh(key):
        return init_state(
            key, small.networks(), small.INPUTS, optimisers, hyper={"temperature": temperature}
        )

    key = jax.random.key(0)
    state = fresh(key) if replicas is None else jax.vmap(fresh)(jnp.stack([key] * replicas))
    if trials is not None:
        state = with_trials(state, *trials)

    def build(axis):
        return build_train_step(
            small.networks(), (Phase(objective, ("student",)),), optimisers, axis=axis
        )

    step = place(build, mesh, replicas=None if replicas is None else ("trial", replicas))
    state, shared = put(state, replicated(mesh)), put(small.frozen(), replicated(mesh))
    for batch in small.batches(steps):
        if replicas is not None:
            batch = jax.tree.map(lambda x: np.stack([x] * replicas), batch)
        state, _ = step(state, shared, batch)
    return jax.tree.map(np.asarray, state.params["student"])


@pytest.mark.parametrize(("make", "name"), [(clipped, "learning_rate"), (scaled, "step_size")])
def test_a_trial_equals_the_run_with_its_numbers(make, name):
    trials = {"temperature": TEMPERATURES}, {"student": {name: RATES}}
    together = trained(make(7.0), len(RATES), trials, temperature=5.0)
    for k, (temperature, rate) in enumerate(zip(TEMPERATURES, RATES, strict=True)):
        alone = trained(make(rate), temperature=temperature)
        mine = jax.tree.map(lambda x, k=k: x[k], together)
        assert small.largest_difference(mine, alone) < 1e-6
    first, second = (jax.tree.map(lambda x, k=k: x[k], together) for k in (0, 1))
    assert small.largest_difference(first, second) > 1e-3


def replicas(optimiser, count=3):
    def fresh(key):
        inputs = small.INPUTS
        return init_state(
            key, small.networks(), inputs, {"student": optimiser}, hyper={"temperature": 2.0}
        )

    return jax.vmap(fresh)(jax.random.split(jax.random.key(0), count))


def test_only_the_named_numbers_change():
    state = replicas(clipped(0.1))
    changed = with_trials(state, {}, {"student": {"learning_rate": RATES}})
    assert jax.tree.structure(changed) == jax.tree.structure(state)
    before, after = jax.tree.leaves(state), jax.tree.leaves(changed)
    differing = [b for a, b in zip(before, after, strict=True) if a is not b]
    assert len(differing) == 1
    np.testing.assert_allclose(differing[0], RATES)
    assert differing[0].dtype == np.float32


@pytest.mark.parametrize(
    ("hyper", "optimisers", "message"),
    [
        ({"temprature": RATES}, {}, r"no hyper 'temprature'; there are \['temperature'\]"),
        ({"temperature": [1.0, 2.0]}, {}, r"is \(3,\) in the state, the trials give \(2,\)"),
        ({}, {"pupil": {"learning_rate": RATES}}, "no optimiser of 'pupil'; there are"),
        ({}, {"student": {"rate": RATES}}, r"no injected \['rate'\]; there are .*'learning_rate'"),
        ({}, {"student": {"learning_rate": 0.1}}, r"the trials give \(\)"),
    ],
)
def test_what_is_not_there_is_refused_by_name(hyper, optimisers, message):
    with pytest.raises(ValueError, match=message):
        with_trials(replicas(clipped(0.1)), hyper, optimisers)


def test_a_number_that_follows_a_schedule_is_refused():
    state = replicas(optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(1.0, 30)))
    with pytest.raises(ValueError, match="'learning_rate' .* follows a schedule"):
        with_trials(state, {}, {"student": {"learning_rate": RATES}})
