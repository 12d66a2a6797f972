"""Methods over sequences against their formulas: mixing, schedules, stored signals, written rows."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import losses, methods, networks, signals
from kdjax.losses import divergences, sequence
from kdjax.methods.sequence import DIVERGENCES, SCHEDULES, next_token, rows_of, token_kd
from kdjax.networks import Network, Outputs
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
B, L, V = 4, 5, 7


def rows(seed, count=B):
    rng = np.random.default_rng(seed)
    return {
        "tokens": rng.integers(0, V, (count, L)).astype(np.int32),
        "targets": rng.integers(0, V, (count, L)).astype(np.int32),
        "mask": rng.random((count, L)) < 0.7,
    }


BATCH = rows(1)


def table(width, *, hidden):
    """A network whose logits follow from the last token alone: a table of hidden states, and a head."""

    def init(key, inputs):
        del inputs
        keys = jax.random.split(key)
        shapes = {"table": (V, width), "head": (width, V)}
        params = {
            name: jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return {"params": params, "model": {}}

    def apply(variables, inputs, *, train, rngs):
        del train, rngs
        states, head = variables["params"]["table"][inputs["tokens"]], variables["params"]["head"]
        if hidden:
            return Outputs(None, {"hidden": states, "head": head}), {}
        return Outputs(states @ head), {}

    return Network(init, apply)


def one_step(method, batch, *, hidden=False, frozen=None, steps=1):
    nets = {"student": table(3, hidden=hidden), "teacher": table(4, hidden=hidden)}
    if frozen is None:
        params = nets["teacher"].init(jax.random.key(9), BATCH)["params"]
        frozen = {"teacher": params}
    optimisers = {"student": optax.sgd(0.1)}
    state = jax.jit(lambda: init_state(
        jax.random.key(0), nets, {"student": BATCH}, optimisers,
        hyper=method.hyper, memory=method.memory,
    ))()  # fmt: skip
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    before, metrics = state.params["student"], []
    for _ in range(steps):
        state, found = step(state, frozen, batch)
        metrics.append(found)
    return before, state, metrics[-1]


def logits(params, tokens):
    return params["table"][tokens] @ params["head"]


def teacher_logits(tokens):
    return logits(table(4, hidden=False).init(jax.random.key(9), BATCH)["params"], tokens)


def mean(values, where):
    return jnp.sum(jnp.where(where, values, 0)) / jnp.sum(where)


def check(method, batch, loss, **options):
    """One step of the method is one step down `loss(params)`."""
    before, state, metrics = one_step(method, batch, **options)
    slope = jax.jit(jax.grad(loss))(before)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, before, slope)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        state.params["student"],
        wanted,
    )
    return before, state, metrics


QUICK = ("kl", "symmetric_kl")
OPTIONS = {
    "adaptive_kl": {"head_mass": 0.5},
    "generalized_jensen_shannon": {"beta": 0.3},
    "interpolated_kl": {"interpolation": 0.6},
    "kl": {},
    "reverse_kl": {},
    "skew_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
    "symmetric_kl": {"reverse_weight": 0.3},
    "total_variation": {},
}


CASES = [
    pytest.param(name, hidden, marks=pytest.mark.full if hidden and name not in QUICK else ())
    for name in sorted(DIVERGENCES)
    for hidden in (False, True)
]


@pytest.mark.parametrize("name, hidden", CASES)
def test_every_divergence_with_the_cross_entropy_from_logits_and_by_chunks(name, hidden):
    given = OPTIONS[name]
    method = token_kd(divergence=name, temperature=2.0, weight=0.7, chunk=8, **given)

    def loss(params):
        s, t = logits(params, BATCH["tokens"]), teacher_logits(BATCH["tokens"])
        log_q, log_p, _ = divergences.softened(s, t, 2.0, None)
        core = {"weight" if k == "reverse_weight" else k: v for k, v in given.items()}
        kd = 4 * DIVERGENCES[name](log_q, log_p, **core)
        nll = optax.softmax_cross_entropy_with_integer_labels(s, BATCH["targets"])
        return mean(0.7 * kd + 0.3 * nll, BATCH["mask"])

    _, _, metrics = check(method, {"sequence": BATCH}, loss, hidden=hidden)
    assert float(metrics["kd"][1]) == float(metrics["labels"][1]) == BATCH["mask"].sum()


def test_every_core_of_the_library_that_compares_two_distributions_has_a_name():
    cores = {
        name.removesuffix("_of_log_probs")
        for name in vars(divergences)
        if name.endswith("_of_log_probs") and not name.startswith("entropy")
    }
    assert set(DIVERGENCES) == cores


@pytest.mark.parametrize("hidden", [False, True])
def test_next_token_is_the_cross_entropy_of_the_kept_targets(hidden):
    def loss(params):
        s = logits(params, BATCH["tokens"])
        return mean(
            optax.softmax_cross_entropy_with_integer_labels(s, BATCH["targets"]), BATCH["mask"]
        )

    check(next_token(chunk=8), {"sequence": BATCH}, loss, hidden=hidden)


@pytest.mark.parametrize("hidden", [False, True])
def test_classes_beyond_the_vocabulary_are_cut_off_on_both_sides(hidden):
    batch = {**BATCH, "tokens": BATCH["tokens"] % 5, "targets": BATCH["targets"] % 5}

    def loss(params):
        s = logits(params, batch["tokens"])[..., :5]
        t = teacher_logits(batch["tokens"])[..., :5]
        kd = losses.softened_kl_divergence(s, t)
        nll = optax.softmax_cross_entropy_with_integer_labels(s, batch["targets"])
        return mean(0.5 * kd + 0.5 * nll, batch["mask"])

    method = token_kd(weight=0.5, vocabulary=5, chunk=8)
    check(method, {"sequence": batch}, loss, hidden=hidden)


def test_a_stored_signal_is_the_live_teacher_and_its_own_mask_counts():
    live = teacher_logits(BATCH["tokens"])
    stored = np.ones((B, L), bool)
    stored[:, 0] = False
    batch = {**BATCH, "signal": signals.top_k(live, 3), "signal_where": stored}

    def loss(params):
        values = signals.signal_divergence(
            divergences.kl_of_log_probs, logits(params, batch["tokens"]), signals.top_k(live, 3)
        )
        return mean(values, BATCH["mask"] & stored)

    check(token_kd(), {"sequence": batch}, loss, frozen={})
    # The same from a live teacher that is cut.
    _, _, cut = one_step(token_kd(top_k=3), {"sequence": {**BATCH, "mask": BATCH["mask"] & stored}})
    _, _, held = one_step(token_kd(), {"sequence": batch}, frozen={})
    np.testing.assert_allclose(cut["kd"], held["kd"], rtol=1e-5)


def test_stored_hidden_states_find_their_head_among_the_frozen_arrays():
    params = table(4, hidden=False).init(jax.random.key(9), BATCH)["params"]
    states = params["table"][BATCH["tokens"]]
    batch = {**BATCH, "signal": signals.HiddenHead(states, head=None)}
    _, _, held = one_step(
        token_kd(), {"sequence": batch}, frozen={"signal": {"head": params["head"]}}
    )
    _, _, live = one_step(token_kd(), {"sequence": BATCH})
    np.testing.assert_allclose(held["kd"], live["kd"], rtol=1e-5)


def test_sampled_targets_of_another_temperature_are_refused():
    drawn = signals.sample(jax.random.key(0), teacher_logits(BATCH["tokens"]), 4)
    with pytest.raises(ValueError, match="temperature must be 1.0.*got 2.0"):
        one_step(token_kd(temperature=2.0), {"sequence": {**BATCH, "signal": drawn}}, frozen={})


def test_written_rows_replace_the_first_of_the_batch_once_there_are_some():
    batch = {
        "sequence": {**BATCH, "index": np.arange(B)},
        "generated": {**rows(2, 3), "where": np.array([True, False, True]), "log_probs": 0},
    }
    found = rows_of(SimpleNamespace(batch=batch))
    assert sorted(found) == ["mask", "targets", "tokens"]
    for name, column in found.items():
        wanted = BATCH[name].copy()
        wanted[[0, 2]] = rows(2, 3)[name][[0, 2]]
        np.testing.assert_array_equal(column, wanted)


def test_the_weight_follows_its_schedule():
    at = {
        name: [float(f(jnp.asarray(p))) for p in (0, 0.05, 0.5, 0.9)]
        for name, f in SCHEDULES.items()
    }
    assert at["constant"] == [1, 1, 1, 1]
    np.testing.assert_allclose(at["rising"], [0, 0.05, 0.5, 0.9], rtol=1e-6)
    np.testing.assert_allclose(at["falling"], [1, 0.95, 0.5, 0.1], rtol=1e-5)
    np.testing.assert_allclose(at["warmup_stable_decay"], [0, 0.5, 1, 0.5], rtol=1e-5)
    method = token_kd(weight=0.8, schedule="falling", steps=2)
    # The second of two steps has half the weight: 0.4 of the divergence and 0.6 of the labels.
    first, _, _ = one_step(method, {"sequence": BATCH})
    _, one, _ = one_step(method, {"sequence": BATCH})
    _, two, _ = one_step(method, {"sequence": BATCH}, steps=2)

    def loss(params):
        s, t = logits(params, BATCH["tokens"]), teacher_logits(BATCH["tokens"])
        nll = optax.softmax_cross_entropy_with_integer_labels(s, BATCH["targets"])
        return mean(0.4 * losses.softened_kl_divergence(s, t) + 0.6 * nll, BATCH["mask"])

    params = one.params["student"]
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.jit(jax.grad(loss))(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        two.params["student"],
        wanted,
    )
    assert float(jnp.abs(first["head"] - params["head"]).max()) > 0


def test_taid_starts_at_its_interpolation_and_moves_it():
    method = methods.taid(steps=10, start=0.3, end=0.9, rate=0.1)

    def loss(params):
        values = losses.interpolated_kl_divergence(
            logits(params, BATCH["tokens"]), teacher_logits(BATCH["tokens"]), interpolation=0.3
        )
        return mean(values, BATCH["mask"])

    _, state, metrics = check(method, {"sequence": BATCH}, loss)
    held = state.memory["taid"]
    np.testing.assert_allclose(held["interpolation"], 0.3, rtol=1e-6)
    np.testing.assert_allclose(held["loss"], metrics["kd"][0] / metrics["kd"][1], rtol=1e-6)
    _, state, _ = one_step(method, {"sequence": BATCH}, steps=3)
    assert 0.3 < float(state.memory["taid"]["interpolation"]) < 0.9


def test_self_evolution_splits_at_the_mean_of_the_batch():
    def loss(params):
        s, t = logits(params, BATCH["tokens"]), teacher_logits(BATCH["tokens"])
        hard = sequence.blended_divergence(s, t, BATCH["targets"])
        values = sequence.self_evolution_divergence(
            s, t, BATCH["targets"], threshold=jax.lax.stop_gradient(mean(hard, BATCH["mask"]))
        )
        return mean(values, BATCH["mask"])

    check(methods.self_evolution_kd(), {"sequence": BATCH}, loss)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"divergence": "kll"}, "divergence must be one of .*got 'kll'"),
        ({"divergence": "skew_kl"}, r"takes \['skew'\], got \[\]"),
        ({"beta": 0.5}, r"'kl' takes \[\], got \['beta'\]"),
        ({"divergence": "skew_kl", "skew": 1.5}, "skew must be between 0 and 1"),
        ({"schedule": "rising"}, "needs steps"),
        ({"schedule": "up", "steps": 3}, "schedule must be one of"),
        ({"weight": 2.0}, "weight must be between"),
    ],
)
def test_what_token_kd_cannot_do_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        token_kd(**options)


def written(seed):
    rng = np.random.default_rng(seed)
    made = {**rows(seed), "where": np.array([True, True, True, False])}
    return {**made, "log_probs": np.log(rng.uniform(0.05, 0.9, (B, L))).astype(np.float32)}


def test_minillm_is_the_single_step_and_the_length_normalised_long_term():
    made = written(3)
    where = made["mask"] & made["where"][:, None]
    method = methods.minillm(clip=0.3, label_weight=0.5, discount=0.9)

    def at(log_probs):
        return np.take_along_axis(np.asarray(log_probs), made["targets"][..., None], -1)[..., 0]

    def parts(params):
        """The published sums, written with loops over places."""
        s, t = logits(params, made["tokens"]), teacher_logits(made["tokens"])
        log_q, log_p = jax.nn.log_softmax(s), jax.nn.log_softmax(t)
        q, p = at(jax.lax.stop_gradient(log_q)), at(log_p)
        advantages = np.zeros((B, L))
        for b in range(B):
            for l in range(L):
                later = [i for i in range(l + 1, L) if where[b, i]]
                gained = sum(0.9 ** (i - l - 1) * (p[b, i] - q[b, i]) for i in later)
                advantages[b, l] = gained / len(later) if later else 0
        drawn = made["log_probs"]
        single = jnp.exp(q - drawn) * jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)
        ratio = jnp.exp(jnp.take_along_axis(log_q, made["targets"][..., None], -1)[..., 0] - drawn)
        long = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 0.7, 1.3))
        own = logits(params, BATCH["tokens"])
        nll = optax.softmax_cross_entropy_with_integer_labels(own, BATCH["targets"])
        return mean(single, where), mean(long, where), mean(nll, BATCH["mask"])

    before, state, metrics = one_step(method, {"sequence": BATCH, "generated": made})
    found = [float(metrics[n][0] / metrics[n][1]) for n in ("single", "long", "labels")]
    np.testing.assert_allclose(found, parts(before), rtol=1e-4)
    # The advantages hang on the values alone: fixed at `before`, the sums have this gradient.
    eps = 1e-3
    direction = jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), x.dtype), before)
    moved = sum(
        jnp.sum(d * (a - b)) / -0.1
        for d, a, b in zip(
            jax.tree.leaves(direction),
            jax.tree.leaves(state.params["student"]),
            jax.tree.leaves(before),
            strict=True,
        )
    )

    def frozen_parts(params):
        s, t = logits(params, made["tokens"]), teacher_logits(made["tokens"])
        log_q, log_p = jax.nn.log_softmax(s), jax.nn.log_softmax(t)
        own = logits(before, made["tokens"])
        q, p = at(jax.nn.log_softmax(own)), at(log_p)
        rewards = np.where(where, p - q, 0)
        returns = np.asarray(sequence.discounted_returns(jnp.asarray(rewards), discount=0.9))
        later = np.cumsum(where[:, ::-1], 1)[:, ::-1] - where
        behind = np.pad(returns[:, 1:], ((0, 0), (0, 1)))
        advantages = np.where(later > 0, behind / np.maximum(later, 1), 0)
        ratio = jnp.exp(
            jnp.take_along_axis(log_q, made["targets"][..., None], -1)[..., 0] - made["log_probs"]
        )
        long = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 0.7, 1.3))
        held = np.exp(q - made["log_probs"])
        single = held * jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)
        nll = optax.softmax_cross_entropy_with_integer_labels(
            logits(params, BATCH["tokens"]), BATCH["targets"]
        )
        return mean(single, where) + mean(long, where) + 0.5 * mean(nll, BATCH["mask"])

    slope = jax.grad(frozen_parts)(before)
    wanted = sum(
        jnp.sum(d * g)
        for d, g in zip(jax.tree.leaves(direction), jax.tree.leaves(slope), strict=True)
    )
    np.testing.assert_allclose(moved, wanted, rtol=2e-3, atol=eps)


def test_without_written_rows_minillm_is_language_modelling():
    made = {**written(3), "where": np.zeros(B, bool)}
    _, state, metrics = one_step(methods.minillm(), {"sequence": BATCH, "generated": made})
    _, plain, _ = one_step(next_token(), {"sequence": BATCH})
    assert float(metrics["single"][1]) == float(metrics["long"][1]) == 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        state.params["student"],
        plain.params["student"],
    )


def crossed():
    """The student reads 5 tokens of a text for which the teacher has 4."""
    other = rows(7)
    return {
        **BATCH,
        "mask": np.ones((B, L), bool),
        "alignment": np.tile([0, 0, 1, 2, -1], (B, 1)).astype(np.int32),
        "teacher_tokens": other["tokens"][:, :4],
        "teacher_targets": other["targets"][:, :4],
        "teacher_mask": np.tile([True, True, True, False], (B, 1)),
        "teacher_alignment": np.tile([0, 1, 1, 2], (B, 1)).astype(np.int32),
    }


def test_universal_kd_goes_token_by_token_to_the_end_of_the_shorter():
    batch = crossed()

    def loss(params):
        s = logits(params, batch["tokens"])
        t = teacher_logits(batch["teacher_tokens"])
        nll = optax.softmax_cross_entropy_with_integer_labels(s, batch["targets"])
        q, p = (jnp.sort(jax.nn.softmax(x), -1) for x in (s[:, :3], t[:, :3]))
        return jnp.mean(nll) + 2 * jnp.mean(jnp.sum(jnp.abs(q - p), -1))

    check(methods.universal_kd(weight=2.0), {"sequence": batch}, loss)


def test_aligned_universal_kd_compares_stretches_of_the_same_bytes():
    batch = crossed()

    def loss(params):
        s = logits(params, batch["tokens"])
        t = teacher_logits(batch["teacher_tokens"])
        nll = optax.softmax_cross_entropy_with_integer_labels(s, batch["targets"])
        values = losses.merged_universal_logit_distance(
            s, t, batch["targets"], batch["teacher_targets"],
            batch["alignment"], batch["teacher_alignment"],
        )  # fmt: skip
        return jnp.mean(nll) + 1.5 * jnp.sum(values) / (3 * B)

    _, _, metrics = check(methods.aligned_universal_kd(), {"sequence": batch}, loss)
    assert float(metrics["kd"][1]) == 3 * B  # three segments a row


def test_networks_of_the_library_give_what_the_methods_read():
    """A decoder by chunks and one with logits make the same step."""
    sizes = {"depth": 1, "width": 4, "heads": 2, "key_heads": 1, "hidden": 8, "block": 5}
    batch = {"sequence": {**BATCH, "segments": np.zeros((B, L), np.int32)}}
    found = []
    for options in ({"features": ("hidden", "head"), "logits": False}, {}):
        nets = {
            name: networks.decoder_transformer(V, scan=False, **sizes, **options)
            for name in ("student", "teacher")
        }
        frozen = {"teacher": nets["teacher"].init(jax.random.key(5), BATCH["tokens"])["params"]}
        frozen = jax.tree.map(lambda x: 20 * x, frozen)
        optimisers = {"student": optax.sgd(0.1)}
        method = token_kd(weight=0.5, chunk=8)
        inputs = {"student": BATCH["tokens"]}
        state = init_state(jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper)
        step = jax.jit(build_train_step(nets, method.phases, optimisers))
        found.append(step(state, frozen, batch)[1])
    for name in ("kd", "labels"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)
