"""Methods of language models against their formulas: the best classes alone, domains by their lag."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import methods
from kdjax.methods.domain_mixing import reweighted_domains
from kdjax.train import build_train_step, init_state, make_mesh, place
from tests.kdjax.methods.test_sequence_methods import B, L, rows, table

BATCH = {**rows(1), "segments": np.zeros((B, L), np.int32)}
NETS = {"student": table(3, hidden=False), "teacher": table(4, hidden=False)}
TEACHER = NETS["teacher"].init(jax.random.key(9), BATCH)["params"]


def stepped(method, batch, *, steps=1, rate=0.1):
    """(state before, metrics of the last step as means, state after) under SGD."""
    players = {"student": optax.sgd(rate)}
    state = jax.jit(lambda: init_state(
        jax.random.key(0), NETS, dict.fromkeys(NETS, BATCH), players,
        hyper=method.hyper, memory=method.memory,
    ))()  # fmt: skip
    before, step = state, jax.jit(build_train_step(NETS, method.phases, players))
    for _ in range(steps):
        state, metrics = step(state, {"teacher": TEACHER}, batch)
    return before, {name: float(t / c) for name, (t, c) in metrics.items()}, state


def log_probs(name, params, tokens):
    logits = NETS[name].apply({"params": params}, {"tokens": tokens}, train=False, rngs={})[0]
    return np.asarray(jax.nn.log_softmax(logits.logits))


def test_first_compares_the_renormalised_best_classes_of_a_recalibrated_teacher():
    k, tau = 3, 2.0
    before, found, _ = stepped(methods.first(top_k=k, teacher_temperature=tau), {"sequence": BATCH})
    p = log_probs("teacher", TEACHER, BATCH["tokens"])
    q = log_probs("student", before.params["student"], BATCH["tokens"])
    best = np.argsort(-p, axis=-1)[..., :k]
    p, q = (np.take_along_axis(x, best, axis=-1) for x in (p / tau, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    wanted = (np.exp(p) * (p - q)).sum(-1)[BATCH["mask"]].mean()
    np.testing.assert_allclose(found["kd"], wanted, rtol=1e-5)


def test_domain_reweighting_draws_more_of_the_domain_where_the_student_lags():
    factors, student, teacher = (
        np.array(x) for x in ([0.2, 0.5, 0.3], [4.0, 3.0, 9.0], [2.0, 3, 3])
    )
    raw = factors * np.exp(student / teacher)
    wanted = 0.5 * raw / raw.sum() + 0.5 / 3
    found = reweighted_domains(jnp.asarray(factors), student, teacher, smoothing=0.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # Every domain has its own token, and the teacher knows the second one's targets alone.
    batch = {
        f"domain{i}": {
            "tokens": np.full((B, L), i), "targets": np.full((B, L), 3 + i),
            "mask": np.ones((B, L), bool), "segments": np.zeros((B, L), np.int32),
            "index": np.arange(B),
        } for i in range(2)
    }  # fmt: skip
    method = methods.ddk(domains=2, every=3)
    _, _, two = stepped(method, batch, steps=2, rate=0.0)
    before, _, after = stepped(method, batch, steps=3, rate=0.0)
    np.testing.assert_allclose(two.memory["domains"]["factors"], 0.5)
    assert float(two.memory["domains"]["seen"][2].sum()) == 2 * B * L
    assert float(after.memory["domains"]["seen"].sum()) == 0
    held = after.memory["domains"]
    np.testing.assert_allclose(
        held["factors"], reweighted_domains(jnp.full(2, 0.5), held["ratio"], 1.0, smoothing=0.5),
        rtol=1e-6,
    )  # fmt: skip
    lag = [
        log_probs("teacher", TEACHER, np.array([[i]]))[0, 0, 3 + i]
        - log_probs("student", before.params["student"], np.array([[i]]))[0, 0, 3 + i]
        for i in range(2)
    ]
    np.testing.assert_allclose(np.log(held["ratio"]), lag, atol=1e-4)
    _, _, even = stepped(methods.ddk(domains=2, every=1, smoothing=0.0), batch)
    np.testing.assert_allclose(even.memory["domains"]["factors"], 0.5)


def test_domain_reweighting_minimises_the_labels_and_the_divergence_of_the_drawn_rows():
    batch = {f"domain{i}": {**BATCH, "index": np.arange(B)} for i in range(2)}
    before, found, after = stepped(methods.ddk(domains=2, every=5, weight=0.3), batch)
    p = log_probs("teacher", TEACHER, BATCH["tokens"])

    def loss(params):
        logits = NETS["student"].apply({"params": params}, BATCH, train=True, rngs={})[0].logits
        q = jax.nn.log_softmax(logits)
        labels = -jnp.take_along_axis(q, BATCH["targets"][..., None], axis=-1)[..., 0]
        kd = jnp.sum(np.exp(p) * (p - q), axis=-1)
        return sum(
            weight * jnp.sum(x * BATCH["mask"]) / BATCH["mask"].sum()
            for weight, x in ((1.0, labels), (0.3, kd))
        )

    own = before.params["student"]
    wanted = jax.tree.map(lambda x, g: x - 0.1 * g, own, jax.jit(jax.grad(loss))(own))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params["student"], wanted
    )
    assert found["labels"] > 0


def test_domains_are_drawn_and_counted_alike_on_one_device_and_on_several():
    batch = {f"domain{i}": {**BATCH, **rows(i), "index": np.arange(B)} for i in range(2)}
    method, players = methods.ddk(domains=2, every=2), {"student": optax.sgd(0.1)}
    shapes = dict.fromkeys(NETS, BATCH)
    states = []
    for how, devices in (("pjit", 1), ("pjit", B), ("pmap", B)):
        state = jax.jit(
            lambda: init_state(
                jax.random.key(0), NETS, shapes, players, hyper=method.hyper, memory=method.memory
            )
        )()
        step = place(
            lambda axis: build_train_step(NETS, method.phases, players, axis=axis),
            make_mesh(f"data={devices}", jax.devices()[:devices]), how,
        )  # fmt: skip
        for _ in range(3):
            state, _ = step(state, {"teacher": TEACHER}, batch)
        states.append(jax.device_get((state.params, state.memory)))
    assert states[0][1]["domains"]["factors"][0] != 0.5
    for other in states[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), states[0], other
        )
