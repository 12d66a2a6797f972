r"""How the signal of one example becomes bytes: one format for each kind of signal.

Notation: n tokens, V classes, K of them kept, N draws, D a hidden width. `encode` takes the fields of
a signal as arrays `[n, ...]` in numpy, `decode` gives them back. Small integers are Rice codes: the
lowest b bits as they are and the rest in unary, with the b that is shortest for the whole array. It
comes within a few hundredths of a bit of the entropy where the numbers fall off geometrically, as the
gaps between sorted classes do and the log-probabilities above the smallest that is kept.
"""

import dataclasses
import struct

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class DenseFormat:
    """Logits `[n, V]` as "float32", "bfloat16", "float16" or "int8".

    "int8" has a float32 scale max |x| / 127 for each token: an error of at most half of it.
    """

    classes: int
    dtype: str = "float32"

    def __post_init__(self):
        _check_at_least_one(classes=self.classes)
        _check_dtype(self.dtype)

    @property
    def fields(self):
        return {"logits": ((self.classes,), _read_dtype(self.dtype))}

    def encode(self, logits):
        return _encoded("logits", logits, self.dtype)

    def decode(self, content, n):
        return {"logits": _decoded(content, self.dtype, (n, self.classes))}


@dataclasses.dataclass(frozen=True)
class HiddenFormat:
    """Hidden states `[n, D]`, in the dtypes of `DenseFormat`."""

    width: int
    dtype: str = "bfloat16"

    def __post_init__(self):
        _check_at_least_one(width=self.width)
        _check_dtype(self.dtype)

    @property
    def fields(self):
        return {"hidden": ((self.width,), _read_dtype(self.dtype))}

    def encode(self, hidden):
        return _encoded("hidden", hidden, self.dtype)

    def decode(self, content, n):
        return {"hidden": _decoded(content, self.dtype, (n, self.width))}


@dataclasses.dataclass(frozen=True)
class TopKFormat:
    """K classes in their own order, their log-probabilities on a grid, and the mass of the rest.

    Attributes:
        classes: V.
        k: K.
        temperature: of the signals, which remember it.
        step: of the grid in nats: the error is at most step / 2 and step / 4 in the mean. The log of
            the tail is kept in float16. None keeps both exactly, in float32.
    """

    classes: int
    k: int
    temperature: float = 1.0
    step: float | None = 1 / 32

    def __post_init__(self):
        _check_at_least_one(classes=self.classes, k=self.k)
        if self.step is not None and not 0 < self.step <= 1:
            raise ValueError(f"step must be above 0 and at most 1, or None, got {self.step}")

    @property
    def fields(self):
        slots = (self.k,)
        return {
            "log_probs": (slots, np.dtype("float32")),
            "classes": (slots, np.dtype("int32")),
            "log_tail": ((), np.dtype("float32")),
        }

    def encode(self, log_probs, classes, log_tail):
        if not (log_probs < 1e-3).all() or not (log_tail < 1e-3).all():
            raise ValueError(
                "log_probs and log_tail must be logs of probabilities, got one above 0"
            )
        used = log_probs > -np.inf
        _check_classes(classes[used], self.classes)
        order = np.argsort(np.where(used, classes, self.classes), axis=1, kind="stable")
        used, sorted_classes, log_probs = (
            np.take_along_axis(x, order, axis=1) for x in (used, classes, log_probs)
        )
        gaps = np.diff(sorted_classes.astype(np.int64), axis=1, prepend=-1)[used] - 1
        if (gaps < 0).any():
            raise ValueError("classes must be distinct among the used slots of a token")
        parts = [pack_integers(self.k - used.sum(axis=1)), pack_integers(gaps)]
        if self.step is None:
            parts += [_bytes(log_tail, np.float32), _bytes(log_probs[used], np.float32)]
            return b"".join(parts)
        if (log_probs[used] < -_LOWEST).any():
            raise ValueError(f"log_probs must be above {-_LOWEST}: mark unused slots by -inf")
        levels = np.rint(np.where(used, -np.minimum(log_probs, 0), 0) / self.step)
        levels = np.where(used, levels, 0).astype(np.int64)
        lowest = levels.max(axis=1)
        parts += [_bytes(log_tail, np.float16), pack_integers(lowest)]
        return b"".join([*parts, pack_integers((lowest[:, None] - levels)[used])])

    def decode(self, content, n):
        unused, at = unpack_integers(content, n)
        used = np.arange(self.k) < self.k - unused[:, None]
        gaps, at = unpack_integers(content, used.sum(), at)
        classes = np.zeros(used.shape, np.int64)
        classes[used] = gaps + 1
        classes = np.where(used, np.cumsum(classes, axis=1) - 1, 0).astype(np.int32)
        log_probs = np.full(used.shape, -np.inf, np.float32)
        kind = np.float32 if self.step is None else np.float16
        tail_end = at + n * np.dtype(kind).itemsize
        log_tail = _read(content[at:tail_end], kind, (n,)).astype(np.float32)
        if self.step is None:
            log_probs[used] = _read(content[tail_end:], np.float32, (-1,))
        else:
            lowest, at = unpack_integers(content, n, tail_end)
            above, _ = unpack_integers(content, used.sum(), at)
            levels = np.broadcast_to(lowest[:, None], used.shape)[used] - above
            log_probs[used] = levels * np.float32(-self.step)
        return {"log_probs": log_probs, "classes": classes, "log_tail": log_tail}


@dataclasses.dataclass(frozen=True)
class SampledFormat:
    """N drawn classes in their own order, their weights and the entropy: nothing is rounded.

    Only weights that all are 1/N but for 1e-5 of it, those of exponent 1, become 1/N and cost
    nothing; others are float32.
    """

    classes: int
    draws: int
    temperature: float = 1.0

    def __post_init__(self):
        _check_at_least_one(classes=self.classes, draws=self.draws)

    @property
    def fields(self):
        slots = (self.draws,)
        return {
            "classes": (slots, np.dtype("int32")),
            "weights": (slots, np.dtype("float32")),
            "entropy": ((), np.dtype("float32")),
        }

    def encode(self, classes, weights, entropy):
        if not (np.isfinite(weights).all() and np.isfinite(entropy).all()):
            raise ValueError("weights and entropy must be finite")
        _check_classes(classes, self.classes)
        order = np.argsort(classes, axis=1, kind="stable")
        classes, weights = (np.take_along_axis(x, order, axis=1) for x in (classes, weights))
        gaps = np.diff(classes.astype(np.int64), axis=1, prepend=-1)
        new = gaps > 0
        parts = [_bytes(entropy, np.float32), np.packbits(new).tobytes()]
        parts.append(pack_integers(gaps[new] - 1))
        if not np.allclose(weights, 1 / self.draws, rtol=1e-5, atol=0):
            parts.append(_bytes(weights, np.float32))
        return b"".join(parts)

    def decode(self, content, n):
        size = n * self.draws
        flags_end = 4 * n + -(-size // 8)
        new = np.unpackbits(np.frombuffer(content[4 * n : flags_end], np.uint8), count=size)
        new = new.astype(bool).reshape(n, self.draws)
        gaps = np.zeros(new.shape, np.int64)
        found, at = unpack_integers(content, new.sum(), flags_end)
        gaps[new] = found + 1
        weights = np.full(new.shape, np.float32(1 / self.draws))
        if at < len(content):
            weights = _read(content[at:], np.float32, new.shape)
        return {
            "classes": (np.cumsum(gaps, axis=1) - 1).astype(np.int32),
            "weights": weights,
            "entropy": _read(content[: 4 * n], np.float32, (n,)),
        }


_DTYPES = ("float32", "bfloat16", "float16", "int8")
# In nats. A class below is no target, and the grid would spend its bits on it.
_LOWEST = 1000


def pack_integers(values):
    """Rice codes of integers of at least zero, as bytes that `unpack_integers` reads back."""
    values = np.ravel(values).astype(np.int64)
    widths = range(int(values.max(initial=0)).bit_length() + 1)
    costs = [width * len(values) + int((values >> width).sum()) for width in widths]
    low_bits = int(np.argmin(costs))
    low = (values[:, None] >> np.arange(low_bits)) & 1
    ends = np.cumsum((values >> low_bits) + 1)
    unary = np.zeros(ends[-1] if len(ends) else 0, np.uint8)
    unary[ends - 1] = 1
    packed = np.packbits(unary).tobytes()
    return struct.pack("<BI", low_bits, len(packed)) + np.packbits(low).tobytes() + packed


def unpack_integers(content, count, start=0):
    """`int64[count]` from the bytes at `start`, and where they end."""
    low_bits, size = struct.unpack_from("<BI", content, start)
    start += struct.calcsize("<BI")
    middle = start + -(-count * low_bits // 8)
    low = np.frombuffer(content, np.uint8, middle - start, start)
    low = np.unpackbits(low, count=count * low_bits).reshape(count, low_bits)
    unary = np.unpackbits(np.frombuffer(content, np.uint8, size, middle))
    high = np.diff(np.flatnonzero(unary), prepend=-1) - 1
    # A sum of few columns: an integer matrix product would not be faster.
    values = high << low_bits
    for bit in range(low_bits):
        values += low[:, bit].astype(np.int64) << bit
    return values, middle + size


def _encoded(name, values, dtype):
    if dtype == "int8":
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite for int8")
        scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        codes = np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8)
        return scale.tobytes() + codes.tobytes()
    with np.errstate(over="ignore"):
        narrow = values.astype(jnp.dtype(dtype))
    if np.isnan(narrow).any():
        raise ValueError(f"{name} must not be nan")
    if (np.isinf(narrow) & np.isfinite(values)).any():
        raise ValueError(f"{name} must fit in {dtype}, got up to {np.abs(values).max()}")
    return narrow.tobytes()


def _decoded(content, dtype, shape):
    if dtype != "int8":
        return _read(content, dtype, shape)
    scale = _read(content[: 4 * shape[0]], np.float32, (shape[0], 1))
    return scale * _read(content[4 * shape[0] :], np.int8, shape)


def _read_dtype(dtype):
    return jnp.dtype("float32" if dtype == "int8" else dtype)


def _bytes(values, dtype):
    return np.ascontiguousarray(values, dtype).tobytes()


def _read(content, dtype, shape):
    return np.frombuffer(content, jnp.dtype(dtype)).reshape(shape)


def _check_classes(classes, number):
    if classes.size and (classes.min() < 0 or classes.max() >= number):
        raise ValueError(
            f"classes must be from 0 to {number - 1}, got {classes.min()} to {classes.max()}"
        )


def _check_at_least_one(**numbers):
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _check_dtype(dtype):
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
