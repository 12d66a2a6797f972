import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses, signals
from kdjax.losses import divergences
from kdjax.signals import chunked
from tests.kdjax.signals.cores import CORES

TOKENS, CLASSES, NARROW, WIDE = 12, 19, 7, 10
KL = divergences.kl_of_log_probs
SHANNON = divergences.generalized_jensen_shannon_of_log_probs


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Strips of tokens and blocks of rows that are as small beside these sizes as beside real ones."""
    monkeypatch.setattr(chunked, "STRIP", 2)
    monkeypatch.setattr(chunked, "STRIP_SIZE", 1)
    monkeypatch.setattr(chunked, "HEAD_ROWS", 3)


def arrays(tokens=(TOKENS,), dtype=jnp.float32):
    """Student hidden and head, teacher hidden and head."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = (*tokens, NARROW), (NARROW, CLASSES), (*tokens, WIDE), (WIDE, CLASSES)
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


def close(ours, wanted, rtol=1e-5, atol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, wanted)


def both(total, *trained):
    """Value and gradient by everything trained, as one compiled program."""
    return jax.jit(jax.value_and_grad(total, tuple(range(len(trained)))))(*trained)


@pytest.mark.parametrize("name", CORES)
def test_value_and_gradient_equal_the_dense_function(name):
    core, hyper, dense = CORES[name]
    hidden, head, teacher_hidden, teacher_head = arrays()
    where = jnp.arange(TOKENS) % 4 != 1
    signal = signals.HiddenHead(teacher_hidden, teacher_head)

    def whole(hidden, head):
        values = dense(
            hidden @ head, teacher_hidden @ teacher_head, temperature=2.0, where=where, **hyper
        )
        return jnp.sum(values) / jnp.sum(where)

    def mean(hidden, head, chunk):
        total, count = signals.chunked_divergence(
            core,
            signals.HiddenHead(hidden, head),
            signal,
            temperature=2.0,
            where=where,
            chunk=chunk,
            **hyper,
        )
        return total / count

    wanted = both(whole, hidden, head)
    for chunk in (4, 5):
        ours = both(functools.partial(mean, chunk=chunk), hidden, head)
        close(ours, wanted)
        assert not np.any(np.asarray(ours[1][0])[1::4])
    alone = jax.jit(functools.partial(mean, chunk=5))(hidden, head)
    close(alone, wanted[0])


SIGNALS = {
    "dense": lambda t: signals.Dense(t),
    "top k": lambda t: signals.top_k(t, 4, temperature=2.0),
    "sampled": lambda t: signals.sample(jax.random.key(3), t, 5, temperature=2.0),
}


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("name", ["kl", "jensen shannon", "adaptive"])
def test_every_signal_gives_what_it_gives_the_whole_logits(kind, name):
    if kind == "sampled" and name != "kl":
        pytest.skip("refused: biased")
    core, hyper, _ = CORES[name]
    hidden, head, teacher_hidden, teacher_head = arrays()
    signal = SIGNALS[kind](teacher_hidden @ teacher_head)
    where = jnp.arange(TOKENS) != 3

    def whole(hidden, head):
        return jnp.sum(
            signals.signal_divergence(
                core, hidden @ head, signal, temperature=2.0, where=where, **hyper
            )
        )

    def total(hidden, head):
        return signals.chunked_divergence(
            core,
            signals.HiddenHead(hidden, head),
            signal,
            temperature=2.0,
            where=where,
            chunk=5,
            **hyper,
        )[0]

    close(both(total, hidden, head), both(whole, hidden, head))


def test_bias_scale_softcap_and_batch_axes():
    hidden, head, teacher_hidden, teacher_head = arrays((3, 5))
    bias = jnp.linspace(-1, 1, CLASSES)
    teacher = signals.HiddenHead(teacher_hidden, teacher_head, bias[::-1], 0.7, 3.0)

    def student(*parts):
        return signals.HiddenHead(*parts)

    def whole(*parts):
        return jnp.sum(
            losses.reverse_kl_divergence(
                signals.logits_of(student(*parts)), signals.logits_of(teacher)
            )
        )

    def total(*parts):
        return signals.chunked_divergence(
            divergences.reverse_kl_of_log_probs, student(*parts), teacher, chunk=7
        )[0]

    trained = hidden, head, bias, jnp.asarray(1.3), jnp.asarray(2.0)
    close(both(total, *trained), both(whole, *trained))


def test_hyperparameters_may_be_traced_differ_by_token_and_have_gradients():
    hidden, head, teacher_hidden, teacher_head = arrays()
    signal = signals.HiddenHead(teacher_hidden, teacher_head)
    betas = jnp.linspace(0.1, 0.9, TOKENS)

    def whole(temperature, beta, head):
        return jnp.sum(
            losses.generalized_jensen_shannon_divergence(
                hidden @ head, teacher_hidden @ teacher_head, temperature=temperature, beta=beta
            )
        )

    def total(temperature, beta, head):
        return signals.chunked_divergence(
            SHANNON,
            signals.HiddenHead(hidden, head),
            signal,
            temperature=temperature,
            beta=beta,
            chunk=5,
        )[0]

    for trained in [
        (jnp.asarray(2.0), betas, head),
        (jnp.linspace(0.5, 3, TOKENS), jnp.asarray(0.3), head),
    ]:
        close(both(total, *trained), both(whole, *trained), rtol=2e-5, atol=1e-5)


def test_a_masked_token_may_hold_nan():
    hidden, head, teacher_hidden, teacher_head = arrays()
    where = jnp.arange(TOKENS) != 4

    def total(hidden, head, teacher_hidden):
        total, count = signals.chunked_divergence(
            KL,
            signals.HiddenHead(hidden, head),
            signals.HiddenHead(teacher_hidden, teacher_head),
            where=where,
            chunk=5,
        )
        return total / count

    run = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
    ours = run(hidden.at[4].set(jnp.nan), head, teacher_hidden.at[4].set(jnp.inf))
    wanted = run(hidden, head, teacher_hidden)
    jax.tree.map(np.testing.assert_array_equal, ours, wanted)
    assert not np.any(ours[1][0][4])
    assert not np.any(ours[1][2]), "the teacher is frozen"
    nothing = jax.jit(
        lambda hidden: signals.chunked_divergence(
            KL,
            signals.HiddenHead(hidden, head),
            signals.HiddenHead(teacher_hidden, teacher_head),
            where=jnp.zeros(TOKENS, bool),
        )
    )(hidden)
    assert [float(x) for x in nothing] == [0.0, 0.0]


@pytest.mark.parametrize("name", CORES)
def test_classes_without_mass_never_give_nan(name):
    core, hyper, _ = CORES[name]
    hidden, head, teacher_hidden, teacher_head = arrays()
    none = jnp.where(jnp.arange(CLASSES) < 4, -jnp.inf, 0.0)

    def total(hidden, head, bias):
        return signals.chunked_divergence(
            core,
            signals.HiddenHead(hidden, head, bias),
            signals.HiddenHead(1000 * teacher_hidden, teacher_head, none),
            chunk=5,
            **hyper,
        )[0]

    value, gradients = both(total, 1000 * hidden, head, none)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in gradients)
    assert not np.any(np.asarray(gradients[1])[:, :4])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_raised_and_the_gradient_returns_in_it(dtype):
    half = arrays(dtype=dtype)

    def mean(hidden, head, teacher_hidden, teacher_head):
        total, count = signals.chunked_divergence(
            SHANNON,
            signals.HiddenHead(hidden, head),
            signals.HiddenHead(teacher_hidden, teacher_head),
            beta=0.3,
            chunk=5,
        )
        assert total.dtype == count.dtype == jnp.float32
        return total / count

    run = jax.jit(jax.value_and_grad(mean, (0, 1)))
    value, gradients = run(*half)
    wanted, wide = run(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for ours, whole in zip(gradients, wide, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(
            ours.astype(jnp.float32), whole, rtol=float(jnp.finfo(dtype).eps), atol=1e-6
        )


def test_vmap_over_seeds_equals_a_loop():
    hidden, head, teacher_hidden, teacher_head = arrays()
    heads = jnp.stack([head, 2 * head, head[:, ::-1]])
    signal = signals.HiddenHead(teacher_hidden, teacher_head)

    def total(head, beta):
        return signals.chunked_divergence(
            SHANNON, signals.HiddenHead(hidden, head), signal, beta=beta, chunk=5
        )[0]

    run = jax.value_and_grad(total)
    betas = jnp.array([0.1, 0.5, 0.9])
    ours = jax.jit(jax.vmap(run))(heads, betas)
    alone = jax.jit(run)
    wanted = [alone(h, b) for h, b in zip(heads, betas, strict=True)]
    close(ours, jax.tree.map(lambda *x: jnp.stack(x), *wanted))


def test_losses_over_logits_and_with_labels():
    hidden, head, teacher_hidden, teacher_head = arrays()
    labels = jnp.arange(TOKENS) % CLASSES
    where = jnp.arange(TOKENS) != 2
    signal = signals.HiddenHead(teacher_hidden, teacher_head)
    for loss, arguments in [
        (losses.logit_cosine_distance, {}),
        (losses.minifinetuning_divergence, {"labels": labels, "threshold": 0.3}),
    ]:

        def whole(hidden, head, loss=loss, arguments=arguments):
            return jnp.sum(
                loss(hidden @ head, teacher_hidden @ teacher_head, where=where, **arguments)
            )

        def total(hidden, head, loss=loss, arguments=arguments):
            student = signals.HiddenHead(hidden, head)
            return signals.chunked_loss(loss, student, signal, where=where, chunk=5, **arguments)[0]

        close(both(total, hidden, head), both(whole, hidden, head))


def units(compiled, tokens, classes):
    """Memory beyond the arguments, in float32 [tokens, V] tensors."""
    memory = compiled.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return size / (4 * tokens * classes)


@pytest.mark.parametrize("chunk", [32, 30])
def test_memory_is_a_fraction_of_the_logits(chunk, monkeypatch):
    # 4,096 tokens, 32,768 classes, widths 512 and 1024, chunk 128, all but the classes over four.
    tokens, classes, narrow, wide = 1024, 32768, 128, 256
    monkeypatch.setattr(chunked, "STRIP_SIZE", 2 * classes)
    monkeypatch.setattr(chunked, "HEAD_ROWS", 32)
    shapes = (tokens, narrow), (narrow, classes), (tokens, wide), (wide, classes)
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]

    def mean(hidden, head, teacher_hidden, teacher_head):
        total, count = signals.chunked_divergence(
            SHANNON,
            signals.HiddenHead(hidden, head),
            signals.HiddenHead(teacher_hidden, teacher_head),
            beta=0.3,
            chunk=chunk,
        )
        return total / count

    def memory(function):
        return units(jax.jit(function).lower(*shapes).compile(), tokens, classes)

    assert memory(jax.value_and_grad(mean, (0, 1))) < 0.275
    # The head's gradient alone is 0.125: it is not formed for a frozen head, nor for a value.
    assert memory(jax.value_and_grad(mean)) < 0.14
    assert memory(mean) < 0.1


def test_bad_input_is_refused_by_name():
    hidden, head, teacher_hidden, teacher_head = arrays()
    student = signals.HiddenHead(hidden, head)
    teacher = signals.HiddenHead(teacher_hidden, teacher_head)
    for error, message, call in [
        (TypeError, "student must be a HiddenHead", lambda: (KL, signals.Dense(hidden), teacher)),
        (
            ValueError,
            r"student.hidden must have shape \(12, 10\), got \(12, 7\)",
            lambda: (KL, signals.HiddenHead(hidden, teacher_head), teacher),
        ),
        (
            ValueError,
            r"signal.head must have shape \(10, 19\), got \(10, 18\)",
            lambda: (KL, student, signals.HiddenHead(teacher_hidden, teacher_head[:, :18])),
        ),
        (
            ValueError,
            "student.bias",
            lambda: (KL, signals.HiddenHead(hidden, head, jnp.zeros(3)), teacher),
        ),
        (
            ValueError,
            "student.softcap must be above 0",
            lambda: (KL, signals.HiddenHead(hidden, head, softcap=0.0), teacher),
        ),
        (
            TypeError,
            "student.head must be a floating-point",
            lambda: (KL, signals.HiddenHead(hidden, head.astype(int)), teacher),
        ),
    ]:
        with pytest.raises(error, match=message):
            signals.chunked_divergence(*call())
    for error, message, arguments in [
        (ValueError, "chunk must be at least 1", {"chunk": 0}),
        (ValueError, "where must have the result's shape", {"where": jnp.ones(3, bool)}),
        (TypeError, "where must be boolean", {"where": jnp.ones(TOKENS)}),
        (ValueError, "temperature must be above 0", {"temperature": -1.0}),
        (ValueError, "skew must be between 0 and 1", {"skew": 1.5}),
        (TypeError, "beta", {"beta": 0.5}),
    ]:
        with pytest.raises(error, match=message):
            signals.chunked_divergence(
                divergences.skew_kl_of_log_probs,
                student,
                teacher,
                **{"skew": 0.1, **arguments},
            )
    with pytest.raises(TypeError, match="signal must be Dense or HiddenHead, got TopK"):
        signals.chunked_loss(
            losses.logit_cosine_distance, student, signals.top_k(teacher_hidden @ teacher_head, 2)
        )


@pytest.fixture(name="mesh")
def _mesh():
    return jax.make_mesh((8,), ("tensor",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("kind", ["hidden head", *SIGNALS])
def test_a_head_sharded_over_its_classes(kind, mesh):
    hidden, head, teacher_hidden, teacher_head = arrays()
    classes = 16 * 8
    head, teacher_head = (
        jax.random.normal(jax.random.key(i), (x.shape[0], classes))
        for i, x in ((5, head), (6, teacher_head))
    )
    bias = jnp.linspace(-1, 1, classes)
    signal = (
        signals.HiddenHead(teacher_hidden, teacher_head, bias)
        if kind == "hidden head"
        else SIGNALS[kind](teacher_hidden @ teacher_head)
    )

    def mean(hidden, head, bias, signal):
        total, count = signals.chunked_divergence(
            KL, signals.HiddenHead(hidden, head, bias), signal, temperature=2.0, chunk=5
        )
        return total / count

    def put(x, *spec):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P(*spec)))

    placed = jax.tree.map(put, signal)
    if kind == "hidden head":
        placed = signals.HiddenHead(
            put(teacher_hidden), put(teacher_head, None, "tensor"), put(bias, "tensor")
        )
    elif kind == "dense":
        placed = signals.Dense(put(signal.logits, None, "tensor"))
    trained = put(hidden), put(head, None, "tensor"), put(bias, "tensor")
    compiled = jax.jit(jax.value_and_grad(mean, (0, 1, 2))).lower(*trained, placed).compile()
    ours = compiled(*trained, placed)
    wanted = jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(hidden, head, bias, signal)
    close(ours, wanted)
    # No device ever holds all classes of a token, nor of a row of the head.
    text = compiled.as_text()
    assert "all-reduce" in text
    for whole in (f",{classes}]", f"[{classes}]"):
        assert whole not in text, [line for line in text.splitlines() if whole in line][:3]
