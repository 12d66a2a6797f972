"""Gradient rules against float64 solutions written out in NumPy, on trees of several players."""

import functools
import itertools

import jax
import jax.numpy as jnp
import linear
import numpy as np
import optax
import pytest
from linear import close, normal, pulled, softmax, weight

from kdjax.train import (
    average_gradient_memory,
    build_train_step,
    gradient_episodic_memory,
    gradient_surgery,
    init_state,
    make_mesh,
    multiple_gradient_descent,
    null_space_projection,
    place,
    term,
    two_momenta,
    zero_momenta,
)
from kdjax.train.method import Phase

SHAPES = {"student": {"body": {"w": (3, 4), "b": (4,)}}, "projector": {"w": (4, 2)}}
SIZE = 24


def tree_of(vector, dtype=jnp.float32):
    shapes, rest = SHAPES, np.asarray(vector)
    leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    cut = np.cumsum([np.prod(shape) for shape in leaves])[:-1]
    parts = np.split(rest, cut)
    return structure.unflatten(
        [jnp.asarray(p.reshape(s), dtype) for p, s in zip(parts, leaves, strict=True)]
    )


def vector_of(tree):
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


@functools.cache
def compiled(rule):
    return jax.jit(lambda grads, memory: rule(grads, {}, memory)[0])


def applied(rule, vectors, *, memory=None, dtype=jnp.float32):
    """The rule's gradient, as a vector, for `{term: vector}`."""
    grads = {name: tree_of(v, dtype) for name, v in vectors.items()}
    found = compiled(rule)(grads, memory or {})
    assert jax.tree.structure(found) == jax.tree.structure(grads[next(iter(grads))])
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    return vector_of(found)


def drawn(seed, *names):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=SIZE) for name in names}


# A-GEM


def test_a_gem_removes_what_conflicts_with_the_reference():
    rule = average_gradient_memory(reference="memory")
    conflicts = 0
    for seed in range(6):
        g = drawn(seed, "labels", "kd", "memory")
        task, r = g["labels"] + g["kd"], g["memory"]
        conflicts += task @ r < 0
        expected = task - min(task @ r, 0) / (r @ r) * r
        close(applied(rule, g), expected)
    assert 0 < conflicts < 6


def test_a_gem_sums_several_references():
    g = drawn(0, "task", "old", "older")
    g["task"] -= 2 * g["old"]
    r = g["old"] + g["older"]
    found = applied(average_gradient_memory(reference=("old", "older")), g)
    close(found, g["task"] - g["task"] @ r / (r @ r) * r)
    assert abs(found @ r) < 1e-5


def test_a_gem_without_conflict_or_without_memory_keeps_the_task_to_the_bit():
    g = drawn(0, "task", "memory")
    for reference in (g["task"] + 0.1, np.zeros(SIZE)):
        found = applied(average_gradient_memory(reference="memory"), {**g, "memory": reference})
        np.testing.assert_array_equal(found, g["task"].astype(np.float32))


def test_half_precision_gradients_are_projected_in_float32_and_keep_their_dtype():
    g = drawn(0, "task", "memory")
    g = {"memory": g["memory"], "task": g["task"] - 2 * g["memory"]}
    g = {name: vector_of(tree_of(v, jnp.bfloat16)) for name, v in g.items()}
    task, r = g["task"], g["memory"]
    expected = task - min(task @ r, 0) / (r @ r) * r
    found = applied(average_gradient_memory(reference="memory"), g, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(found, vector_of(tree_of(expected, jnp.bfloat16)))


# GEM


def dual(p, q, margin):
    """min ½ v'Pv + q'v over v ≥ margin, by trying every set of free variables."""
    best = None
    for free in itertools.product([False, True], repeat=len(q)):
        free = np.array(free)
        v = np.full(len(q), float(margin))
        if free.any():
            right = -(q[free] + p[np.ix_(free, ~free)] @ v[~free])
            v[free] = np.linalg.solve(p[np.ix_(free, free)], right)
        multipliers = p @ v + q
        if (v >= margin - 1e-12).all() and (multipliers[~free] >= -1e-9).all():
            value = v @ p @ v / 2 + q @ v
            best = min(best or (np.inf, v), (value, v), key=lambda pair: pair[0])
    return best[1]


@pytest.mark.parametrize("constraints, margin", [(1, 0.5), (2, 0.0), (5, 0.0), (5, 0.5)])
def test_gem_solves_its_quadratic_programme(constraints, margin):
    names = [f"old{k}" for k in range(constraints)]
    rule = gradient_episodic_memory(task="task", margin=margin)
    active = []
    for seed in range(8):
        g = drawn(seed, "task", *names)
        g["task"] = g["task"] - 1.5 * sum(g[n] for n in names[: seed % 3 + 1])
        rows = np.stack([g[n] for n in names])
        v = dual(rows @ rows.T, rows @ g["task"], margin)
        found = applied(rule, g)
        close(found, g["task"] + v @ rows, 1e-5)
        assert (rows @ found >= -1e-4).all()
        active.append(int((v > margin).sum()))
    assert max(active) >= min(constraints, 2)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gem_without_conflict_keeps_the_task_to_the_bit(margin):
    g = drawn(0, "task", "a", "b")
    g = {"task": g["task"], "a": g["a"] + g["task"], "b": g["task"]}
    assert g["a"] @ g["task"] > 0
    found = applied(gradient_episodic_memory(task="task", margin=margin), g)
    np.testing.assert_array_equal(found, g["task"].astype(np.float32))


def test_gem_solves_ill_conditioned_constraints_in_float64():
    with jax.enable_x64(True):
        for seed in range(5):
            g = drawn(seed, "task", "a", "b", "c")
            g["b"] = g["a"] + 1e-3 * g["b"]
            g["task"] -= g["a"] + g["c"]
            g["c"] *= 1e-4
            rows = np.stack([g[n] for n in "abc"])
            v = dual(rows @ rows.T, rows @ g["task"], 0.0)
            found = applied(gradient_episodic_memory(task="task", margin=0.0), g, dtype=jnp.float64)
            close(found, g["task"] + v @ rows, 1e-7)


def test_gem_takes_repeated_and_empty_constraints():
    g = drawn(0, "task", "a")
    g["task"] -= g["a"]
    rule = gradient_episodic_memory(task="task", margin=0.0)
    alone = applied(rule, g)
    close(applied(rule, {**g, "b": g["a"], "c": np.zeros(SIZE)}), alone, 1e-5)
    close(alone, applied(average_gradient_memory(reference="a"), g))


def test_gem_runs_as_one_program_over_seeds():
    g = [drawn(seed, "task", "a", "b") for seed in range(4)]
    rule = gradient_episodic_memory(task="task", margin=0.1)
    stacked = jax.tree.map(
        lambda *x: jnp.stack(x), *[{n: tree_of(v) for n, v in one.items()} for one in g]
    )
    together = jax.jit(jax.vmap(lambda grads: rule(grads, {}, {})[0]))(stacked)
    for seed, one in enumerate(g):
        mine = jax.tree.map(lambda x, seed=seed: x[seed], together)
        close(vector_of(mine), applied(rule, one), 1e-5)


# MGDA

SHORTEST = multiple_gradient_descent()


def test_mgda_of_two_terms_is_the_closed_form():
    inside = 0
    for seed in range(8):
        g = drawn(seed, "a", "b")
        g["a"] = g["a"] * 2.0 ** (seed / 2 - 2)
        g["b"] = g["b"] + (seed % 2) * g["a"]
        a, b = g["a"], g["b"]
        inside += 0 < (b - a) @ b < (a - b) @ (a - b)
        found = applied(SHORTEST, g)
        close(found, closed_form(a, b), 1e-5)
    assert 0 < inside < 8


def test_mgda_of_orthogonal_gradients_weighs_by_their_inverse_squares():
    rows = np.zeros((4, SIZE))
    rows[range(4), range(4)] = [1.0, 2.0, 0.5, 4.0]
    shares = 1 / np.array([1.0, 4.0, 0.25, 16.0])
    found = applied(SHORTEST, dict(zip("abcd", rows, strict=True)))
    close(found, shares / shares.sum() @ rows)


def test_mgda_descends_on_every_term_and_no_point_of_the_hull_is_shorter():
    """⟨g̃, g_i⟩ ≥ ‖g̃‖² for all i, with g̃ in the hull, holds at the shortest point alone."""
    for seed in range(6):
        g = drawn(seed, *"abcde")
        rows = np.stack(list(g.values())) + 0.5 * drawn(99, "x")["x"]
        found = applied(SHORTEST, dict(zip("abcde", rows, strict=True)))
        assert (rows @ found >= found @ found - 1e-4).all()
        shares, *_ = np.linalg.lstsq(np.vstack([rows.T, np.ones(5)]), np.append(found, 1.0))
        close(shares @ rows, found, 1e-5)
        assert shares.min() > -1e-5 and abs(shares.sum() - 1) < 1e-5


def test_mgda_stands_still_where_no_term_can_fall_alone():
    g = drawn(0, "a", "b")
    for other in (-0.5 * g["a"], np.zeros(SIZE)):
        for size in (1.0, 1e-8):
            found = applied(SHORTEST, {"a": size * g["a"], "b": size * other})
            close(found / size, 0, 1e-5)
    close(applied(SHORTEST, {n: np.zeros(SIZE) for n in "ab"}), 0)


def test_leaves_that_are_not_shared_get_the_sum():
    """Only the body decides; the projector takes both terms as they are."""
    g = drawn(0, "a", "b")
    g["a"] = g["a"] - 0.5 * g["b"]
    head = slice(0, 8)  # leaves are in the order of their names: projector first
    body = slice(8, None)
    for rule, expected in (
        (
            multiple_gradient_descent(shared=["student/body"]),
            closed_form(g["a"][body], g["b"][body]),
        ),
        (gradient_surgery(shared=["student/body"]), surgery([g["a"][body], g["b"][body]], [0, 1])),
    ):
        found = applied(rule, g)
        close(found[head], g["a"][head] + g["b"][head])
        close(found[body], expected, 1e-5)


def closed_form(a, b):
    share = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
    return share * a + (1 - share) * b


# PCGrad


def surgery(rows, order):
    total = np.zeros_like(rows[0])
    for i, row in enumerate(rows):
        row = row.copy()
        for j in order:
            if j != i and row @ rows[j] < 0:
                row -= row @ rows[j] / (rows[j] @ rows[j]) * rows[j]
        total += row
    return total


@pytest.mark.parametrize("order", [None, (3, 1, 0, 2)])
def test_surgery_equals_its_loop_in_the_given_order(order):
    g = drawn(1, *"abcd")
    rows = np.stack(list(g.values())) - 0.6 * g["a"]
    rows[0] = g["a"]
    memory = {} if order is None else {"turns": jnp.asarray(order)}
    rule = gradient_surgery(order=None if order is None else "turns")
    found = applied(rule, dict(zip("abcd", rows, strict=True)), memory=memory)
    close(found, surgery(rows, order or range(4)), 1e-5)
    assert np.abs(found - surgery(rows, (2, 3, 0, 1))).max() > 1e-3


def test_surgery_of_agreeing_terms_is_their_sum():
    g = drawn(0, "a", "b")
    close(applied(gradient_surgery(), {"a": g["a"], "b": g["a"]}), 2 * g["a"])
    close(applied(gradient_surgery(), {"a": g["a"], "b": np.zeros(SIZE)}), g["a"])


def test_the_order_of_surgery_is_drawn_by_the_objective():
    """What the objective hands to memory in a step is what the rule of that step reads."""

    def objective(scope):
        w = scope.params["student"]["w0"][:, 0]
        order = jax.random.permutation(scope.rng("order"), 3)
        terms = {f"t{k}": term(jnp.sum(scope.batch["x"][k] * w)[None]) for k in range(3)}
        return terms, {"memory": {"order": order}}

    rows = normal(3, 3, 4)
    rows[1:] -= rows[0]
    seen = set()
    states, _ = linear.run(
        {"student": linear.network(np.zeros((4, 1), np.float32))},
        [Phase(objective, ("student",), rule=gradient_surgery(order="order"))],
        {"student": optax.sgd(1.0)},
        {"x": rows},
        steps=5,
        memory={"order": jnp.arange(3)},
    )
    before = np.zeros(4)
    for state in states:
        order = tuple(map(int, state.memory["order"]))
        after = weight(state, "student")[:, 0]
        close(before - after, surgery(rows.astype(np.float64), order), 1e-5)
        before, seen = after, seen | {order}
    assert len(seen) > 1


# two momenta

X, Y = normal(0, 8, 5), np.eye(3)[np.arange(8) % 3]
STUDENT, TEACHER = normal(1, 5, 3), normal(2, 5, 3)


def distilled(scope):
    z, _ = scope.apply("student", scope.batch["x"])
    target = jax.nn.softmax(scope.batch["x"] @ scope.batch["teacher"][0])
    return {
        "labels": term(optax.softmax_cross_entropy(z.logits, scope.batch["y"])),
        "kd": term(optax.softmax_cross_entropy(z.logits, target), weight=0.5),
    }, {}


DISTILLED = {"x": X, "y": Y.astype(np.float32), "teacher": np.broadcast_to(TEACHER, (8, 5, 3))}


def momenta_run(rule, optimiser, **initial):
    phases = [Phase(distilled, ("student",), rule=rule)]
    nets = {"student": linear.network(STUDENT)}
    return linear.run(nets, phases, {"student": optimiser}, DISTILLED, steps=6, **initial)[0]


def test_two_momenta_equal_a_hand_written_loop():
    rule = two_momenta(distillation="kd", momentum=0.8, difference=0.15)
    states = momenta_run(rule, optax.sgd(0.1), memory={"momenta": zero_momenta("student")})
    w, task, kd = STUDENT.astype(np.float64), 0.0, 0.0
    for state in states:
        task = 0.65 * task + pulled(X, w, Y)
        kd = 0.95 * kd + 0.5 * pulled(X, w, softmax(X @ TEACHER))
        w = w - 0.1 * (task + kd)
        close(weight(state, "student"), w)
        close(state.memory["momenta"]["task"]["student"]["w0"], task)
        close(state.memory["momenta"]["distillation"]["student"]["w0"], kd)


def test_two_equal_momenta_are_the_optimisers_own():
    rule = two_momenta(distillation="kd", momentum=0.9, difference=0.0)
    found = momenta_run(rule, optax.sgd(0.1), memory={"momenta": zero_momenta("student")})
    expected = momenta_run(None, optax.sgd(0.1, momentum=0.9))
    close(weight(found[-1], "student"), weight(expected[-1], "student"))


def test_leaves_that_one_side_alone_reaches_keep_the_middle_momentum():
    rule = two_momenta(distillation="kd", momentum=0.5, difference=0.25, shared=["student"])
    ones = tree_of(np.ones(SIZE))
    grads, memory = {"labels": ones, "kd": ones}, {"m": zero_momenta("student", "projector")(ones)}
    rule = two_momenta(
        distillation="kd", momentum=0.5, difference=0.25, shared=["student"], name="m"
    )
    for _ in range(2):
        _, memory = rule(grads, {}, memory)
    for side, kept in (("task", 1.25), ("distillation", 1.75)):
        np.testing.assert_allclose(memory["m"][side]["student"]["body"]["b"], kept)
        np.testing.assert_allclose(memory["m"][side]["projector"]["w"], 1.5)


# null space


def labelled(scope):
    z, _ = scope.apply("student", scope.batch["x"])
    return {"labels": term(optax.softmax_cross_entropy(z.logits, scope.batch["y"]))}, {}


def before_adam(grads, values, memory):
    return null_space_projection()(grads["labels"], memory), memory


def test_a_null_space_projection_holds_after_adam():
    """Old inputs keep their outputs while the new ones are learned; before Adam they would not."""
    old = normal(7, 2, 5)
    basis = np.zeros((5, 4), np.float32)  # two of four columns are still free
    basis[:, :2] = np.linalg.qr(old.T)[0]
    memory = {"bases": {"student": {"w0": jnp.asarray(basis)}}}
    moved = {}
    for name, options in (
        ("behind", {"project": null_space_projection()}),
        ("before", {"rule": before_adam}),
    ):
        states, _ = linear.run(
            {"student": linear.network(STUDENT)},
            [Phase(labelled, ("student",), **options)],
            {"student": optax.adamw(0.05, weight_decay=0.1)},
            DISTILLED,
            steps=5,
            memory=memory,
        )
        moved[name] = np.abs(old @ (weight(states[-1], "student") - STUDENT)).max()
        assert np.abs(weight(states[-1], "student") - STUDENT).max() > 0.05
    assert moved["behind"] < 1e-6 and moved["before"] > 1e-2


def test_a_projected_update_is_the_one_nearest_to_the_optimisers():
    basis = np.linalg.qr(normal(7, 5, 2))[0]
    states, _ = linear.run(
        {"student": linear.network(STUDENT)},
        [Phase(labelled, ("student",), project=null_space_projection())],
        {"student": optax.sgd(0.1)},
        DISTILLED,
        memory={"bases": {"student": {"w0": basis}}},
    )
    step = -0.1 * pulled(X, STUDENT, Y)
    close(weight(states[0], "student"), STUDENT + step - basis @ (basis.T @ step))


def test_convolutions_project_their_patches_and_leaves_without_a_basis_stay():
    basis = np.linalg.qr(normal(0, 12, 2))[0]
    update = {"conv": {"kernel": normal(1, 2, 2, 3, 4), "bias": normal(2, 4)}}
    project = null_space_projection(name="old")
    found = project({"s": update}, {"old": {"s": {"conv/kernel": jnp.asarray(basis)}}})["s"]
    rows = update["conv"]["kernel"].reshape(12, 4)
    close(found["conv"]["kernel"].reshape(12, 4), rows - basis @ (basis.T @ rows))
    np.testing.assert_array_equal(found["conv"]["bias"], update["conv"]["bias"])


# on devices


@pytest.mark.parametrize("kind", ["a-gem", "momenta"])
def test_rules_see_the_global_gradient_on_eight_devices(kind):
    rule = {
        "a-gem": average_gradient_memory(reference="kd"),
        "momenta": two_momenta(distillation="kd"),
    }[kind]
    nets, optimisers = {"student": linear.network(STUDENT)}, {"student": optax.sgd(0.3)}
    phases = [Phase(distilled, ("student",), rule=rule)]
    # A teacher of another opinion: A-GEM has something to remove.
    wrong = np.linalg.pinv(X) @ (9 * np.roll(Y, 1, axis=1)) - STUDENT
    batch = {**DISTILLED, "teacher": np.broadcast_to(wrong, (8, 5, 3)).astype(np.float32)}
    found = {}
    for how in ("one", "pjit", "pmap"):
        mesh = make_mesh("data=1", jax.devices()[:1]) if how == "one" else make_mesh()
        state = init_state(
            jax.random.key(0), nets, {"student": X}, optimisers,
            memory={"momenta": zero_momenta("student")},
        )  # fmt: skip
        step = place(
            lambda axis: build_train_step(nets, phases, optimisers, axis=axis),
            mesh,
            "pjit" if how == "one" else how,
        )
        for _ in range(2):
            state, _ = step(state, {}, batch)
        found[how] = weight(state, "student")
    close(found["pjit"], found["one"], 1e-6)
    close(found["pmap"], found["one"], 1e-6)
    w = STUDENT.astype(np.float64)
    task, kd = pulled(X, w, Y), 0.5 * pulled(X, w, softmax(X @ batch["teacher"][0]))
    assert (task * kd).sum() < 0, "the terms agree: A-GEM would not show"


# refusals


@pytest.mark.parametrize(
    "rule, message",
    [
        (
            average_gradient_memory(reference="old"),
            r"reference=\('old',\): \['old'\] are no terms.*'a'",
        ),
        (average_gradient_memory(reference=("a", "b")), "some of the terms and not all"),
        (gradient_episodic_memory(task="old"), "gradient_episodic_memory: task.*are no terms"),
        (gradient_episodic_memory(task=()), "some of the terms"),
        (two_momenta(distillation="old"), "two_momenta: distillation.*are no terms"),
        (two_momenta(distillation="a"), r"keeps memory\['momenta'\].*zero_momenta"),
        (gradient_surgery(order="turns"), "no 'turns' in memory"),
        (gradient_surgery(order="two"), r"order the terms \['a', 'b'\], got \(3,\)"),
        (gradient_surgery(shared=["heads"]), r"\['heads'\] match no parameter.*student/body/w"),
        (multiple_gradient_descent(shared=["heads"]), "match no parameter"),
    ],
)
def test_rules_refuse_what_they_cannot_find(rule, message):
    grads = {name: tree_of(np.ones(SIZE)) for name in "ab"}
    with pytest.raises(ValueError, match=message):
        rule(grads, {}, {"two": jnp.arange(3)})


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="margin must be at least 0"):
        gradient_episodic_memory(task="a", margin=-1.0)
    with pytest.raises(ValueError, match=r"distillation must be in \[0, 1\), got 1.1"):
        two_momenta(distillation="kd", momentum=0.9, difference=0.2)


@pytest.mark.parametrize(
    "bases, message",
    [
        ({}, "no 'bases' in memory"),
        ({"bases": {"student": {"head": np.eye(2)}}}, r"no leaves \['student/head'\].*student/w"),
        ({"bases": {"student": {"w": np.eye(3)}}}, r"student/w \(2, 4\) has 2 inputs"),
    ],
)
def test_a_basis_that_does_not_fit_is_refused(bases, message):
    with pytest.raises(ValueError, match=message):
        null_space_projection()({"student": {"w": jnp.ones((2, 4))}}, bases)
