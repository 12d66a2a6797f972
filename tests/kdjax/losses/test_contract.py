"""The contract of `kdjax.losses`, held for every public loss through its `Example`.

Each loss runs a few compiled programs, shared by the tests through caches: float32 with every case of
the batch's shape stacked, float32 with one example, float64 for derivatives, and half precision.
Compilation is what costs, so nothing here is optimised by XLA. `--full` adds what needs programs of
its own.
"""

import functools
import inspect
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import kdjax.losses
from tools.references import registry, stress

EXAMPLES = registry.discover()[1]
LOSSES = registry.public_losses()
NAMES = [name for name in LOSSES if name in EXAMPLES]
COUPLING = sorted(kdjax.losses.COUPLING & set(NAMES))
POINTWISE = [name for name in NAMES if name not in kdjax.losses.COUPLING]
MASKED = [name for name in NAMES if EXAMPLES[name].where is not None]
FULL = pytest.mark.full
PERMUTATION = np.random.default_rng(1).permutation(stress.BATCH)


def test_every_public_loss_has_an_example():
    assert not [name for name in LOSSES if name not in EXAMPLES]


def test_every_example_is_of_a_public_loss():
    assert not [name for name in EXAMPLES if name not in LOSSES]


def test_what_is_no_loss_and_what_couples_are_public_names():
    public = vars(kdjax.losses)
    assert not [
        name for name in (*registry.NOT_LOSSES, *kdjax.losses.COUPLING) if name not in public
    ]


# Calls of a loss, and what they gave.


@functools.cache
def posed(name):
    return stress.pose(EXAMPLES[name])


def fixed_random(name, shape):
    """Numbers that depend on the loss's name alone, away from zero."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def mapped(name, call, change):
    """The call with `change(fact, array)` for every array, the mask too where it is by example."""
    _, frame = posed(name)
    arrays = tuple(change(fact, x) for fact, x in zip(frame.facts, call.arrays, strict=True))
    return call._replace(arrays=arrays)


def permuted(name, call):
    return mapped(name, call, lambda fact, x: x[PERMUTATION] if fact.batched else x)


def others_replaced(name):
    """The call with every example but the first exchanged for another one."""
    call, frame = posed(name)
    drawn, _ = stress.pose(EXAMPLES[name], seed=stress.SEED + 1)
    arrays = tuple(
        np.concatenate([x[:1], y[1:]]) if fact.batched else x
        for fact, x, y in zip(frame.facts, call.arrays, drawn.arrays, strict=True)
    )
    return call._replace(arrays=arrays)


def first_only(shape, weights):
    """Weights of the first example's values alone."""
    chosen = np.zeros(shape)
    chosen[:1] = weights[:1]
    return chosen


@functools.cache
def shape_of(name):
    return stress.value_shape(LOSSES[name], posed(name)[1], posed(name)[0])


def keeps_the_batch(name):
    return shape_of(name)[:1] == (stress.BATCH,)


@functools.cache
def outcomes(name):
    """{case: Outcome}: the stress cases of the batch's shape, and the probes, in one program."""
    example, (call, frame) = EXAMPLES[name], posed(name)
    weights = fixed_random(name, shape_of(name))
    posing = {
        case.__name__: (case(example, frame, call), np.ones(shape_of(name)))
        for case in stress.STACKED
        if case.__name__ not in example.skip
    }
    posing["weighted"] = (call, weights)
    posing["weighted_masked_nan"] = (stress.masked_nan(example, frame, call), weights)
    posing["others_replaced"] = (others_replaced(name), weights)
    if keeps_the_batch(name):
        posing["first_value"] = (call, first_only(shape_of(name), weights))
    posing = {case: each for case, each in posing.items() if each[0] is not None}
    calls, cotangents = zip(*posing.values(), strict=True)
    found = stress.run_stacked(LOSSES[name], frame, calls, cotangents)
    return dict(zip(posing, found, strict=True))


@functools.cache
def singles(name):
    """The outcomes of each example of the ordinary call alone, then of the one-example call."""
    call, frame = posed(name)
    alone, own = stress.pose(EXAMPLES[name], batch=1)
    weights = fixed_random(name, shape_of(name))
    if keeps_the_batch(name) and name in POINTWISE:
        shared = [not fact.batched for fact in frame.facts]
        cut = [
            call._replace(
                arrays=tuple(
                    x if whole else x[i : i + 1]
                    for x, whole in zip(call.arrays, shared, strict=True)
                ),
                where=None if call.where is None else call.where[i : i + 1],
            )
            for i in range(stress.BATCH)
        ]
        calls = [*cut, alone._replace(arrays=tuple(np.asarray(x) for x in alone.arrays))]
        cotangents = [weights[i : i + 1] for i in range(stress.BATCH)] + [np.ones_like(weights[:1])]
        return stress.run_stacked(LOSSES[name], own, calls, cotangents)
    return stress.run_stacked(LOSSES[name], own, [alone])


@functools.cache
def double(name):
    """value and gradients as a compiled function of (float64 arrays, cotangent), without a mask."""
    _, frame = posed(name)

    def run(arrays, cotangent):
        return stress.program(LOSSES[name], frame, masked=False)(arrays, None, cotangent)

    return jax.jit(run, compiler_options=stress.COMPILER)


def in_double(name, call, cotangent=None):
    """The `Outcome` of a call in float64."""
    _, frame = posed(name)
    cotangent = fixed_random(name, shape_of(name)) if cotangent is None else cotangent
    with jax.enable_x64(True):
        value, gradients = jax.device_get(double(name)(widened(call.arrays), cotangent))
    return stress.Outcome(value, spread(frame, gradients))


def widened(arrays):
    return [x.astype(np.float64) if x.dtype == np.float32 else x for x in arrays]


def spread(frame, gradients):
    supply = iter(gradients)
    return tuple(next(supply) if fact.floating else None for fact in frame.facts)


def held(frame, gradients):
    """(fact, gradient) of the floating arrays."""
    pairs = zip(frame.facts, gradients, strict=True)
    return [(fact, gradient) for fact, gradient in pairs if gradient is not None]


def assert_near(ours, wanted, tolerance, message=""):
    """Equality up to `tolerance` of the larger of one and the wanted array's size."""
    size = max(1.0, float(np.max(np.abs(wanted), initial=0.0)))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=tolerance * size, err_msg=message)


# Never nan, always finite.


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_finite_in_every_case(name):
    example, (call, frame) = EXAMPLES[name], posed(name)
    found = {case: each for case, each in outcomes(name).items() if case in stress.CASES}
    if "one_example" not in example.skip:
        found["one_example"] = singles(name)[-1]
    if "one_class" not in example.skip and (single := stress.one_class(example, frame, call)):
        found["one_class"] = stress.run_stacked(LOSSES[name], frame, [single])[0]
    faults = {case: stress.verdict(case, each, frame) for case, each in found.items()}
    assert not {case: fault for case, fault in faults.items() if fault}


# Arguments and dtypes.


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_arrays_by_position_and_hyperparameters_by_keyword(name):
    parameters = inspect.signature(LOSSES[name]).parameters
    arguments, _ = EXAMPLES[name].build(np.random.default_rng(0), 2)
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    required = [p for p in positional if p.default is p.empty]
    assert len(required) <= len(arguments) <= len(positional)
    assert all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values())
    assert ("where" in parameters) == (EXAMPLES[name].where is not None)
    assert "reduction" not in parameters


@pytest.mark.parametrize("name", NAMES)
def test_docstring_holds_the_formula_the_arguments_an_example_and_the_reference(name):
    text = inspect.getdoc(LOSSES[name]) or ""
    wanted = (".. math::", "Args:", "Returns:", ">>> ", "Reference:")
    assert not [each for each in wanted if each not in text]


@pytest.mark.parametrize("name", NAMES)
def test_integer_student_is_refused_by_name(name):
    example = EXAMPLES[name]
    parameters = list(inspect.signature(LOSSES[name]).parameters)
    arguments, keywords = example.build(np.random.default_rng(0), 2)
    position = example.student[0]
    integers = [
        jax.tree.map(lambda x: x.astype(np.int32), each) if k == position else each
        for k, each in enumerate(arguments)
    ]
    with pytest.raises(TypeError, match=parameters[position]):
        LOSSES[name](*integers, **keywords)


def cast(x, dtype):
    return dtype if np.issubdtype(x.dtype, np.floating) else x.dtype


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_float64_stay_what_they_are(name):
    _, frame = posed(name)
    for found, dtype in (
        (outcomes(name)["weighted"], np.float32),
        (in_double(name, posed(name)[0]), np.float64),
    ):
        assert found.value.dtype == dtype
        assert {gradient.dtype for _, gradient in held(frame, found.gradients)} == {np.dtype(dtype)}


def raised_at_once(name, dtype):
    """Whether the traced loss does nothing with half precision but make float32 of it."""
    call, frame = posed(name)

    def value(*arrays):
        arguments, keywords = frame.rebuild(arrays)
        return LOSSES[name](*arguments, **keywords)

    shapes = [jax.ShapeDtypeStruct(x.shape, cast(x, dtype)) for x in call.arrays]
    traced = jax.make_jaxpr(value)(*shapes)
    given = [v for v in traced.jaxpr.invars if v.aval.dtype == dtype]
    uses = [e for e in traced.eqns if any(v is x for v in e.invars for x in given)]
    raises = all(
        eqn.primitive.name == "convert_element_type" and eqn.params["new_dtype"] == jnp.float32
        for eqn in uses
    )
    return raises and all(out.dtype == jnp.float32 for out in traced.out_avals)


HALVES = [pytest.param(jnp.bfloat16, id="bf16"), pytest.param(jnp.float16, id="fp16")]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_input_gives_what_its_float32_copy_gives(name, dtype, request):
    # Raised before anything else, the input is its float32 copy; otherwise it has to be measured.
    if not raised_at_once(name, dtype) or request.config.getoption("--full"):
        assert_half_equals_its_float32_copy(name, dtype)


def assert_half_equals_its_float32_copy(name, dtype):
    call, frame = posed(name)
    run = stress.program(LOSSES[name], frame, masked=False)

    def both(halves, cotangent):
        raised = [x.astype(jnp.float32) if x.dtype == dtype else x for x in halves]
        return run(halves, None, cotangent), run(raised, None, cotangent)

    halves = [jnp.asarray(x, cast(x, dtype)) for x in call.arrays]
    cotangent = jnp.asarray(fixed_random(name, shape_of(name)), jnp.float32)
    half, full = jax.jit(both, compiler_options=stress.COMPILER)(halves, cotangent)
    assert half[0].dtype == jnp.float32
    assert_near(half[0], full[0], 1e-6)
    for ours, wanted in zip(half[1], full[1], strict=True):
        assert ours.dtype == dtype
        ours, wanted = (np.asarray(x, np.float32) for x in (ours, wanted))
        step, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
        np.testing.assert_allclose(ours, wanted, rtol=step, atol=tiny)


# Derivatives, transformations, symmetries.


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_derivative(name):
    if EXAMPLES[name].not_derivative:
        pytest.skip(EXAMPLES[name].not_derivative)
    call, frame = posed(name)
    wide = widened(call.arrays)
    floats = [x for fact, x in zip(frame.facts, wide, strict=True) if fact.floating]

    def arrays(chosen):
        supply = iter(chosen)
        pairs = zip(frame.facts, wide, strict=True)
        return [next(supply) if fact.floating else x for fact, x in pairs]

    def value(*chosen):
        return double(name)(arrays(chosen), np.zeros(shape_of(name)))[0]

    def value_and_pull(*chosen):
        return value(*chosen), lambda cotangent: tuple(double(name)(arrays(chosen), cotangent)[1])

    with jax.enable_x64(True):
        test_util.check_vjp(value, value_and_pull, tuple(floats), atol=1e-6, rtol=1e-5, eps=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_stacked_under_vmap_without_a_mask_and_in_float64_give_one_value(name):
    _, frame = posed(name)
    stacked, alone = outcomes(name)["weighted"], in_double(name, posed(name)[0])
    assert_near(stacked.value, alone.value, 1e-4)
    pairs = zip(held(frame, stacked.gradients), held(frame, alone.gradients), strict=True)
    for (fact, ours), (_, wanted) in pairs:
        assert_near(ours, wanted, 1e-3, fact.name)


@pytest.mark.parametrize(
    "name", [name for name in POINTWISE if "one_example" not in EXAMPLES[name].skip]
)
def test_batch_equals_its_examples_one_by_one(name):
    _, frame = posed(name)
    batch, alone = outcomes(name)["weighted"], singles(name)[:-1]
    assert len(alone) == stress.BATCH
    assert_near(np.concatenate([each.value for each in alone]), batch.value, 1e-5)
    for k, (fact, whole) in enumerate(zip(frame.facts, batch.gradients, strict=True)):
        if whole is not None:
            parts = [each.gradients[k] for each in alone]
            joined = np.concatenate(parts) if fact.batched else np.sum(parts, axis=0)
            assert_near(joined, whole, 1e-5, fact.name)


@pytest.mark.parametrize("name", [name for name in NAMES if EXAMPLES[name].permutes])
def test_permuting_the_batch_permutes_value_and_gradient(name):
    call, frame = posed(name)
    weights = fixed_random(name, shape_of(name))
    moved = weights[PERMUTATION] if keeps_the_batch(name) else weights
    plain, shuffled = in_double(name, call, weights), in_double(name, permuted(name, call), moved)
    wanted = plain.value[PERMUTATION] if keeps_the_batch(name) else plain.value
    assert_near(shuffled.value, wanted, 1e-9)
    for k, (fact, gradient) in enumerate(zip(frame.facts, plain.gradients, strict=True)):
        if gradient is not None:
            wanted = gradient[PERMUTATION] if fact.batched else gradient
            assert_near(shuffled.gradients[k], wanted, 1e-9, fact.name)


AT_TEACHER = [name for name in NAMES if EXAMPLES[name].zero_at_teacher and EXAMPLES[name].same]


@pytest.mark.parametrize("name", AT_TEACHER)
def test_zero_with_a_zero_gradient_where_the_student_is_the_teacher(name):
    call, frame = posed(name)
    found = in_double(name, stress.teacher_is_student(EXAMPLES[name], frame, call))
    assert_near(found.value, np.zeros_like(found.value), 1e-9)
    for fact, gradient in held(frame, found.gradients):
        if fact.side == "student":
            assert_near(gradient, np.zeros_like(gradient), 1e-7, fact.name)


# Masks.


def first_row(call):
    return (0,) * call.where.ndim


@pytest.mark.parametrize("name", MASKED)
def test_masked_row_gives_exactly_zero_in_value_and_gradient(name):
    call, frame = posed(name)
    found = outcomes(name)["weighted_masked_nan"]
    if found.value.shape[: call.where.ndim] == call.where.shape:
        assert np.all(found.value[first_row(call)] == 0)
    for fact, gradient in held(frame, found.gradients):
        if fact.batched and gradient.shape[: call.where.ndim] == call.where.shape:
            assert np.all(gradient[first_row(call)] == 0), fact.name


@pytest.mark.parametrize("name", MASKED)
def test_everything_masked_gives_exactly_zero_in_value_and_gradient(name):
    _, frame = posed(name)
    found = outcomes(name)["all_masked"]
    assert np.all(found.value == 0)
    for fact, gradient in held(frame, found.gradients):
        assert np.all(gradient == 0), fact.name


@pytest.mark.parametrize("name", [name for name in MASKED if name in POINTWISE])
def test_mask_leaves_the_other_examples_of_a_pointwise_loss_as_they_were(name):
    _, frame = posed(name)
    plain, masked = outcomes(name)["weighted"], outcomes(name)["weighted_masked_nan"]
    assert_near(masked.value[1:], plain.value[1:], 1e-6)
    for k, (fact, gradient) in enumerate(zip(frame.facts, plain.gradients, strict=True)):
        if gradient is not None and fact.batched:
            assert_near(masked.gradients[k][1:], gradient[1:], 1e-6, fact.name)


@FULL
@pytest.mark.parametrize("name", [n for n in COUPLING if n in MASKED and EXAMPLES[n].permutes])
def test_mask_of_a_coupling_loss_equals_dropping_the_examples(name):
    call, frame = posed(name)
    if call.where.shape != (stress.BATCH,):
        pytest.skip("the mask is not by example")
    if not all(fact.batched for fact, x in zip(frame.facts, call.arrays, strict=True) if x.ndim):
        pytest.skip("some arrays belong to no example")
    where = np.arange(stress.BATCH) > 1
    masked = stress.run_stacked(LOSSES[name], frame, [call._replace(where=where)])[0]
    kept = call._replace(arrays=tuple(x[2:] if x.ndim else x for x in call.arrays), where=where[2:])
    dropped = stress.run_stacked(LOSSES[name], frame, [kept])[0]
    value = masked.value[2:] if keeps_the_batch(name) else masked.value
    assert_near(value, dropped.value, 1e-5)
    pairs = zip(held(frame, masked.gradients), held(frame, dropped.gradients), strict=True)
    for (fact, ours), (_, wanted) in pairs:
        assert_near(ours[2:], wanted, 1e-5, fact.name)


# What mixes examples.


def mixing(name):
    """How the first example's value depends on other examples: the arguments, by name."""
    if not keeps_the_batch(name):
        return ["one value for the batch"]
    _, frame = posed(name)
    found = outcomes(name)
    probe = held(frame, found["first_value"].gradients)
    mixed = [fact.name for fact, g in probe if fact.batched and np.any(g[1:] != 0)]
    plain, moved = found["weighted"].value[0], found["others_replaced"].value[0]
    if not np.allclose(plain, moved, rtol=1e-6, atol=1e-7):
        mixed.append("another example's values")
    return mixed


@pytest.mark.parametrize("name", NAMES)
def test_coupling_is_declared_as_the_jacobian_shows_it(name):
    assert bool(mixing(name)) == (name in kdjax.losses.COUPLING), mixing(name)


def on_eight_devices(name, run, arrays, cotangent):
    """`run` with every batched array and the cotangent split over eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    facts = posed(name)[1].facts
    placed = [
        jax.device_put(x, split if fact.batched else whole)
        for fact, x in zip(facts, arrays, strict=True)
    ]
    over = split if keeps_the_batch(name) else whole
    return run(placed, jax.device_put(cotangent, over))


@pytest.mark.parametrize("name", COUPLING)
def test_coupling_loss_is_the_same_on_one_device_and_on_eight(name):
    call, frame = posed(name)
    one = in_double(name, call)
    with jax.enable_x64(True):
        arrays = widened(call.arrays)
        weights = fixed_random(name, shape_of(name))
        value, gradients = on_eight_devices(name, double(name), arrays, weights)
    assert_near(value, one.value, 1e-9)
    eight = held(frame, spread(frame, gradients))
    for (fact, ours), (_, wanted) in zip(eight, held(frame, one.gradients), strict=True):
        assert_near(ours, wanted, 1e-9, fact.name)


@FULL
@pytest.mark.parametrize("name", COUPLING)
def test_float32_on_eight_devices_is_float32_on_one(name):
    call, frame = posed(name)

    def value_and_gradients(arrays, cotangent):
        return stress.program(LOSSES[name], frame, masked=False)(arrays, None, cotangent)

    run = jax.jit(value_and_gradients, compiler_options=stress.COMPILER)
    weights = fixed_random(name, shape_of(name)).astype(np.float32)
    one = run([jnp.asarray(x) for x in call.arrays], weights)
    eight = on_eight_devices(name, run, call.arrays, weights)
    for ours, wanted in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        assert_near(ours, wanted, 1e-6)


@FULL
@pytest.mark.parametrize("name", NAMES)
def test_compiled_equals_eager(name):
    call, frame = posed(name)
    arguments, keywords = frame.rebuild([jnp.asarray(x) for x in call.arrays])
    assert_near(outcomes(name)["weighted"].value, LOSSES[name](*arguments, **keywords), 1e-5)
