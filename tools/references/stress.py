"""Every public loss on the inputs that break losses: value and gradient stay finite, never nan.

A loss is called through its `Example`. The call is taken apart into its arrays (`Call`), each with
what it is (`Fact`), so that a case is a function from calls to calls; the cases of one shape run
stacked in one compiled program, without optimisation, since compiling is what they cost.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BATCH = 8
SEED = 20
COMPILER = {"xla_backend_optimization_level": 0}


class Fact(NamedTuple):
    """What an array of a call is: its side, and whether its axes are examples and classes."""

    name: str
    side: str  # "student", "teacher" or "other"
    classes: bool
    batched: bool
    floating: bool


class Call(NamedTuple):
    """One call of a loss: the arrays that a case may change, the mask, and the rest."""

    arrays: tuple[np.ndarray, ...]
    where: np.ndarray | None


class Frame(NamedTuple):
    """What the calls of one loss have in common; `rebuild(arrays)` gives (arguments, keywords)."""

    facts: tuple[Fact, ...]
    rebuild: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]


class Outcome(NamedTuple):
    """What a call gave: the value, and the gradient of each floating array (None for the others)."""

    value: np.ndarray
    gradients: tuple[np.ndarray | None, ...]


def pose(example, batch=BATCH, seed=SEED):
    """The example's call for `batch` examples, and its frame."""
    built = example.build(np.random.default_rng(seed), batch)
    other, _ = jax.tree.flatten(example.build(np.random.default_rng(seed), batch + 1))
    paths, tree = jax.tree_util.tree_flatten_with_path(built)
    leaves = [leaf for _, leaf in paths]
    varied = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    facts = tuple(_fact(example, paths[i][0], leaves[i], other[i]) for i in varied)
    arrays = tuple(np.asarray(leaves[i]) for i in varied)

    def rebuild(chosen):
        full = list(leaves)
        for i, array in zip(varied, chosen, strict=True):
            full[i] = array
        return jax.tree.unflatten(tree, full)

    where = None if example.where is None else np.ones(example.where(batch), bool)
    return Call(arrays, where), Frame(facts, rebuild)


def _is_array(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return False
    return isinstance(leaf, np.ndarray | jax.Array)


def _fact(example, path, leaf, larger):
    position = path[1].idx if path[0].idx == 0 else None
    side = "other"
    if position is not None:
        side = "student" if position in example.student else side
        side = "teacher" if position in example.teacher else side
    shape, grown = np.shape(leaf), np.shape(larger)
    return Fact(
        name=jax.tree_util.keystr(path[1:]),
        side=side,
        classes=position is not None and position in example.classes,
        batched=bool(shape) and shape[0] != grown[0],
        floating=jnp.issubdtype(leaf.dtype, jnp.floating),
    )


# The program: value and gradients of a stack of calls of one shape.


def program(loss, frame, masked=True):
    """(arrays, where, cotangent) -> (value, gradients of the floating arrays), not compiled."""

    def run(arrays, where, cotangent):
        def value(*floats):
            supply = iter(floats)
            chosen = [
                next(supply) if fact.floating else x
                for fact, x in zip(frame.facts, arrays, strict=True)
            ]
            arguments, keywords = frame.rebuild(chosen)
            return loss(*arguments, **keywords, **({"where": where} if masked else {}))

        floats = [x for fact, x in zip(frame.facts, arrays, strict=True) if fact.floating]
        out, pull = jax.vjp(value, *floats)
        return out, pull(cotangent.astype(out.dtype))

    return run


def run_stacked(loss, frame, calls, cotangents=None):
    """The `Outcome` of each call, all in one compiled program; the calls have one shape."""
    masked = calls[0].where is not None
    if cotangents is None:
        cotangents = [np.ones(value_shape(loss, frame, calls[0]))] * len(calls)
    arrays = [np.stack(xs) for xs in zip(*(call.arrays for call in calls), strict=True)]
    where = np.stack([call.where for call in calls]) if masked else np.zeros(len(calls), bool)
    run = jax.jit(jax.vmap(program(loss, frame, masked)), compiler_options=COMPILER)
    value, gradients = jax.device_get(run(arrays, where, np.stack(cotangents).astype(np.float32)))
    return [Outcome(value[k], _spread(frame, [g[k] for g in gradients])) for k in range(len(calls))]


def value_shape(loss, frame, call):
    """The shape of the loss's value for a call."""

    def value(arrays, where):
        arguments, keywords = frame.rebuild(arrays)
        masked = {} if call.where is None else {"where": where}
        return loss(*arguments, **keywords, **masked)

    return jax.eval_shape(value, list(call.arrays), call.where).shape


def _spread(frame, gradients):
    supply = iter(gradients)
    return tuple(next(supply) if fact.floating else None for fact in frame.facts)


# Cases: each from (example, frame, call) to a call, or None where the loss has nothing to pose it on.


def _change(frame, call, change, sides=("student", "teacher")):
    """The call with `change(fact, array)` for the floating arrays of `sides`."""
    arrays = tuple(
        change(fact, x).astype(x.dtype) if fact.floating and fact.side in sides else x
        for fact, x in zip(frame.facts, call.arrays, strict=True)
    )
    return call._replace(arrays=arrays)


def ordinary(example, frame, call):
    return call


def zeros(example, frame, call):
    return _change(frame, call, lambda fact, x: np.zeros_like(x))


def zero_student(example, frame, call):
    return _change(frame, call, lambda fact, x: np.zeros_like(x), sides=("student",))


def zero_teacher(example, frame, call):
    return _change(frame, call, lambda fact, x: np.zeros_like(x), sides=("teacher",))


def times_1000(example, frame, call):
    return _change(frame, call, lambda fact, x: x * 1000)


def duplicate_rows(example, frame, call):
    def duplicate(fact, x):
        return np.concatenate([x[:1], x[:1], x[2:]]) if x.ndim and len(x) > 1 else x

    return _change(frame, call, duplicate)


def equal_rows(example, frame, call):
    return _change(frame, call, lambda fact, x: np.repeat(x[:1], len(x), 0) if x.ndim else x)


def teacher_is_student(example, frame, call):
    if not example.same:
        return None
    arguments, keywords = frame.rebuild(call.arrays)
    arguments = list(arguments)
    for student, teacher in zip(example.student, example.teacher, strict=True):
        arguments[student] = arguments[teacher]
    leaves = [x for x in jax.tree.leaves((tuple(arguments), keywords)) if _is_array(x)]
    return call._replace(arrays=tuple(np.asarray(x) for x in leaves))


def constant_rows(example, frame, call):
    """Every row constant along its last axis."""
    return _change(
        frame, call, lambda f, x: np.repeat(x[..., :1], x.shape[-1], -1) if x.ndim else x
    )


def constant_examples(example, frame, call):
    """Every example constant over all its axes: a map without structure, tokens without difference."""

    def constant(fact, x):
        if x.ndim < 2:
            return x
        return np.broadcast_to(
            x.reshape(len(x), -1)[:, :1].reshape((-1,) + (1,) * (x.ndim - 1)), x.shape
        )

    return _change(frame, call, constant)


def all_masked(example, frame, call):
    return None if call.where is None else call._replace(where=np.zeros_like(call.where))


def first_masked(call):
    """The mask without its first element."""
    where = np.array(call.where)
    where[(0,) * where.ndim] = False
    return where


def masked_nan(example, frame, call):
    """The first row holds nan on both sides, and is masked."""
    if call.where is None:
        return None

    def spoil(fact, x):
        x = np.array(x)
        if x.shape[: call.where.ndim] == call.where.shape:
            x[(0,) * call.where.ndim] = np.nan
        return x

    return _change(frame, call, spoil)._replace(where=first_masked(call))


def _forbidden(call, x):
    """[..., C] one class a row, none that a label names."""
    classes = x.shape[-1]
    named = np.zeros(x.shape, bool)
    for labels in call.arrays:
        if np.issubdtype(labels.dtype, np.integer) and labels.shape == x.shape[:-1]:
            valid = (labels >= 0) & (labels < classes)
            named |= (np.arange(classes) == labels[..., None]) & valid[..., None]
    return np.arange(classes) == np.argmin(named, axis=-1)[..., None]


def infinite_both(example, frame, call):
    """One class a row at -inf on both sides: it carries nothing."""
    if not any(fact.classes and x.shape[-1] > 1 for fact, x in _paired(frame, call)):
        return None

    def forbid(fact, x):
        return np.where(_forbidden(call, x), -np.inf, x) if fact.classes else x

    return _change(frame, call, forbid)


def infinite_student(example, frame, call):
    """One class of the first row at -inf for the student alone: +inf is allowed, nan is not."""
    if not any(_student_classes(fact) and x.shape[-1] > 1 for fact, x in _paired(frame, call)):
        return None

    def forbid(fact, x):
        if not fact.classes:
            return x
        rows = np.zeros(x.shape, bool)
        rows[(0,) * (x.ndim - 1)] = True
        return np.where(rows & _forbidden(call, x), -np.inf, x)

    return _change(frame, call, forbid, sides=("student",))


def infinite_student_masked(example, frame, call):
    """The same, with that row masked."""
    posed = infinite_student(example, frame, call)
    if posed is None or call.where is None:
        return None
    return posed._replace(where=first_masked(call))


def _paired(frame, call):
    return zip(frame.facts, call.arrays, strict=True)


def _student_classes(fact):
    return fact.classes and fact.side == "student"


def one_class(example, frame, call):
    """The first class alone; labels all name it."""
    if not any(fact.classes for fact in frame.facts):
        return None
    arrays = tuple(
        x[..., :1] if fact.classes else x if fact.floating or x.dtype == bool else np.zeros_like(x)
        for fact, x in _paired(frame, call)
    )
    return call._replace(arrays=arrays)


STACKED = (
    ordinary,
    zeros,
    zero_student,
    zero_teacher,
    times_1000,
    duplicate_rows,
    equal_rows,
    teacher_is_student,
    constant_rows,
    constant_examples,
    all_masked,
    masked_nan,
    infinite_both,
    infinite_student,
    infinite_student_masked,
)
CASES = tuple(case.__name__ for case in STACKED) + ("one_class", "one_example")


def study(loss, example):
    """{case: Outcome, or None where it cannot be posed} in float32."""
    call, frame = pose(example)
    posed = {
        case.__name__: case(example, frame, call)
        for case in STACKED
        if case.__name__ not in example.skip
    }
    outcomes: dict[str, Outcome | None] = dict.fromkeys(CASES)
    real = {name: each for name, each in posed.items() if each is not None}
    outcomes |= zip(real, run_stacked(loss, frame, list(real.values())), strict=True)
    if "one_class" not in example.skip and (single := one_class(example, frame, call)):
        outcomes["one_class"] = run_stacked(loss, frame, [single])[0]
    if "one_example" not in example.skip:
        call, frame = pose(example, batch=1)
        outcomes["one_example"] = run_stacked(loss, frame, [call])[0]
    return outcomes


def verdict(case, outcome, frame):
    """What is wrong with an outcome, or an empty string."""
    value, gradients = outcome
    if case == "infinite_student":
        if np.any(np.isnan(value) | np.isneginf(value)):
            return f"value {_worst(value)}"
        # At +inf the derivative by the teacher does not exist; the student's is what is trained on.
        checked, unfit = ("student",), np.isnan
    else:
        if not np.all(np.isfinite(value)):
            return f"value {_worst(value)}"
        checked, unfit = ("student", "teacher", "other"), _not_finite
    for fact, gradient in zip(frame.facts, gradients, strict=True):
        if gradient is not None and fact.side in checked and np.any(unfit(gradient)):
            return f"gradient of argument {fact.name} {_worst(gradient)}"
    return ""


def _not_finite(x):
    return ~np.isfinite(x)


def _worst(x):
    return "nan" if np.any(np.isnan(x)) else "inf" if np.any(np.isposinf(x)) else "-inf"


class StressRow(NamedTuple):
    """One loss on one case; `status` is ok, failed or not posed."""

    name: str
    case: str
    status: str
    detail: str


def stress(loss, example):
    """The `StressRow` of each case for one loss, `loss.__name__` its name."""
    row = functools.partial(StressRow, loss.__name__)
    try:
        outcomes = study(loss, example)
    except Exception as error:  # noqa: BLE001 the other losses still get their rows
        reason = f"raised {type(error).__name__}: {error}".splitlines()[0]
        return [row(case, "failed", reason) for case in CASES]
    _, frame = pose(example)
    rows = []
    for case, outcome in outcomes.items():
        if outcome is None:
            rows.append(row(case, "not posed", example.skip.get(case, "")))
        else:
            fault = verdict(case, outcome, frame)
            rows.append(row(case, "failed" if fault else "ok", fault))
    return rows
