"""Kinds of step, by what they do beyond one gradient: inner updates, memories, schedules, parts."""

from collections import deque

import jax
import jax.numpy as jnp
import linear
import numpy as np
import optax
import pytest
from linear import close, normal, pulled, softmax, weight

from kdjax.networks import low_rank
from kdjax.networks.network import Network, Outputs
from kdjax.train import (
    average_gradient_memory,
    build_train_step,
    init_state,
    make_mesh,
    place,
    term,
)
from kdjax.train.method import Phase

X, LABEL = normal(0, 8, 5), np.arange(8) % 3
ONE_HOT = np.eye(3)[LABEL]
STUDENT, TEACHER = normal(1, 5, 3), normal(2, 5, 3)


def labels(scope, *, params=None, image="image", weights=None):
    z, _ = scope.apply("student", scope.batch[image], params=params)
    values = optax.softmax_cross_entropy_with_integer_labels(z.logits, scope.batch["label"])
    return values if weights is None else weights * values


# 7. meta-gradients: finite differences in float64 of a NumPy restatement

FRESH = normal(3, 8, 5)


def learned(w, a):
    """The student after one inner SGD step of rate 0.7 on examples weighed by softmax(a)."""
    w, shares = w.reshape(5, 3), softmax(a)
    return w - 0.7 * X.T.astype(np.float64) @ (shares[:, None] * (softmax(X @ w) - ONE_HOT))


def validated(w, a):
    q = softmax(FRESH @ learned(w, a))
    return -np.mean(np.log(q[np.arange(8), LABEL]))


def differences(f, x):
    unit = np.eye(x.size) * 1e-6
    return np.array([(f(x + d) - f(x - d)) / 2e-6 for d in unit])


@pytest.mark.parametrize("trains", ["student", "examples"])
def test_a_meta_gradient_goes_through_the_inner_update(trains):
    """The student's start (second order) or the weights of the examples it learns from."""

    def objective(scope):
        shares = jax.nn.softmax(scope.params["examples"]["w0"][0])

        def inner(params):
            return jnp.sum(labels(scope, params=params, weights=shares))

        start = scope.params["student"]
        updated = jax.tree.map(lambda w, g: w - 0.7 * g, start, jax.grad(inner)(start))
        return {"outer": term(labels(scope, params=updated, image="fresh"))}, {}

    with jax.enable_x64(True):
        start = {"student": STUDENT, "examples": normal(4, 1, 8)}
        start = {name: value.astype(np.float64) for name, value in start.items()}
        states, _ = linear.run(
            {name: linear.network(value) for name, value in start.items()},
            [Phase(objective, (trains,))],
            {name: optax.sgd(1.0) for name in start},
            {"image": X.astype(np.float64), "fresh": FRESH.astype(np.float64), "label": LABEL},
        )
        found = {name: start[name] - np.asarray(states[0].params[name]["w0"]) for name in start}
    w, a = start["student"].ravel(), start["examples"][0]
    if trains == "student":
        expected = differences(lambda w: validated(w, a), w)
        first_order = pulled(FRESH, learned(w, a), ONE_HOT).ravel()
        assert np.abs(expected - first_order).max() > 1e-2, "second order would not show"
    else:
        expected = differences(lambda a: validated(w, a), a)
    assert np.abs(expected).max() > 1e-2
    close(found[trains].ravel(), expected, 1e-8)
    (other,) = set(start) - {trains}
    assert not found[other].any()


def test_a_pass_inside_the_objectives_own_loop_is_not_handed_out_of_it():
    """Inner steps in a scan read the teacher as the outer loss does: two passes, not one."""

    def objective(scope):
        def inner(params, _):
            target, _ = scope.apply("teacher", scope.batch["image"])

            def loss(params):
                z, _ = scope.apply("student", scope.batch["image"], params=params)
                return jnp.mean(jnp.sum((z.logits - target.logits) ** 2, -1))

            return jax.tree.map(lambda w, g: w - 0.05 * g, params, jax.grad(loss)(params)), None

        updated, _ = jax.lax.scan(inner, scope.params["student"], None, length=3)
        z, _ = scope.apply("student", scope.batch["image"], params=updated)
        target, _ = scope.apply("teacher", scope.batch["image"])
        return {"outer": term(jnp.sum((z.logits - target.logits) ** 2, -1))}, {}

    (state,), metrics = linear.run(
        {"student": linear.network(STUDENT), "teacher": linear.network(STUDENT)},
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.05)},
        {"image": X},
        frozen={"teacher": {"w0": TEACHER}},
    )
    # Every inner step maps the gap W - V to A (W - V), so the outer gradient is A³ of the last one.
    x = X.astype(np.float64)
    contraction = np.eye(5) - 0.05 * 2 * x.T @ x / 8
    gap = np.linalg.matrix_power(contraction, 3) @ (STUDENT.astype(np.float64) - TEACHER)
    gradient = np.linalg.matrix_power(contraction, 3) @ (2 * x.T @ x / 8) @ gap
    close(weight(state, "student"), STUDENT - 0.05 * gradient)
    np.testing.assert_allclose(metrics["outer"][0], np.sum((x @ gap) ** 2), rtol=1e-5)


# 11. memories

ROWS = 20  # not a multiple of the batch: the oldest batch is cut


def queued(scope):
    """Negatives from a queue of the teacher's rows: pushed away in proportion to the similarity."""
    student, _ = scope.apply("student", scope.batch["image"])
    teacher, _ = scope.apply("teacher", scope.batch["image"])
    queue = scope.memory["queue"]
    values = jnp.sum((student.logits - teacher.logits) ** 2, -1)
    values = values + jnp.mean(student.logits @ queue.T, -1)
    new = scope.gather(teacher.logits)
    return {"queue": term(values)}, {"memory": {"queue": jnp.concatenate([queue, new])[-ROWS:]}}


def test_a_queue_in_memory_is_first_in_first_out_however_the_batch_is_split():
    nets = {"student": linear.network(STUDENT), "teacher": linear.network(TEACHER)}
    optimisers, frozen = {"student": optax.sgd(0.05)}, {"teacher": {"w0": jnp.asarray(TEACHER)}}
    batches = [normal(seed, 8, 5) for seed in range(4)]
    for how in ("one", "pjit", "pmap"):
        mesh = make_mesh("data=1", jax.devices()[:1]) if how == "one" else make_mesh()
        step = place(
            lambda axis: build_train_step(
                nets, [Phase(queued, ("student",))], optimisers, axis=axis
            ),
            mesh,
            "pjit" if how == "one" else how,
        )
        state = init_state(
            jax.random.key(0), nets, {"student": X}, optimisers,
            memory={"queue": jnp.zeros((ROWS, 3))},
        )  # fmt: skip
        queue, w = deque([np.zeros(3)] * ROWS, maxlen=ROWS), STUDENT.astype(np.float64)
        for x in batches:
            state, _ = step(state, frozen, {"image": x})
            gradient = 2 * x.T @ (x @ w - x @ TEACHER) / 8
            w = w - 0.05 * (gradient + np.outer(x.mean(0), np.mean(queue, 0)))
            queue.extend(x.astype(np.float64) @ TEACHER)
            close(np.asarray(state.memory["queue"]), np.stack(queue), 1e-5)
            close(weight(state, "student"), w, 1e-5)


def prototypes(scope):
    """Class means of the teacher's rows as moving averages: a class that is absent stays as it is."""
    student, _ = scope.apply("student", scope.batch["image"])
    teacher, _ = scope.apply("teacher", scope.batch["image"])
    rows, label = scope.gather((teacher.logits, scope.batch["label"]))
    member = jax.nn.one_hot(label, 4).T
    counts = jnp.sum(member, -1)
    means = member @ rows / jnp.maximum(counts, 1)[:, None]
    old = scope.memory["prototypes"]
    new = jnp.where((counts > 0)[:, None], 0.9 * old + 0.1 * means, old)
    target = old[scope.batch["label"]]
    memory = {"prototypes": new, "counts": scope.memory["counts"] + counts}
    return {"pull": term(jnp.sum((student.logits - target) ** 2, -1))}, {"memory": memory}


def test_class_statistics_in_memory_are_those_of_the_global_batch():
    nets = {"student": linear.network(STUDENT), "teacher": linear.network(TEACHER)}
    optimisers, frozen = {"student": optax.sgd(0.05)}, {"teacher": {"w0": jnp.asarray(TEACHER)}}
    start = normal(5, 4, 3)
    for how in ("pjit", "pmap"):
        step = place(
            lambda axis: build_train_step(
                nets, [Phase(prototypes, ("student",))], optimisers, axis=axis
            ),
            make_mesh(),
            how,
        )
        state = init_state(
            jax.random.key(0), nets, {"student": X}, optimisers,
            memory={"prototypes": start, "counts": np.zeros(4, np.float32)},
        )  # fmt: skip
        means, w = start.astype(np.float64), STUDENT.astype(np.float64)
        for seed in range(2):
            label = np.roll(LABEL, seed) if seed else np.zeros(8, int)
            state, _ = step(state, frozen, {"image": X, "label": label})
            w = w - 0.05 * 2 * X.T @ (X @ w - means[label]) / 8
            for c in set(label):
                means[c] = 0.9 * means[c] + 0.1 * (X[label == c] @ TEACHER).mean(0)
            close(weight(state, "student"), w, 1e-5)
            close(np.asarray(state.memory["prototypes"]), means, 1e-6)
        np.testing.assert_array_equal(state.memory["counts"], [11, 3, 2, 0])
        np.testing.assert_array_equal(state.memory["prototypes"][3], start[3])


# 12. schedules, and weights adapted from the loss


def test_weight_and_temperature_follow_the_step():
    def objective(scope):
        student, _ = scope.apply("student", scope.batch["image"])
        temperature = scope.hyper["start"] / (1.0 + scope.step)
        share = jnp.minimum(1.0, 0.25 * scope.step)
        target = jax.nn.softmax(scope.batch["teacher"] / temperature)
        kd = optax.softmax_cross_entropy(student.logits / temperature, target) * temperature**2
        return {"labels": term(labels(scope), weight=1 - share), "kd": term(kd, weight=share)}, {}

    states, _ = linear.run(
        {"student": linear.network(STUDENT)},
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.2)},
        {"image": X, "label": LABEL, "teacher": X @ TEACHER},
        steps=6,
        hyper={"start": 6.0},
    )
    w = STUDENT.astype(np.float64)
    for number, state in enumerate(states):
        temperature, share = 6.0 / (1 + number), min(1.0, 0.25 * number)
        kd = pulled(X, w, softmax(X @ TEACHER / temperature), temperature=temperature)
        w = w - 0.2 * ((1 - share) * pulled(X, w, ONE_HOT) + share * kd)
        close(weight(state, "student"), w, 1e-5)


def test_a_weight_adapted_from_the_loss_is_a_number_and_no_path_for_gradients():
    """Each term over its own moving average, which the objective keeps in memory."""

    def objective(scope):
        student, _ = scope.apply("student", scope.batch["image"])
        values = {
            "labels": labels(scope),
            "square": 20 * jnp.sum((student.logits - scope.batch["teacher"]) ** 2, -1),
        }
        seen = {name: jnp.mean(scope.gather(v)) for name, v in values.items()}
        average = {n: 0.5 * scope.memory["loss"][n] + 0.5 * seen[n] for n in seen}
        terms = {n: term(v, weight=1 / average[n]) for n, v in values.items()}
        return terms, {"memory": {"loss": average}}

    states, _ = linear.run(
        {"student": linear.network(STUDENT)},
        [Phase(objective, ("student",))],
        {"student": optax.sgd(0.2)},
        {"image": X, "label": LABEL, "teacher": X @ TEACHER},
        steps=4,
        memory={"loss": {"labels": 1.0, "square": 1.0}},
    )
    w, average = STUDENT.astype(np.float64), np.ones(2)
    for state in states:
        gap = X @ w - X @ TEACHER
        entropy = -np.mean(np.log(softmax(X @ w)[np.arange(8), LABEL]))
        average = 0.5 * average + 0.5 * np.array([entropy, 20 * np.mean(np.sum(gap**2, -1))])
        square = 20 * 2 * X.T @ gap / 8
        w = w - 0.2 * (pulled(X, w, ONE_HOT) / average[0] + square / average[1])
        close(weight(state, "student"), w, 1e-5)


# 13. partial training: masks, adapters


def test_masked_weights_keep_their_bits_under_an_optimiser_that_would_decay_them():
    """A pruned student: the mask in memory, applied behind AdamW, moments and decay included."""
    mask = np.random.default_rng(0).random((5, 3)) > 0.5

    def project(updates, memory):
        keep = memory["mask"]
        return jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, {"student": {"w0": keep}})

    runs = {}
    for name, hook in (("masked", project), ("free", None)):
        states, _ = linear.run(
            {"student": linear.network(STUDENT)},
            [Phase(lambda s: ({"labels": term(labels(s))}, {}), ("student",), project=hook)],
            {"student": optax.adamw(0.1, weight_decay=0.1)},
            {"image": X, "label": LABEL},
            steps=1 if name == "free" else 3,
            memory={"mask": mask},
        )
        runs[name] = states
    last = runs["masked"][-1].params["student"]["w0"]
    np.testing.assert_array_equal(np.asarray(last)[~mask], STUDENT[~mask])
    assert (np.abs(np.asarray(last) - STUDENT)[mask] > 0.05).all()
    first = [weight(runs[name][0], "student")[mask] for name in ("masked", "free")]
    close(*first, 1e-6)


def test_adapters_in_a_frozen_teacher_train_with_the_student():
    """Both sides of one distance: the teacher's factors come towards the student, its weights stay."""
    base = linear.network(TEACHER)
    nets = {
        "student": linear.network(STUDENT),
        "teacher": low_rank(base, ["w0"], rank=2, alpha=6.0),
    }

    def objective(scope):
        student, _ = scope.apply("student", scope.batch["image"])
        teacher, _ = scope.apply("teacher", scope.batch["image"])
        return {"gap": term(jnp.sum((student.logits - teacher.logits) ** 2, -1))}, {}

    frozen = {"teacher": {"w0": jnp.asarray(TEACHER)}}
    states, _ = linear.run(
        nets,
        [Phase(objective, ("student", "teacher"))],
        {"student": optax.sgd(0.02), "teacher": optax.adam(0.02, eps=1e-3)},
        {"image": X},
        frozen=frozen,
        steps=2,
    )
    start = init_state(
        jax.random.key(0), nets, {"teacher": jnp.zeros((1, 1))}, {"teacher": optax.sgd(1.0)}
    ).params["teacher"]["w0"]
    w, x, v = STUDENT.astype(np.float64), X.astype(np.float64), TEACHER.astype(np.float64)
    a, b = (np.asarray(start[name], np.float64) for name in "ab")
    first = second = np.zeros(2, object)
    for number, state in enumerate(states, 1):
        slope = 2 * x.T @ (x @ w - x @ (v + 3.0 * a @ b)) / 8
        gradient = np.array([-3.0 * slope @ b.T, -3.0 * a.T @ slope], object)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        w = w - 0.02 * slope
        a, b = (
            value - 0.02 * (m / (1 - 0.9**number)) / (np.sqrt(s / (1 - 0.999**number)) + 1e-3)
            for value, m, s in zip((a, b), first, second, strict=True)
        )
        factors = state.params["teacher"]["w0"]
        close(weight(state, "student"), w, 1e-5)
        close(factors["a"], a, 1e-5)
        close(factors["b"], b, 1e-5)
    assert np.asarray(frozen["teacher"]["w0"]).tobytes() == TEACHER.tobytes()
    assert sorted(x.shape for x in jax.tree.leaves(states[-1].opt["teacher"])) == sorted(
        [(), (5, 2), (5, 2), (2, 3), (2, 3)]
    )


# 14. accumulation, with a rule over several players


def test_accumulation_with_a_rule_over_two_players_is_the_masked_full_batch():
    kept = np.array([1, 1, 0, 0, 1, 0, 0, 1], bool)

    def objective(scope):
        z, _ = scope.apply("student", scope.batch["image"])
        mapped, _ = scope.apply("projector", z.logits)
        old = optax.softmax_cross_entropy(mapped.logits, scope.batch["old"])
        new = optax.softmax_cross_entropy(mapped.logits, 1 - scope.batch["old"])
        return {"new": term(new), "old": term(old, where=scope.batch["kept"], weight=2.0)}, {}

    players = {"student": STUDENT, "projector": normal(6, 3, 3)}
    batch = {"image": X, "old": ONE_HOT.astype(np.float32), "kept": kept}
    found = {}
    for parts, rule in ((1, "a-gem"), (4, "a-gem"), (1, None)):
        phase = Phase(
            objective, tuple(players), micro_batches=parts,
            rule=rule and average_gradient_memory(reference="old"),
        )  # fmt: skip
        states, metrics = linear.run(
            {name: linear.network(value) for name, value in players.items()},
            [phase],
            {"student": optax.sgd(0.3), "projector": optax.sgd(0.1)},
            batch,
            steps=3,
        )
        found[parts, rule] = states[-1].params
        assert metrics["old"][1] == 4
    jax.tree.map(lambda a, b: close(a, b, 1e-6), found[1, "a-gem"], found[4, "a-gem"])
    apart = found[1, "a-gem"]["projector"]["w0"] - found[1, None]["projector"]["w0"]
    assert np.abs(apart).max() > 1e-2, "the terms agree: the rule would not show"


# what the builder refuses, beyond test_step.py


def test_a_step_under_pmap_that_was_built_without_its_axis_is_refused():
    def objective(scope):
        return {"labels": term(labels(scope)), "old": term(labels(scope))}, {}

    nets, optimisers = {"student": linear.network(STUDENT)}, {"student": optax.sgd(0.1)}
    for rule in (None, average_gradient_memory(reference="old")):
        phases = [Phase(objective, ("student",), rule=rule)]
        step = place(
            lambda axis, phases=phases: build_train_step(nets, phases, optimisers),
            make_mesh(),
            "pmap",
        )
        state = init_state(jax.random.key(0), nets, {"student": X}, optimisers)
        with pytest.raises(ValueError, match=r"under pmap over \('devices',\).*without an axis"):
            step(state, {}, {"image": X, "label": LABEL})


def test_a_phase_that_trains_somebody_needs_terms():
    nothing = Network(
        lambda key, inputs: {"params": {"w0": jnp.ones(1)}, "model": {}},
        lambda variables, inputs, *, train, rngs: (Outputs(inputs), {}),
    )
    for options in ({"trains": ("student",)}, {"trains": (), "rule": lambda *a: a}):
        with pytest.raises(ValueError, match="gave no terms"):
            linear.run(
                {"student": nothing},
                [Phase(lambda scope: ({}, {}), **options)],
                {"student": optax.sgd(0.1)},
                {"image": X},
            )


def test_a_memory_may_be_made_from_the_initial_parameters():
    optimisers = {"student": optax.sgd(0.1)}

    def initial(seed):
        random = Network(
            lambda key, inputs: {"params": {"w0": jax.random.normal(key, (2,))}, "model": {}}, None
        )
        return init_state(
            jax.random.key(seed), {"student": random}, {"student": X}, optimisers,
            memory={"anchor": lambda params: params["student"], "bank": np.ones(3)},
        )  # fmt: skip

    state = initial(0)
    np.testing.assert_array_equal(state.memory["anchor"]["w0"], state.params["student"]["w0"])
    # A copy: the state is donated, and two of its leaves must not be one buffer.
    assert state.memory["anchor"]["w0"] is not state.params["student"]["w0"]
    seeds = jax.vmap(initial)(jnp.arange(2))
    np.testing.assert_array_equal(seeds.memory["anchor"]["w0"], seeds.params["student"]["w0"])
    assert seeds.memory["bank"].shape == (2, 3)
