"""Kinds of step, by who teaches whom: each against a float64 loop written by hand."""

import jax
import jax.numpy as jnp
import linear
import numpy as np
import optax
import pytest
import small
from linear import close, kl, normal, pulled, softmax, weight

from kdjax.losses import softened_kl_divergence
from kdjax.networks.network import Network
from kdjax.train import build_train_step, init_state, make_mesh, place, reverse_gradient, term
from kdjax.train.method import Phase

X = normal(0, 8, 5)
LABEL = np.arange(8) % 3
ONE_HOT = np.eye(3)[LABEL]
STUDENT, TEACHER, TUTOR = normal(1, 5, 3), normal(2, 5, 3), 2 * normal(3, 5, 3)
BATCH = {"image": X, "label": LABEL}


def networks(**weights):
    return {name: linear.network(value) for name, value in weights.items()}


def frozen(**weights):
    return {name: {"w0": jnp.asarray(value)} for name, value in weights.items()}


def logits(scope, name, inputs=None, **options):
    inputs = scope.batch["image"] if inputs is None else inputs
    return scope.apply(name, inputs, **options)[0].logits


# 1. one frozen teacher


def test_a_frozen_teacher_teaches_and_stays():
    def objective(scope):
        values = softened_kl_divergence(
            logits(scope, "student"), logits(scope, "teacher"), temperature=2.0
        )
        return {"kd": term(values, weight=0.5)}, {}

    held = frozen(teacher=TEACHER)
    before = np.asarray(held["teacher"]["w0"]).tobytes()
    states, _ = linear.run(
        networks(student=STUDENT, teacher=STUDENT),
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.3)},
        BATCH,
        frozen=held,
        steps=3,
    )
    w, p = STUDENT.astype(np.float64), softmax(X @ TEACHER / 2.0)
    for state in states:
        w = w - 0.3 * 0.5 * pulled(X, w, p, temperature=2.0)
        close(weight(state, "student"), w)
    assert set(states[-1].params) == set(states[-1].opt) == {"student"}
    assert np.asarray(held["teacher"]["w0"]).tobytes() == before


# 2. several teachers


@pytest.mark.parametrize("kind", ["fixed", "per example"])
def test_several_teachers_with_given_weights(kind):
    given = np.array([0.7, 0.3]) if kind == "fixed" else softmax(normal(4, 8, 2))

    def objective(scope):
        student = logits(scope, "student")
        values = [
            softened_kl_divergence(student, logits(scope, name)) for name in ("teacher", "tutor")
        ]
        shares = scope.batch["shares"]
        return {"kd": term(jnp.sum(shares * jnp.stack(values, -1), -1))}, {}

    shares = np.broadcast_to(given, (8, 2)).astype(np.float32)
    states, _ = linear.run(
        networks(student=STUDENT, teacher=STUDENT, tutor=STUDENT),
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.3)},
        {**BATCH, "shares": shares},
        frozen=frozen(teacher=TEACHER, tutor=TUTOR),
    )
    gradient = sum(
        pulled(X, STUDENT, softmax(X @ w), weight=shares[:, k])
        for k, w in enumerate((TEACHER, TUTOR))
    )
    close(weight(states[0], "student"), STUDENT - 0.3 * gradient)


def test_the_weights_of_teachers_are_learned_by_a_player_of_their_own():
    """The softmax of the player's two numbers weighs the divergences: both gradients by hand."""

    def objective(scope):
        shares = jax.nn.softmax(scope.params["weights"]["w0"][0])
        student = logits(scope, "student")
        values = jnp.stack(
            [softened_kl_divergence(student, logits(scope, name)) for name in ("teacher", "tutor")],
            -1,
        )
        return {"kd": term(values @ shares)}, {}

    start = np.array([[0.4, -0.2]], np.float32)
    states, _ = linear.run(
        networks(student=STUDENT, teacher=STUDENT, tutor=STUDENT, weights=start),
        [Phase(objective, ("student", "weights"))],
        {"student": optax.sgd(0.3), "weights": optax.sgd(2.0)},
        BATCH,
        frozen=frozen(teacher=TEACHER, tutor=TUTOR),
        steps=2,
    )
    w, a = STUDENT.astype(np.float64), start[0].astype(np.float64)
    targets = [softmax(X @ TEACHER), softmax(X @ TUTOR)]
    for state in states:
        shares = softmax(a)
        values = np.array([kl(p, softmax(X @ w)).mean() for p in targets])
        gradient = sum(share * pulled(X, w, p) for share, p in zip(shares, targets, strict=True))
        w, a = w - 0.3 * gradient, a - 2.0 * shares * (values - shares @ values)
        close(weight(state, "student"), w)
        close(weight(state, "weights")[0], a)


def test_a_policy_chooses_the_teacher_of_each_example_and_learns_from_the_reward():
    """Its draws come from per-example keys; its gradient is REINFORCE's, by hand."""
    start, reward = normal(9, 5, 2), normal(10, 8)

    def choose(scope):
        keys = scope.rng("teacher", scope.batch["index"])
        chosen = jax.vmap(jax.random.categorical)(keys, logits(scope, "policy"))
        return {}, {"batch": {"chosen": chosen}, "memory": {"chosen": chosen}}

    def learn(scope):
        student, chosen = logits(scope, "student"), scope.batch["chosen"]
        values = jnp.stack(
            [softened_kl_divergence(student, logits(scope, name)) for name in ("teacher", "tutor")],
            -1,
        )
        picked = jnp.take_along_axis(values, chosen[:, None], axis=-1)[:, 0]
        return {"kd": term(picked)}, {}

    def reinforce(scope):
        scores = optax.softmax_cross_entropy_with_integer_labels(
            logits(scope, "policy"), scope.batch["chosen"]
        )
        return {"policy": term(scope.batch["reward"] * scores)}, {}

    states, _ = linear.run(
        networks(student=STUDENT, teacher=STUDENT, tutor=STUDENT, policy=start),
        [Phase(choose, ()), Phase(learn, ("student",)), Phase(reinforce, ("policy",))],
        {"student": optax.sgd(0.3), "policy": optax.sgd(0.5)},
        {"image": X, "reward": reward, "index": np.arange(8)},
        frozen=frozen(teacher=TEACHER, tutor=TUTOR),
        memory={"chosen": jnp.zeros(8, jnp.int32)},
    )
    chosen = np.eye(2)[states[0].memory["chosen"]]
    assert 0 < chosen[:, 0].sum() < 8
    gradient = sum(
        pulled(X, STUDENT, softmax(X @ w), weight=chosen[:, k])
        for k, w in enumerate((TEACHER, TUTOR))
    )
    close(weight(states[0], "student"), STUDENT - 0.3 * gradient)
    close(weight(states[0], "policy"), start - 0.5 * pulled(X, start, chosen, weight=reward))


# 3. peers that teach each other


def test_peers_pull_each_other_and_nothing_flows_into_the_target():
    def objective(scope):
        a, b = logits(scope, "a"), logits(scope, "b")
        fixed = jax.lax.stop_gradient
        return {
            "a": term(softened_kl_divergence(a, fixed(b))),
            "b": term(softened_kl_divergence(b, fixed(a)), weight=2.0),
        }, {}

    states, _ = linear.run(
        networks(a=STUDENT, b=TEACHER),
        [Phase(objective, ("a", "b"))],
        {"a": optax.sgd(0.3), "b": optax.sgd(0.1)},
        BATCH,
        steps=2,
    )
    a, b = STUDENT.astype(np.float64), TEACHER.astype(np.float64)
    for state in states:
        steps = pulled(X, a, softmax(X @ b)), pulled(X, b, softmax(X @ a), weight=2.0)
        a, b = a - 0.3 * steps[0], b - 0.1 * steps[1]
        close(weight(state, "a"), a)
        close(weight(state, "b"), b)


# 4. moving averages as teachers


def test_the_mean_teacher_is_the_average_before_the_step_and_gets_no_gradient():
    """With a decay that ramps up, as mean teachers use: min(0.9, (1 + t) / (10 + t))."""

    def decay(step):
        return jnp.minimum(0.9, (1.0 + step) / (10.0 + step))

    def objective(scope):
        student = logits(scope, "student")
        average = logits(scope, "student", params=scope.average["student"], train=False)
        labels = optax.softmax_cross_entropy_with_integer_labels(student, scope.batch["label"])
        return {"labels": term(labels), "mean": term(jnp.sum((student - average) ** 2, -1))}, {}

    states, _ = linear.run(
        networks(student=STUDENT),
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.05)},
        BATCH,
        averages={"student": decay},
        steps=4,
    )
    w = average = STUDENT.astype(np.float64)
    for number, state in enumerate(states):
        drift = 2 * X.T @ (X @ w - X @ average) / len(X)
        w = w - 0.05 * (pulled(X, w, ONE_HOT) + drift)
        kept = min(0.9, (1 + number) / (10 + number))
        average = kept * average + (1 - kept) * w
        close(weight(state, "student"), w)
        close(np.asarray(state.average["student"]["w0"]), average)


# 5. adversarial players


def test_a_reversed_gradient_is_the_negated_scaled_one():
    x = jnp.asarray(X)
    plain = jax.grad(lambda x: jnp.sum(jnp.sin(x) ** 2))(x)
    turned = jax.grad(lambda x: jnp.sum(jnp.sin(reverse_gradient(x, 0.3)) ** 2))(x)
    np.testing.assert_allclose(turned, -0.3 * plain, rtol=1e-6)
    np.testing.assert_array_equal(reverse_gradient(x, 0.3), x)
    assert reverse_gradient(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    half = jax.grad(lambda x: jnp.sum(reverse_gradient(x, 0.5)))(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and float(half[0, 0]) == -0.5


def test_the_reversed_gradients_scale_may_be_traced_and_gets_none():
    value, gradients = jax.jit(
        jax.value_and_grad(lambda x, s: 2.0 * reverse_gradient({"x": x}, s)["x"], (0, 1))
    )(3.0, 0.25)
    assert (float(value), *map(float, gradients)) == (6.0, -0.5, 0.0)


def test_the_extractor_climbs_what_the_discriminator_descends():
    """One phase and one backward pass: a discriminator of domains on reversed features."""
    extractor, discriminator = normal(5, 5, 4), normal(6, 4, 2)

    def objective(scope):
        features = logits(scope, "extractor")
        scale = scope.hyper["scale"] * scope.step
        domains = logits(scope, "discriminator", reverse_gradient(features, scale))
        values = optax.softmax_cross_entropy_with_integer_labels(domains, scope.batch["domain"])
        return {"domain": term(values)}, {}

    domain = np.array([0, 1] * 4)
    states, _ = linear.run(
        networks(extractor=extractor, discriminator=discriminator),
        [Phase(objective, ("extractor", "discriminator"))],
        {"extractor": optax.sgd(0.1), "discriminator": optax.sgd(0.2)},
        {"image": X, "domain": domain},
        steps=3,
        hyper={"scale": 0.4},
    )
    e, d = extractor.astype(np.float64), discriminator.astype(np.float64)
    for number, state in enumerate(states):
        error = (softmax(X @ e @ d) - np.eye(2)[domain]) / len(X)
        e, d = (
            e + 0.1 * 0.4 * number * X.T @ error @ d.T,
            d - 0.2 * (X @ e).T @ error,
        )
        close(weight(state, "extractor"), e)
        close(weight(state, "discriminator"), d)


def test_a_generator_against_a_student_three_to_one_equals_a_hand_written_loop():
    """Adam climbs the disagreement once, SGD descends it three times on what was then generated."""
    generator, noise = normal(7, 4, 5), normal(8, 8, 4)

    def disagreement(scope):
        images = logits(scope, "generator", scope.batch["noise"])
        return jnp.sum(
            (logits(scope, "student", images) - logits(scope, "teacher", images)) ** 2, -1
        )

    phases = [
        Phase(lambda s: ({"generator": term(-disagreement(s))}, {}), ("generator",)),
        Phase(lambda s: ({"student": term(disagreement(s))}, {}), ("student",), repeats=3),
    ]
    optimisers = {"generator": optax.adam(0.02), "student": optax.sgd(0.01)}
    states, metrics = linear.run(
        networks(student=STUDENT, teacher=STUDENT, generator=generator),
        phases,
        optimisers,
        {"noise": noise},
        frozen=frozen(teacher=TEACHER),
        steps=3,
    )
    g, w, z = generator.astype(np.float64), STUDENT.astype(np.float64), noise.astype(np.float64)
    first, second = np.zeros_like(g), np.zeros_like(g)
    for number, state in enumerate(states, 1):
        gap = w - TEACHER
        gradient = -2 * z.T @ (z @ g @ gap) @ gap.T / len(z)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        mean, square = first / (1 - 0.9**number), second / (1 - 0.999**number)
        g = g - 0.02 * mean / (np.sqrt(square) + 1e-8)
        for _ in range(3):
            images = z @ g
            value = np.mean(np.sum((images @ (w - TEACHER)) ** 2, -1))
            w = w - 0.01 * 2 * images.T @ (images @ (w - TEACHER)) / len(z)
        close(weight(state, "generator"), g, 2e-5)
        close(weight(state, "student"), w, 2e-5)
    # Of the three repeats the metrics are the last one's.
    np.testing.assert_allclose(metrics["student"][0] / 8, value, rtol=1e-4)


# 8. data made between steps; 9. no live teacher


def test_what_one_phase_makes_the_next_one_learns_from():
    """A phase that trains nobody generates; then everyone trains, and what was made is data."""
    generator, noise = normal(7, 4, 5), normal(8, 8, 4)

    def generate(scope):
        images = logits(scope, "generator", scope.batch["noise"])
        targets = jax.nn.softmax(logits(scope, "teacher", images))
        return {}, {"batch": {"made": {"image": images, "target": targets}}}

    def learn(scope):
        made = scope.batch["made"]
        student = logits(scope, "student", made["image"])
        return {"kd": term(optax.softmax_cross_entropy(student, made["target"]))}, {}

    nets = networks(student=STUDENT, teacher=STUDENT, generator=generator)
    optimisers = {"student": optax.sgd(0.3), "generator": optax.sgd(0.3)}
    phases = [Phase(generate, ()), Phase(learn, ("student", "generator"))]
    held = frozen(teacher=TEACHER)
    states, metrics = linear.run(nets, phases, optimisers, {"noise": noise}, frozen=held)
    images = noise.astype(np.float64) @ generator
    gradient = pulled(images, STUDENT, softmax(images @ TEACHER))
    close(weight(states[0], "student"), STUDENT - 0.3 * gradient)
    np.testing.assert_array_equal(weight(states[0], "generator"), generator)
    assert set(metrics) == {"kd"}
    for how in ("pjit", "pmap"):
        inputs = dict.fromkeys(optimisers, X)
        step = place(lambda a: build_train_step(nets, phases, optimisers, axis=a), make_mesh(), how)
        state, _ = step(
            init_state(jax.random.key(0), nets, inputs, optimisers), held, {"noise": noise}
        )
        close(weight(state, "student"), weight(states[0], "student"), 1e-6)


def test_a_cached_signal_gives_the_update_of_the_live_teacher():
    def live(scope):
        return {
            "kd": term(softened_kl_divergence(logits(scope, "student"), logits(scope, "teacher")))
        }, {}

    def cached(scope):
        return {
            "kd": term(softened_kl_divergence(logits(scope, "student"), scope.batch["teacher"]))
        }, {}

    optimiser = {"student": optax.adam(0.1)}
    results = []
    for objective, batch, nets, held in (
        (live, BATCH, networks(student=STUDENT, teacher=STUDENT), frozen(teacher=TEACHER)),
        (cached, {**BATCH, "teacher": jnp.asarray(X) @ TEACHER}, networks(student=STUDENT), {}),
    ):
        phases = [Phase(objective, ("student",))]
        results.append(linear.run(nets, phases, optimiser, batch, frozen=held, steps=5)[0][-1])
    close(weight(results[0], "student"), weight(results[1], "student"), 1e-6)
    assert np.abs(weight(results[0], "student") - STUDENT).max() > 0.1


# 10. transfer modules that are dropped


def test_a_projector_trains_with_the_student_and_is_absent_from_what_is_exported():
    projector, teacher = normal(9, 6, 7), small.dense(5, 7, 3)
    student = small.dense(5, 6, 3)
    body, head = normal(1, 5, 6), normal(2, 6, 3)
    start = {"w0": jnp.asarray(body), "w1": jnp.asarray(head)}
    student = Network(lambda key, inputs: {"params": start, "model": {}}, student.apply)

    def objective(scope):
        inputs = scope.batch["image"]
        hidden = scope.apply("student", inputs)[0].features["hidden"]
        target = scope.apply("teacher", inputs)[0].features["hidden"]
        return {"hint": term(jnp.sum((logits(scope, "projector", hidden) - target) ** 2, -1))}, {}

    held = {"teacher": {"w0": jnp.asarray(normal(3, 5, 7)), "w1": jnp.zeros((7, 3))}}
    (state,), _ = linear.run(
        {"student": student, "teacher": teacher, "projector": linear.network(projector)},
        [Phase(objective, ("student", "projector"))],
        {"student": optax.sgd(0.1), "projector": optax.sgd(0.1)},
        BATCH,
        frozen=held,
    )
    hidden = np.tanh(X.astype(np.float64) @ body)
    error = 2 * (hidden @ projector - np.tanh(X @ normal(3, 5, 7))) / len(X)
    close(weight(state, "projector"), projector - 0.1 * hidden.T @ error)
    stepped = body - 0.1 * X.T @ (error @ projector.T * (1 - hidden**2))
    exported = state.params["student"]
    close(exported["w0"], stepped)
    assert jax.tree.structure(exported) == jax.tree.structure(start)
    alone, _ = student.apply(
        {"params": exported, "frozen": {}, "model": {}}, X, train=False, rngs={}
    )
    close(alone.logits, np.tanh(X @ stepped) @ head, 1e-5)
