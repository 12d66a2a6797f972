"""Methods around private data, a step of each against the formula written out."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import CLASSES, LABELLED, NETS, SHAPE, assert_close, label_loss, outputs, prepared

from kdjax import networks
from kdjax.methods import privacy
from kdjax.networks import from_function

NET = networks.multilayer_perceptron(CLASSES, widths=(6,))


def test_private_teachers_step_at_the_worst_point_nearby_each_with_its_own_part():
    method = privacy.private_teachers(NET, copies=2, image=SHAPE, radius=0.3)
    before, step = prepared(method, nets={})
    after, _ = step(before, {}, {"labelled": LABELLED})
    for copy in range(2):
        own = jax.tree.map(lambda x, copy=copy: x[copy], before.params["teachers"])
        image, label = (LABELLED[k][4 * copy : 4 * copy + 4] for k in ("image", "label"))

        def loss(params, image=image, label=label):
            logits = NET.apply({"params": params}, image, train=False, rngs={})[0].logits
            return label_loss(logits, label)

        slope = jax.jit(jax.grad(loss))(own)
        norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(slope)))
        worst = jax.tree.map(lambda p, g, norm=norm: p + 0.3 * g / norm, own, slope)
        expected = jax.tree.map(lambda p, g: p - 0.05 * g, own, jax.jit(jax.grad(loss))(worst))
        found = jax.tree.map(lambda x, copy=copy: x[copy], after.params["teachers"])
        assert_close(found, expected, atol=1e-5)


def test_answered_queries_learns_answers_and_only_sure_guesses():
    batch = {"image": LABELLED["image"], "index": np.arange(8)}
    known = jnp.arange(8) < 3

    def values(sure, answer):
        method = privacy.answered_queries(queries=8, sure=sure, noise=0.0)
        state, step = prepared(method, nets={"student": NETS["student"]})
        memory = {"answer": answer, "answered": known}
        _, metrics = step(state.replace(memory=memory), {}, {"public": batch})
        logits = outputs("student", state.params["student"]).logits
        return logits, {name: float(t / c) for name, (t, c) in metrics.items()}

    answer = jnp.array([1, 2, 3, 0, 0, 0, 0, 0], jnp.int32)
    logits, found = values(0.0, answer)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(found["answers"], -log_p[[0, 1, 2], [1, 2, 3]].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["pseudo"], -log_p[3:].max(-1).mean(), rtol=1e-5)
    assert values(0.0, answer.at[3:].set(4))[1] == found, "unanswered labels are not read"
    between = np.sort(np.exp(log_p[3:].max(-1)))[2]
    some = -np.where(np.exp(log_p[3:].max(-1)) >= between, log_p[3:].max(-1), 0).mean()
    np.testing.assert_allclose(values(float(between) - 1e-6, answer)[1]["pseudo"], some, rtol=1e-5)


def test_swung_targets_melt_where_a_token_is_private_and_nowhere_else():
    rng = np.random.default_rng(1)
    logits, noise = 4 * rng.normal(size=(2, 3, CLASSES)), rng.laplace(size=(2, 3, CLASSES))
    private = np.array([[0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    temperature, target = privacy.swung_targets(
        logits, private, noise, hottest=5.0, noise_budget=10.0
    )
    np.testing.assert_allclose(temperature[..., 0], 1 + 4 * private)
    for place, r in np.ndenumerate(private):
        p = np.exp(logits[place] / (1 + 4 * r))
        q = np.maximum(p / p.sum() + r * 0.2 * noise[place], 1e-12)
        np.testing.assert_allclose(np.exp(target[place]), q / q.sum(), rtol=1e-4, atol=1e-6)


def test_swing_distillation_hides_the_label_and_the_peak_of_a_private_token():
    def table(key, inputs):
        del inputs
        return {"logits": jax.random.normal(key, (CLASSES, CLASSES))}

    net = from_function(table, lambda params, x: 6 * params["logits"][x.astype(int)])
    tokens = np.array([[0, 1, 2]])
    rows = {"tokens": tokens, "targets": (tokens + 1) % CLASSES, "index": np.arange(1)}
    frozen = {"teacher": net.init(jax.random.key(5), tokens)["params"]}
    method = privacy.swing_distillation(hottest=4.0, noise_budget=1e6, label_weight=2.0)
    shapes = {"student": net, "teacher": net}
    state, step = prepared(method, nets=shapes)

    def terms(private, **others):
        private = np.asarray([private], np.float32)
        _, metrics = step(state, frozen, {"sequence": {**rows, "private": private, **others}})
        return {name: float(t / c) for name, (t, c) in metrics.items()}

    own = 6 * state.params["student"]["logits"][tokens[0]]
    taught = 6 * frozen["teacher"]["logits"][tokens[0]]
    heat = np.array([1.0, 4.0, 1.0])[:, None]
    log_p, log_q = jax.nn.log_softmax(taught / heat), jax.nn.log_softmax(own / heat)
    found = terms([0.0, 1.0, 0.0])
    expected = np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1))
    np.testing.assert_allclose(found["kd"], expected, rtol=1e-3)
    log_taught = jax.nn.log_softmax(taught)
    hard = -np.asarray(jax.nn.log_softmax(own))[np.arange(3), rows["targets"][0]]
    np.testing.assert_allclose(found["labels"], (hard[0] + hard[2]) / 3, rtol=1e-4)
    masked = terms([0.0, 0.0, 0.0], mask=np.array([[True, False, True]]))
    np.testing.assert_allclose(masked["labels"], (hard[0] + hard[2]) / 2, rtol=1e-4)
    plain = np.sum(jnp.exp(log_taught) * (log_taught - jax.nn.log_softmax(own)), axis=-1)
    np.testing.assert_allclose(masked["kd"], (plain[0] + plain[2]) / 2, rtol=1e-3)
