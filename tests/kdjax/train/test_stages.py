"""Stages: one after another, resumed anywhere, saved before they break."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.losses import softened_kl_divergence
from kdjax.train import (
    Method,
    NonFiniteLossError,
    Phase,
    Stage,
    Stopped,
    init_state,
    make_mesh,
    run_stages,
    term,
    train_stage,
)
from kdjax.train.checkpoints import Checkpoints

RNG = np.random.default_rng(0)
COLUMNS = {
    "image": RNG.normal(size=(48, 8)).astype(np.float32),
    "label": RNG.integers(0, 4, 48).astype(np.int32),
}
MESH = make_mesh("data=1", jax.devices()[:1])
NETWORKS = {"student": small.dense(8, 16, 4), "teacher": small.dense(8, 16, 4)}


def from_labels(scope):
    batch = scope.batch["labelled"]
    y, _ = scope.apply("student", batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(y.logits, batch["label"])
    return {"labels": term(values)}, {}


def from_teacher(scope):
    image = scope.batch["labelled"]["image"]
    s, t = (scope.apply(name, image)[0].logits for name in ("student", "teacher"))
    return {"kd": term(softened_kl_divergence(s, t, temperature=2.0))}, {}


def stage(name, objective, *, steps=12, rate=0.1, seed=0):
    optimisers = {"student": optax.sgd(rate)}

    def init(previous):
        state = init_state(jax.random.key(seed), NETWORKS, small.INPUTS, optimisers)
        return state, {} if previous is None else {"teacher": previous}

    return Stage(
        name, Method({}, (Phase(objective, ("student",)),)), NETWORKS, optimisers,
        {"labelled": Stream(IndexPlan(np.arange(48), 16), COLUMNS)}, steps,
        init, lambda state, frozen: jax.device_get(state.params["student"]),
    )  # fmt: skip


STAGES = [stage("teacher", from_labels), stage("student", from_teacher, seed=1)]


def runner(folder=None, **options):
    def run(stage, state, frozen):
        checkpoints = Checkpoints(folder / stage.name) if folder else None
        options.setdefault("chunk_length", 3)
        try:
            return train_stage(
                stage, state, frozen, seeds=0, mesh=MESH, checkpoints=checkpoints, save_every=6,
                **options,
            )  # fmt: skip
        finally:
            if checkpoints:
                checkpoints.close()

    return run


def equal(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


@pytest.fixture(scope="module")
def whole():
    return run_stages(STAGES, runner())


def test_the_second_stage_learns_from_what_the_first_finished_with(whole):
    first = run_stages(STAGES[:1], runner())
    second = run_stages(STAGES[1:], runner(), previous=first)
    assert equal(second, whole)
    other = jax.tree.map(lambda x: 2 * x, first)
    assert not equal(run_stages(STAGES[1:], runner(), previous=other), whole)


@pytest.mark.parametrize("chunks_before_the_stop", [1, 3, 5, 7])
def test_stages_resume_wherever_they_stopped(tmp_path, whole, chunks_before_the_stop):
    left = [chunks_before_the_stop]

    def stop():
        left[0] -= 1
        return left[0] == 0

    with pytest.raises(Stopped, match=r"(teacher|student) stopped at step (3|6|9) of 12"):
        run_stages(STAGES, runner(tmp_path, stop=stop))
    started = []
    result = run_stages(STAGES, runner(tmp_path, on_start=started.append))
    assert equal(result, whole)
    assert sum(started) == 3 * chunks_before_the_stop


def test_complete_stages_cost_no_step(tmp_path, whole):
    run_stages(STAGES, runner(tmp_path))
    steps = []
    again = run_stages(STAGES, runner(tmp_path, on_metrics=lambda step, values: steps.append(step)))
    assert steps == [] and equal(again, whole)


def test_the_last_good_checkpoint_survives_a_loss_that_is_not_finite(tmp_path):
    rate = lambda step: jnp.where(step < 8, 0.1, jnp.inf)
    broken = stage("broken", from_labels, rate=rate, steps=30)
    run = runner(tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"step \d+: .* term labels"):
        run_stages([broken], run)
    state, record = Checkpoints(tmp_path / "broken").restore(broken.init(None)[0])
    assert record["step"] == 6 and all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_parameters_that_broke_in_the_last_step_are_not_saved(tmp_path):
    """The loss of the step is finite: only its update is not."""
    rate = lambda step: jnp.where(step < 5, 0.1, jnp.inf)
    with pytest.raises(NonFiniteLossError, match="step 6: the parameters are not finite"):
        run_stages([stage("broken", from_labels, rate=rate, steps=6)], runner(tmp_path))
    assert Checkpoints(tmp_path / "broken").latest_step() is None


def test_replicas_share_one_program_and_one_checkpoint(tmp_path):
    plain = stage("seeds", from_labels)
    optimisers = dict(plain.optimisers)
    fresh = functools.partial(_fresh, optimisers)

    def train(folder, seeds):
        state = jax.vmap(fresh)(jnp.array(seeds))
        checkpoints = Checkpoints(folder)
        trained = train_stage(
            plain, state, {}, seeds=seeds, mesh=MESH, replicas=("seed", len(seeds)),
            checkpoints=checkpoints, save_every=6, chunk_length=3,
        )  # fmt: skip
        checkpoints.close()
        return jax.device_get(trained.state.params)

    assert equal(train(tmp_path / "a", [0, 1]), train(tmp_path / "a", [0, 1]))
    swapped = jax.tree.map(lambda x: x[::-1], train(tmp_path / "b", [1, 0]))
    assert small.largest_difference(train(tmp_path / "a", [0, 1]), swapped) < 1e-6


def _fresh(optimisers, seed):
    return init_state(jax.random.key(seed), NETWORKS, small.INPUTS, optimisers)
