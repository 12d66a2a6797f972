"""Kinds of stages: generations, assistants, tasks in rounds, passes without gradients, host changes.

Each resumes at any point: `in_pieces` stops after every chunk and at the end of every stage.
"""

import functools

import continual
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.losses import softened_kl_divergence
from kdjax.metrics import transfer
from kdjax.train import (
    Every,
    Method,
    Phase,
    Stage,
    Stopped,
    init_state,
    make_mesh,
    repeat,
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
PLAN = IndexPlan(np.arange(48), 16)
MESH = make_mesh("data=1", jax.devices()[:1])
RUN = functools.partial(train_stage, seeds=0, mesh=MESH, chunk_length=3)
STEPS = 6


def slots(folder):
    return lambda name: Checkpoints(folder / name)


def in_pieces(stages, folder, **options):
    """The result of running one chunk per call, and the number of calls."""

    def one_chunk(stage, state, frozen, **more):
        ran = []
        trained = RUN(
            stage, state, frozen, **options, **more,
            on_metrics=lambda step, values: ran.append(step), stop=lambda: True,
        )  # fmt: skip
        if ran:
            raise Stopped("at the end of a stage")
        return trained

    for calls in range(100):
        try:
            return run_stages(stages, one_chunk, slots=slots(folder)), calls
        except Stopped:
            pass
    raise AssertionError("the stages never ended")


def equal(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


# --- Generations and assistants -------------------------------------------------------------------


TRACES = []


def from_labels(scope):
    batch = scope.batch["labelled"]
    y, _ = scope.apply("student", batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(y.logits, batch["label"])
    return {"labels": term(values)}, {}


def from_teacher(scope):
    TRACES.append(1)
    image = scope.batch["labelled"]["image"]
    s, t = (scope.apply(name, image)[0].logits for name in ("student", "teacher"))
    return {"kd": term(softened_kl_divergence(s, t, temperature=2.0))}, {}


def generation(name, objective, hidden, teacher_hidden=16):
    """Hands on a teacher and which generation it is; each starts from a key of its own."""
    networks = {"student": small.dense(8, hidden, 4), "teacher": small.dense(8, teacher_hidden, 4)}
    optimisers = {"student": optax.sgd(0.1)}

    def init(previous):
        previous = {"generation": np.int32(0)} if previous is None else previous
        number = int(previous["generation"])
        return init_state(jax.random.key(number), networks, small.INPUTS, optimisers), previous

    def finish(state, frozen):
        return {"teacher": state.params["student"], "generation": frozen["generation"] + 1}

    return Stage(
        name, Method({}, (Phase(objective, ("student",)),)), networks, optimisers,
        {"labelled": Stream(PLAN, COLUMNS)}, STEPS, init, finish,
    )  # fmt: skip


def by_hand(stage, teacher, number, first_step):
    """The stage's student by SGD in NumPy, its batches from step `first_step` of the plan on."""
    state = init_state(jax.random.key(number), stage.networks, small.INPUTS, stage.optimisers)
    params = {name: np.float64(w) for name, w in state.params["student"].items()}
    temperature = 1.0 if teacher is None else 2.0

    def forward(params, image):
        hidden = np.tanh(image @ params["w0"])
        unnormalised = np.exp(hidden @ params["w1"] / temperature)
        return hidden, unnormalised / unnormalised.sum(1, keepdims=True)

    for step in range(first_step, first_step + STEPS):
        rows = PLAN.indices(0, step)
        image, label = np.float64(COLUMNS["image"][rows]), COLUMNS["label"][rows]
        hidden, q = forward(params, image)
        p = np.eye(4)[label] if teacher is None else forward(teacher, image)[1]
        slope = temperature * (q - p) / 16  # T^2 from the loss, 1 / T from its logits
        inner = (slope @ params["w1"].T) * (1 - hidden**2)
        grads = {"w0": image.T @ inner, "w1": hidden.T @ slope}
        params = {name: params[name] - 0.1 * grads[name] for name in params}
    return params


BORN_AGAIN = (generation("first", from_labels, 16), generation("student", from_teacher, 16))


def test_three_generations_are_each_taught_by_the_one_before(tmp_path):
    first, student = BORN_AGAIN
    whole = run_stages([first, repeat(3, [student])], RUN)
    assert int(whole["generation"]) == 4
    expected = by_hand(first, None, 0, 0)
    for round in range(3):
        expected = by_hand(student, expected, round + 1, round * STEPS)
    assert small.largest_difference(whole["teacher"], expected) < 1e-5

    stages = [first, repeat(3, [student])]
    result, calls = in_pieces(stages, tmp_path, save_every=3)
    assert equal(result, whole) and calls == 4 * STEPS // 3
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["first", "student"]


def test_rounds_share_one_compiled_step():
    first, student = BORN_AGAIN
    run_stages([first, repeat(1, [student])], RUN)
    before = len(TRACES)
    assert before > 0
    run_stages([first, repeat(4, [student])], RUN)
    assert len(TRACES) == before
    # Another method under the same name is another program.
    method = Method({}, (Phase(from_labels, ("student",)),))
    other = Stage(**{**vars(student), "method": method})
    assert not equal(
        *(run_stages([first, repeat(1, [s])], RUN)["teacher"] for s in (student, other))
    )


def test_an_assistant_stands_between_two_sizes(tmp_path):
    chain = [
        generation("teacher", from_labels, 32),
        generation("assistant", from_teacher, 16, 32),
        generation("student", from_teacher, 8, 16),
    ]
    expected = by_hand(chain[0], None, 0, 0)
    for number, stage in enumerate(chain[1:], start=1):
        expected = by_hand(stage, expected, number, 0)
    result, calls = in_pieces(chain, tmp_path, save_every=3)
    assert calls == 3 * STEPS // 3
    assert result["teacher"]["w0"].shape == (8, 8)
    assert small.largest_difference(result["teacher"], expected) < 1e-5
    assert equal(result, run_stages(chain, RUN))


# --- Tasks in rounds, with a pool -----------------------------------------------------------------


@pytest.fixture(scope="module")
def replayed():
    return run_stages(continual.sequence(continual.replayed), RUN)


def test_replay_from_a_pool_forgets_less_than_plain_training(replayed):
    plain = run_stages(continual.sequence(continual.plain), RUN)["matrix"]
    learned = np.diagonal(plain), np.diagonal(replayed["matrix"])
    assert min(map(np.min, learned)) > 0.9  # every task was learned when it was there
    assert np.array_equal(np.triu(plain, 1), np.zeros((5, 5)))  # and not before: new classes
    assert transfer.forgetting(plain) > 0.4
    assert transfer.forgetting(replayed["matrix"]) < 0.25
    gain = transfer.average_accuracy(replayed["matrix"]) - transfer.average_accuracy(plain)
    assert gain > 0.15


def test_the_pool_holds_what_the_tasks_left_in_it(replayed):
    pool = replayed["memory"]["old"]
    assert int(pool["written"]) == 2 * continual.TASKS * continual.STEPS
    labels = np.asarray(pool["columns"]["label"][: int(pool["written"])])
    expected = []
    for number in range(continual.TASKS):
        for step in range(number * continual.STEPS, (number + 1) * continual.STEPS):
            rows = IndexPlan(np.arange(continual.ROWS), 16).indices(0, step)[:2]
            expected.extend(continual.task(number)["label"][rows])
    assert np.array_equal(labels, expected)


def test_tasks_with_a_pool_resume_after_every_chunk(tmp_path, replayed):
    result, calls = in_pieces(
        continual.sequence(continual.replayed), tmp_path, chunk_length=6, save_every=6
    )
    assert equal(result, replayed) and calls == 10


# --- Passes without gradients ---------------------------------------------------------------------


TEACHER = {"teacher": {"w0": RNG.normal(size=(8, 4)).astype(np.float32)}}


def statistics(memory, scope):
    """What class means, ridge regression and the diagonal Fisher information are made of."""
    batch = scope.batch["labelled"]
    kept = batch["where"].astype(jnp.float32)
    one_hot = jax.nn.one_hot(batch["label"], 4) * kept[:, None]
    image = batch["image"] * kept[:, None]

    def log_likelihood(params, image, label):
        y, _ = scope.apply("teacher", image[None], params=params)
        return jax.nn.log_softmax(y.logits[0])[label]

    grads = jax.vmap(jax.grad(log_likelihood), (None, 0, 0))(
        scope.frozen["teacher"], batch["image"], batch["label"]
    )
    return {
        "sums": memory["sums"] + one_hot.T @ image,
        "counts": memory["counts"] + one_hot.sum(0),
        "gram": memory["gram"] + image.T @ image,
        "fisher": memory["fisher"] + jnp.einsum("b,bij->ij", kept, grads["w0"] ** 2),
    }


def fitted(examples=np.arange(47), batch=10):  # noqa: B008
    shapes = {"sums": (4, 8), "counts": (4,), "gram": (8, 8), "fisher": (8, 4)}

    def init(previous):
        memory = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        return init_state(jax.random.key(0), {}, {}, {}, memory=memory), TEACHER

    def finish(state, frozen):
        m = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(state.memory))
        ridge = np.linalg.solve(m["gram"] + 0.1 * np.eye(8), np.swapaxes(m["sums"], -1, -2))
        return {
            "prototypes": m["sums"] / m["counts"][..., None],
            "ridge": ridge,
            "fisher": m["fisher"],
        }

    stream = Stream(IndexPlan(examples, batch), COLUMNS)
    return Stage(
        "statistics", None, {"teacher": small.dense(8, 4)}, {}, {"labelled": stream}, None,
        init, finish, fit=statistics,
    )  # fmt: skip


def closed_forms(rows):
    x, label = COLUMNS["image"][rows].astype(np.float64), COLUMNS["label"][rows]
    one_hot = np.eye(4)[label]
    logits = x @ TEACHER["teacher"]["w0"].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {
        "prototypes": np.stack([x[label == c].mean(0) for c in range(4)]),
        "ridge": np.linalg.solve(x.T @ x + 0.1 * np.eye(8), x.T @ one_hot),
        "fisher": ((x[:, :, None] * (one_hot - p)[:, None]) ** 2).sum(0),
    }


def close(left, right):
    assert sorted(left) == sorted(right)
    for name in right:
        np.testing.assert_allclose(left[name], right[name], rtol=2e-4, atol=1e-5)


def test_a_fit_folds_over_one_epoch_and_resumes(tmp_path):
    """47 examples in batches of 10: the last one is filled up, and that does not count."""
    stage = fitted()
    whole = run_stages([stage], RUN)
    close(whole, closed_forms(np.arange(47)))
    result, calls = in_pieces([stage], tmp_path, chunk_length=2, save_every=2)
    assert calls == 3 and equal(result, whole)


@pytest.mark.parametrize("how", ["pjit", "pmap"])
def test_a_fit_does_not_depend_on_the_devices(how):
    mesh = make_mesh("data=2", jax.devices()[:2])
    close(
        run_stages([fitted()], functools.partial(RUN, mesh=mesh, how=how)),
        closed_forms(np.arange(47)),
    )


def test_seeds_fit_their_own_examples_in_one_program():
    stage = fitted(lambda seed: np.arange(seed, seed + 40))
    state, frozen = stage.init(None)
    stacked = jax.vmap(lambda seed: state.replace(step=seed * 0))(jnp.arange(2))
    trained = train_stage(
        stage, stacked, frozen, seeds=[0, 7], mesh=MESH, replicas=("seed", 2), chunk_length=3
    )
    found = stage.finish(trained.state, frozen)
    for number, seed in enumerate([0, 7]):
        close({k: v[number] for k, v in found.items()}, closed_forms(np.arange(seed, seed + 40)))


def test_a_fit_in_a_round_starts_its_epoch_anew(tmp_path):
    """Two rounds of statistics add up to twice one: batches are counted from the round's start."""
    stage = fitted()
    init = stage.init

    def go_on(previous):
        state, frozen = init(None)
        return (state if previous is None else state.replace(memory=_on_device(previous))), frozen

    changes = {"init": go_on, "finish": lambda state, frozen: dict(state.memory)}
    again = Stage(**{**vars(stage), **changes})
    once = run_stages([again], RUN)
    twice, calls = in_pieces([repeat(2, [again])], tmp_path, chunk_length=4, save_every=4)
    assert calls == 4
    close(twice, jax.tree.map(lambda x: 2 * np.asarray(x), once))


def _on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


# --- Host functions that change things ------------------------------------------------------------


def pulled(scope):
    """Labels, and a pull of the hidden layer towards centroids that the host sets."""
    batch = scope.batch["labelled"]
    y, _ = scope.apply("student", batch["image"])
    distance = jnp.sum((y.features["hidden"] - scope.memory["centroids"][batch["label"]]) ** 2, -1)
    return {**from_labels(scope)[0], "pull": term(distance, weight=0.1)}, {}


def refresh(step, state):
    """Class means of the hidden layer over the whole set, in NumPy."""
    hidden = np.tanh(COLUMNS["image"] @ np.asarray(state.params["student"]["w0"]))
    means = np.stack([hidden[COLUMNS["label"] == c].mean(0) for c in range(4)])
    return state.replace(memory={"centroids": means})


def host_stage(function, every=2):
    networks = {"student": small.dense(8, 16, 4)}
    optimisers = {"student": optax.sgd(0.1)}

    def init(previous):
        memory = {"centroids": jnp.zeros((4, 16))}
        return init_state(jax.random.key(0), networks, small.INPUTS, optimisers, memory=memory), {}

    return Stage(
        "refreshed", Method({}, (Phase(pulled, ("student",)),)), networks, optimisers,
        {"labelled": Stream(PLAN, COLUMNS)}, STEPS, init,
        lambda state, frozen: {"params": state.params, "centroids": state.memory["centroids"]},
        every=[Every(every, function)],
    )  # fmt: skip


def test_what_a_host_function_changes_is_trained_on_and_saved(tmp_path):
    states = []

    def seen(step, state):
        states.append((step, refresh(step, state).memory["centroids"]))
        return refresh(step, state)

    whole = run_stages([host_stage(seen)], RUN)
    assert [step for step, _ in states] == [2, 4]
    np.testing.assert_array_equal(whole["centroids"], states[-1][1])
    untouched = run_stages([host_stage(lambda step, state: None)], RUN)
    assert not np.any(untouched["centroids"])
    assert small.largest_difference(whole["params"], untouched["params"]) > 1e-3
    # Saved at the very steps of the host function: a save before it would lose what it changed.
    result, calls = in_pieces([host_stage(refresh)], tmp_path, chunk_length=2, save_every=2)
    assert calls == 3 and equal(result, whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda s: s.replace(memory={"centroids": np.zeros((3, 16), np.float32)}), r"\(3, 16\).*centroids.*\(4, 16\)"),
        (lambda s: s.replace(memory={"centroids": s.memory["centroids"].astype(jnp.int32)}), "int32.*float32"),
        (lambda s: s.replace(memory={}), "returned .* for the state"),
    ],
)  # fmt: skip
def test_a_state_of_another_shape_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        run_stages([host_stage(lambda step, state: changed(state))], RUN)


# --- Refusals -------------------------------------------------------------------------------------


def test_stages_say_what_is_wrong_with_them(tmp_path):
    first = BORN_AGAIN[0]
    with pytest.raises(ValueError, match="'first' needs a method or a fit"):
        Stage(**{**vars(first), "fit": statistics})
    with pytest.raises(ValueError, match="a fit takes one epoch and steps=None; got 3"):
        Stage(**{**vars(fitted()), "steps": 3})
    with pytest.raises(ValueError, match="names of their own, got .*'first', 'first'"):
        run_stages([first, repeat(2, [first])], RUN)
    with pytest.raises(TypeError, match="no repetition inside another"):
        repeat(2, [repeat(2, [first])])
    with pytest.raises(ValueError, match="got 0 of 1 stages"):
        repeat(0, [first])
    tupled = Stage(**{**vars(first), "finish": lambda state, frozen: (state.params,)})
    tupled = Stage(**{**vars(tupled), "init": lambda previous: first.init(None)})
    with pytest.raises(TypeError, match="made of dicts with string keys, lists, None and arrays"):
        run_stages([repeat(2, [tupled])], RUN, slots=slots(tmp_path / "tuple"))
    (tasks,) = continual.sequence(continual.plain)
    with pytest.raises(TypeError, match="streams of 'task' are made by run_stages"):
        RUN(tasks.stages[0], *tasks.stages[0].init(None))


def test_a_repetition_is_not_taken_for_another(tmp_path):
    first, student = BORN_AGAIN
    stages = [first, repeat(2, [student])]
    run_stages(stages, RUN, slots=slots(tmp_path))
    with pytest.raises(ValueError, match="a round 1 already, of 1 from 0 on"):
        run_stages([first, repeat(1, [student])], RUN, slots=slots(tmp_path))
    with pytest.raises(ValueError, match="'student' is of round 1, wanted was round None"):
        run_stages([first, student], RUN, slots=slots(tmp_path))
    with pytest.raises(ValueError, match="'first' is not one of a repetition"):
        run_stages([repeat(2, [first])], RUN, slots=slots(tmp_path))
