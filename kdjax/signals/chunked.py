r"""Divergences over vocabularies whose logits do not fit: token chunks, gradients formed on the way.

Notation: tokens `[..., L]`, student hidden `[..., L, D]` and head `[D, V]`; a chunk is a slice of the
axis L, so that batch axes in front of it stay sharded as they are. Only one chunk's logits exist at
a time. While they are there, the gradients to the student's hidden states, head, bias, scale,
softcap and to the hyperparameters are formed as well, those that are asked for and no others; the
backward pass only scales them. A value without a gradient computes none of it.

What is summed over chunks, the value and the gradients of head and bias, is held in at least
float32. The head's gradient is added up in place, a few rows of `[D, V]` at a time: a product of the
head's size would need as much again.

The vocabulary axis of both heads (and biases) may be sharded: each device holds the logits of its
own classes and the normalisers are reduced over the mesh. With tokens sharded too, call these under
`shard_map` over the data axis: otherwise every chunk reduces the head's gradient over the mesh.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from kdjax.losses import _arrays
from kdjax.signals import signal as signals

CHUNK = 128
# How many rows of the head's gradient are formed at once; how many tokens go through the divergence
# at once, at least, and how many numbers: small against a chunk, and no slower for it.
HEAD_ROWS = 128
STRIP, STRIP_SIZE = 8, 2**18


def chunked_divergence(
    divergence,
    student,
    signal,
    *,
    temperature=1.0,
    where=None,
    chunk=CHUNK,
    **hyperparameters,
):
    r"""(Σ T² · d(student, teacher), number of tokens), the student's logits never all in memory.

    .. math:: \sum_l T^2\, d(q_l, p_l), \quad q_l = \operatorname{softmax}(z(h_l) / T)

    with z the logits of `HiddenHead`; how a signal enters d is said in `kdjax.signals.signal`. The
    total is that of `signal_divergence` on `logits_of(student)`, and of the function over logits that
    goes with the core if the signal is dense.

    Args:
        divergence: a core of `kdjax.losses.divergences`, `d(log_q, log_p, **hyperparameters)`.
        student: a `HiddenHead` with hidden `[..., L, D]` and head `[D, V]`.
        signal: `Dense`, `HiddenHead`, `TopK` or `Sampled`, frozen: no gradient passes into it.
        temperature: T > 0, a number or `[..., L]`. For `Sampled` it must be the signal's own.
        where: `[..., L]` boolean; masked tokens count nothing, in value and gradient.
        chunk: how many tokens are in memory at once. It need not divide anything. A chunk takes at
            least one step of L, so as many tokens as the axes before it have together.
        **hyperparameters: of the core, numbers or `[..., L]`; they may be traced.

    Returns:
        Two scalars in at least float32, as `total_and_count` has them. The gradient has the dtype of
        what it is by. It is a reverse-mode gradient of the first order; there is no forward mode.

    Raises:
        TypeError: arrays that are not floating-point, classes that are not integers, a signal that
        is none, a divergence that `Sampled` cannot give. ValueError: shapes, temperature, chunk,
        hyperparameters.

    >>> from kdjax.losses.divergences import kl_of_log_probs
    >>> student = signals.HiddenHead(jnp.ones((3, 2)), jnp.zeros((2, 4)))
    >>> teacher = signals.Dense(jnp.log(jnp.array([[1.0, 1.0, 1.0, 5.0]] * 3)))
    >>> total, count = chunked_divergence(kl_of_log_probs, student, teacher, chunk=2)
    >>> round((total / count).item(), 4), count.item()
    (0.3128, 3.0)

    Reference:
        Hsu, Dai, Kothapalli, Song, Tang, Zhu, Shimizu, Sahni, Ning, Chen, "Liger Kernel: Efficient
        Triton Kernels for LLM Training", 2024, forms the gradients of the head in the forward pass.
    """
    tokens, classes = _check_student(student)
    signals.check(divergence, tokens, classes, signal, temperature, where, hyperparameters)

    def values(logits, signal, where, hyper):
        hyper = dict(hyper)
        temperature = hyper.pop("temperature")
        return signals.token_values(divergence, logits, signal, temperature, where, hyper)

    hyper = {"temperature": temperature, **hyperparameters}
    return _total_and_count(values, student, signal, hyper, where, chunk)


def chunked_loss(loss, student, signal, *, where=None, chunk=CHUNK, **arguments):
    """(Σ loss, number of tokens) of any per-token loss over logits, which are never all in memory.

    For what is not a divergence of log-probabilities alone, such as `logit_cosine_distance`, or needs
    labels, such as `minifinetuning_divergence`.

    Args:
        loss: `f(student_logits, teacher_logits, *, where, **arguments) -> [..., L]`.
        student: a `HiddenHead` with hidden `[..., L, D]` and head `[D, V]`.
        signal: `Dense` or `HiddenHead`, frozen: no gradient passes into it.
        where: `[..., L]` boolean; masked tokens count nothing, in value and gradient.
        chunk: how many tokens are in memory at once, as in `chunked_divergence`.
        **arguments: the loss's further arrays and hyperparameters, numbers or `[..., L]`.

    Returns:
        Two scalars in at least float32, as `total_and_count` has them.

    Raises:
        TypeError: arrays that are not floating-point, a sparse signal. ValueError: shapes, chunk.

    >>> from kdjax.losses import logit_cosine_distance
    >>> student = signals.HiddenHead(jnp.ones((3, 2)), jnp.eye(2))
    >>> teacher = signals.Dense(jnp.array([[1.0, -1.0]] * 3))
    >>> chunked_loss(logit_cosine_distance, student, teacher)
    (Array(3., dtype=float32), Array(3., dtype=float32))
    """
    tokens, classes = _check_student(student)
    if not isinstance(signal, (signals.Dense, signals.HiddenHead)):
        raise TypeError(f"signal must be Dense or HiddenHead, got {type(signal).__name__}")
    signals.check_signal(signal, tokens, classes)
    _arrays.check_where(where, tokens)
    for name, value in arguments.items():
        if jnp.ndim(value) and jnp.shape(value) != tokens:
            raise ValueError(f"{name} must be a number or {tokens}, got {jnp.shape(value)}")

    def values(logits, signal, where, hyper):
        teacher = signals.logits_of(signals.kept(where, signal)).astype(logits.dtype)
        return loss(logits, teacher, where=where, **hyper)

    return _total_and_count(values, student, signal, arguments, where, chunk)


def _check_student(student):
    """The shape of the tokens and the number of classes of a student."""
    if not isinstance(student, signals.HiddenHead):
        raise TypeError(f"student must be a HiddenHead, got {type(student).__name__}")
    signals.check_head("student", student)
    return tuple(student.hidden.shape[:-1]), student.head.shape[-1]


def _total_and_count(values, student, signal, hyper, where, chunk):
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    # Python numbers stay what they are: a core leaves out what they switch off.
    numbers = {k: v for k, v in hyper.items() if isinstance(v, (int, float))}
    arrays = {k: jnp.asarray(v) for k, v in hyper.items() if k not in numbers}
    moving = {k: v for k, v in arrays.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    fixed = {k: v for k, v in arrays.items() if k not in moving}
    parts = {f.name: getattr(student, f.name) for f in dataclasses.fields(student)}
    parts["scale"] = _scale(student)
    parts = {f"student.{k}": jnp.asarray(v) for k, v in parts.items() if v is not None}
    if isinstance(signal, signals.HiddenHead):
        signal = dataclasses.replace(signal, scale=_scale(signal))

    def chunk_values(logits, signal, where, hyper):
        return values(logits, signal, where, {**numbers, **hyper})

    frozen = jax.lax.stop_gradient((signal, fixed, where))
    total = _total(chunk_values, chunk, {**parts, **moving}, frozen)
    count = (
        math.prod(student.hidden.shape[:-1]) if where is None else jnp.sum(where, dtype=total.dtype)
    )
    return total, jnp.asarray(count, total.dtype)


def _scale(head):
    """The scale of a `HiddenHead`, None where it is the Python number one and nothing is to be done."""
    return None if isinstance(head.scale, (int, float)) and head.scale == 1 else head.scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(values, chunk, inputs, frozen):
    """The sum of `values` over chunks; `inputs`: by name, what may have a gradient."""
    return _over_chunks(values, chunk, inputs, frozen, asked=())[0]


def _total_forward(values, chunk, inputs, frozen):
    asked = [name for name, x in inputs.items() if x.perturbed]
    inputs, frozen = jax.tree.map(lambda x: x.value, (inputs, frozen), is_leaf=_is_primal)
    total, gradients = _over_chunks(values, chunk, inputs, frozen, asked)
    # Arrays without elements carry the dtypes to the backward pass.
    dtypes = {name: jnp.zeros((0,), x.dtype) for name, x in inputs.items()}
    return total, (gradients, dtypes)


def _total_backward(values, chunk, formed, cotangent):
    gradients, dtypes = formed
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        gradients = {}
    scaled = {k: (x * cotangent).astype(dtypes[k].dtype) for k, x in gradients.items()}
    return {name: scaled.get(name) for name in dtypes}, None


def _is_primal(x):
    return hasattr(x, "perturbed")


_total.defvjp(_total_forward, _total_backward, symbolic_zeros=True)


def _over_chunks(values, chunk, inputs, frozen, asked):
    """The total, and its gradient by each of the inputs `asked`, summed in at least float32."""
    hidden, head = inputs["student.hidden"], inputs["student.head"]
    bias = inputs.get("student.bias")
    small = {k: x for k, x in inputs.items() if k not in _READ_BY_MATMUL}
    windows = _Windows(hidden.shape[:-1], chunk)

    def step(index, carried):
        total, gradients = carried
        window = windows.at(index)
        signal, fixed, where = window.rows_of_signal(frozen)
        h = _arrays.select(where, window.rows(hidden))
        raw = signals.raw_logits(h, head, bias)
        if isinstance(signal, signals.HiddenHead):
            signal = signals.Dense(signals.logits_of(signals.kept(where, signal)))
        value, by_raw, formed = _over_strips(
            values, raw, window.rows(small), (signal, fixed, where), asked
        )
        added = {k: window.put(gradients[k], x) for k, x in formed.items()}
        if "student.hidden" in asked:
            rows = _times_transposed(by_raw, head)
            added["student.hidden"] = window.put(gradients["student.hidden"], rows)
        if "student.head" in asked:
            added["student.head"] = _add_outer(gradients["student.head"], h, by_raw)
        if "student.bias" in asked:
            summed = jnp.sum(by_raw, axis=tuple(range(by_raw.ndim - 1)))
            added["student.bias"] = gradients["student.bias"] + summed
        return total + value, added

    dtype = functools.reduce(jnp.promote_types, (hidden.dtype, head.dtype, jnp.float32))
    start = jnp.zeros((), dtype), {k: _zeros(inputs[k]) for k in asked}
    return jax.lax.fori_loop(0, windows.number, step, start)


_READ_BY_MATMUL = ("student.hidden", "student.head", "student.bias")


def _over_strips(values, raw, small, frozen, asked):
    """A chunk's total, its gradient by the raw logits and by what is `asked` of `small`.

    The values are taken a few tokens at a time, so that what they hold on the way to the gradient is
    a fraction of the chunk.
    """
    asked_small = [k for k in asked if k in small]
    windows = _Windows(raw.shape[:-1], max(STRIP, STRIP_SIZE // raw.shape[-1]))

    def step(index, carried):
        total, whole, gradients = carried
        window = windows.at(index)
        signal, fixed, where = window.rows_of_signal(frozen)
        strip, parameters = window.rows((raw, small))

        def strip_total(raw, chosen):
            named = {**parameters, **chosen}
            scale, softcap = (named.pop(f"student.{k}", None) for k in ("scale", "softcap"))
            capped = signals.capped(raw, scale, softcap)
            return jnp.sum(values(capped, signal, where, {**named, **fixed}))

        if not asked:
            return total + strip_total(strip, {}), whole, gradients
        chosen = {k: parameters[k] for k in asked_small}
        value, backward = jax.vjp(strip_total, strip, chosen)
        by_raw, formed = backward(jnp.ones_like(value))
        formed = {k: window.put(gradients[k], x) for k, x in formed.items()}
        return total + value, window.put(whole, by_raw), formed

    by_raw = jnp.zeros_like(raw) if asked else None
    start = jnp.zeros((), raw.dtype), by_raw, {k: _zeros(small[k]) for k in asked_small}
    return jax.lax.fori_loop(0, windows.number, step, start)


class _Windows:
    """Slices of one width along the last axis of the tokens; the last is moved back to fit in."""

    def __init__(self, tokens, chunk):
        self._axis, self._length = len(tokens) - 1, tokens[-1]
        self._width = max(1, min(self._length, chunk // max(1, math.prod(tokens[:-1]))))
        self._batch = tokens[:-1]
        self.number = -(-self._length // self._width)

    def at(self, index):
        start = jnp.minimum(index * self._width, self._length - self._width)
        new = None
        if self._length % self._width:
            new = start + jnp.arange(self._width) >= index * self._width
            new = jnp.broadcast_to(new, (*self._batch, self._width))
        return _Window(start, self._width, self._axis, new)


class _Window:
    """One slice: `new` masks the tokens that no earlier slice held, None if those are all."""

    def __init__(self, start, width, axis, new):
        self._start, self._width, self._axis, self._new = start, width, axis, new

    def rows(self, tree):
        """The slice of every array; a number stays."""

        def row(x):
            if not x.ndim:
                return x
            return jax.lax.dynamic_slice_in_dim(x, self._start, self._width, self._axis)

        return jax.tree.map(row, tree)

    def rows_of_signal(self, frozen):
        """(signal, fixed, where) of the slice; a token that is not new is masked."""
        signal, fixed, where = frozen
        if isinstance(signal, signals.HiddenHead):
            signal = dataclasses.replace(signal, hidden=self.rows(signal.hidden))
        else:
            signal = self.rows(signal)
        where = self.rows(where)
        if self._new is not None:
            where = self._new if where is None else where & self._new
        return signal, self.rows(fixed), where

    def put(self, whole, part):
        """Adds a number; of an array writes the new tokens in their place."""
        if not whole.ndim:
            return whole + part
        part = part.astype(whole.dtype)
        if self._new is not None:
            new = self._new.reshape(self._new.shape + (1,) * (part.ndim - self._new.ndim))
            part = jnp.where(new, part, self.rows(whole))
        return jax.lax.dynamic_update_slice_in_dim(whole, part, self._start, self._axis)


def _times_transposed(by_raw, head):
    """[..., V] and [D, V] -> [..., D]."""
    contracted = (((by_raw.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(by_raw, head, contracted, preferred_element_type=by_raw.dtype)


def _add_outer(total, h, by_raw):
    """total + hᵀ by_raw, `[D, V]`, a few rows at a time: the product itself is never whole."""
    size, axis = total.shape[0], h.ndim - 1
    rows = min(HEAD_ROWS, size)
    summed = tuple(range(axis))

    def add(index, total):
        start = jnp.minimum(index * rows, size - rows)
        some = jax.lax.dynamic_slice_in_dim(h, start, rows, axis)
        if size % rows:
            new = start + jnp.arange(rows) >= index * rows
            some = jnp.where(new.reshape((1,) * axis + (rows,)), some, jnp.zeros_like(some))
        product = jax.lax.dot_general(
            some, by_raw, ((summed, summed), ((), ())), preferred_element_type=total.dtype
        )
        product += jax.lax.dynamic_slice_in_dim(total, start, rows, 0)
        return jax.lax.dynamic_update_slice_in_dim(total, product, start, 0)

    return jax.lax.fori_loop(0, -(-size // rows), add, total)


def _zeros(x):
    return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
