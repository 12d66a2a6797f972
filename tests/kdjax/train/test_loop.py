"""The loop: any chunking, any restart, the same bits; what is not finite is named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.train import (
    Every,
    NonFiniteLossError,
    build_train_step,
    init_state,
    make_mesh,
    place,
    scanned,
    term,
    train,
)
from kdjax.train.method import Phase

RNG = np.random.default_rng(0)
COLUMNS = {
    "image": RNG.normal(size=(50, 8)).astype(np.float32),
    "label": RNG.integers(0, 4, 50).astype(np.int32),
}
OPTIMISERS = {name: optax.adam(0.01) for name in small.PLAYERS}


def shaken(key, example):
    return {**example, "image": example["image"] + 0.1 * jax.random.normal(key, (8,))}


def streams(columns=COLUMNS):
    return {"transfer": Stream(IndexPlan(np.arange(50), 16), columns, augment=shaken)}


def run(steps=7, *, seeds=3, start=0, state=None, phases=small.PHASES, columns=COLUMNS, **options):
    data = streams(columns)
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))

    def fresh(seed):
        return init_state(jax.random.key(seed), small.networks(), small.INPUTS, OPTIMISERS)

    if state is None:
        state = fresh(seeds) if replicas is None else jax.vmap(fresh)(jnp.array(seeds))
    chunk = place(
        scanned(lambda a: build_train_step(small.networks(), phases, OPTIMISERS, axis=a), data),
        make_mesh("data=1", jax.devices()[:1]),
        replicas=replicas,
        batch_axis=1,
    )
    shared = {"frozen": small.frozen(), "resident": {"transfer": data["transfer"].resident}}
    return train(chunk, state, shared, data, seeds=seeds, steps=steps, start=start, **options)


def same_bits(left, right):
    plain = [jax.tree.leaves(jax.device_get((t.params, t.opt, t.step))) for t in (left, right)]
    return all(np.array_equal(a, b) for a, b in zip(*plain, strict=True))


@pytest.mark.parametrize("length", [1, pytest.param(3, marks=pytest.mark.full), 100])
def test_any_chunking_gives_the_same_bits(length):
    assert same_bits(run(chunk_length=length).state, run(chunk_length=5).state)


@pytest.mark.parametrize("seeds", [pytest.param(3, marks=pytest.mark.full), [0, 1]])
def test_going_on_from_a_step_gives_the_same_bits(seeds):
    half = run(4, seeds=seeds, chunk_length=2)
    assert half.step == 4
    again = run(7, seeds=seeds, start=4, state=half.state, chunk_length=2)
    assert same_bits(again.state, run(7, seeds=seeds, chunk_length=2).state)


def test_seeds_differ_from_each_other():
    params = run(seeds=[0, 1]).state.params["student"]["w0"]
    assert float(jnp.abs(params[0] - params[1]).max()) > 0.1


def test_metrics_arrive_once_per_step_in_order():
    seen = []
    run(7, chunk_length=3, on_metrics=lambda step, values: seen.append((step, values["kd"].shape)))
    assert seen == [(3, (3,)), (6, (3,)), (7, (1,))]


def test_metrics_are_means_over_what_the_mask_kept():
    seen = {}
    run(1, on_metrics=lambda step, values: seen.update(values))
    data = streams()["transfer"]
    state = init_state(jax.random.key(3), small.networks(), small.INPUTS, OPTIMISERS)
    x = jax.tree.map(lambda leaf: leaf[0], data.xs(3, 0, 1))
    kept = COLUMNS["label"][x["index"]] > 0
    assert 0 < kept.sum() < 16
    from kdjax.losses import softened_kl_divergence
    from kdjax.train.scope import stream_number

    key = jax.random.fold_in(jax.random.fold_in(state.key, stream_number("data/transfer")), 0)
    image = data.batch(data.resident, x, key)["image"]
    apply = lambda name, p: small.networks()[name].apply(
        {"params": p, "frozen": {}, "model": {}}, image, train=True, rngs={}
    )[0]
    s, t = apply("student", state.params["student"]), apply("teacher", small.frozen()["teacher"])
    values = softened_kl_divergence(s.logits, t.logits, temperature=4.0)
    np.testing.assert_allclose(seen["kd"][0], values[kept].mean(), rtol=1e-5)


def test_host_functions_run_at_their_steps_and_not_after_the_last():
    called = []
    each = [Every(2, lambda step, state: called.append((step, int(state.step))))]
    run(6, chunk_length=100, every=each)
    assert called == [(2, 2), (4, 4)]


def test_a_stop_ends_after_the_chunk_with_its_metrics_delivered():
    seen = []
    result = run(
        9, chunk_length=2, on_metrics=lambda s, v: seen.append(s), stop=lambda: len(seen) > 0
    )
    assert result.step == 4 and seen == [2, 4]


def exploding(scope):
    """nan from step 3 on, for the seeds in `bad`."""
    y, _ = scope.apply("student", scope.batch["transfer"]["image"])
    broken = (scope.step >= 3) & (scope.params["student"]["w0"][0, 0] > BAD_ABOVE)
    values = jnp.mean(y.logits**2, -1) * jnp.where(broken, jnp.nan, 1.0)
    return {"fine": term(jnp.mean(y.logits, -1) ** 2), "broken": term(values)}, {}


BAD_ABOVE = -jnp.inf


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    with pytest.raises(NonFiniteLossError, match="step 4: .* in term broken"):
        run(9, chunk_length=5, phases=(Phase(exploding, ("student",)),))


def test_one_failed_replica_is_reported_and_the_others_finish(monkeypatch):
    starts = [
        init_state(jax.random.key(s), small.networks(), small.INPUTS, OPTIMISERS).params["student"]
        for s in (0, 1, 2)
    ]
    corner = np.array([float(p["w0"][0, 0]) for p in starts])
    order = corner.argsort()
    monkeypatch.setitem(globals(), "BAD_ABOVE", float(corner[order[1:]].mean()))
    result = run(9, seeds=[0, 1, 2], chunk_length=3, phases=(Phase(exploding, ("student",)),))
    worst = int(order[-1])
    assert result.failures == {worst: (4, ["broken"])}
    finite = np.isfinite(np.asarray(result.state.params["student"]["w0"])).all(axis=(1, 2))
    assert [bool(f) for f in finite] == [seed != worst for seed in range(3)]
