"""Bytes per token and reconstruction error of the cache's formats; the cache beside a live teacher.

For a format, `ratio` is its bytes per token over those of a reference: for top-k the published format
at the same k (`polynomial`, below), for the others float32 logits. `error` is the mean absolute error
of the log-probabilities in nats, `worst` the largest, `kl` the mean of KL(original ‖ stored) over the
classes, or over K + 1 buckets; `encoded` and `decoded` are tokens per second in one thread. Logits are
drawn, 24 tokens four times: "normal" from N(0, 3²), "peaky" by a power law with a random exponent
for each token, which gives the best class about half of the mass.

For `cache/*`, `ratio` is the time over that of the teacher's last layer alone (a hidden state of 512
to the logits and their top-k), for the same batch.
"""

import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import signal_cache
from kdjax.signals import sample, top_k
from tools.bench import _timing

TOKENS, DRAWS, ROUNDS = 24, 4, 9
WIDTH = 1024
MEASURED = ("bytes", "error", "worst", "kl", "encoded", "decoded")


def normal(tokens, classes, seed):
    return 3 * np.random.default_rng(seed).standard_normal((tokens, classes))


def peaky(tokens, classes, seed):
    rng = np.random.default_rng(seed)
    ranks = rng.permuted(np.tile(np.arange(1, classes + 1), (tokens, 1)), axis=1)
    exponents = 1.5 * rng.uniform(0.8, 1.6, (tokens, 1))
    return 0.3 * rng.standard_normal((tokens, classes)) - exponents * np.log(ranks)


LOGITS = {"normal": normal, "peaky": peaky}


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def best_classes(logits, k):
    """(log_probs, classes, log_tail) of the k best, the best first."""
    log_p = log_softmax(logits.astype(np.float64))
    classes = np.argsort(-log_p, axis=-1)
    best = np.take_along_axis(log_p, classes, axis=-1)
    tail = np.log(np.exp(best[:, k:]).sum(axis=-1))
    return best[:, :k].astype(np.float32), classes[:, :k].astype(np.int32), tail.astype(np.float32)


def polynomial(log_probs, classes):
    """(bytes per token, mean absolute error) of the settings that DistillKit's README recommends.

    Classes in ⌈log2 V⌉ bits in the order of the values, the first values in bfloat16 and a float32
    least-squares fit to the rest, on [0, 1]: a restatement. The fit here is in float64, and the tail's
    mass, which the format has not, costs it nothing.
    """
    k = log_probs.shape[1]
    exact, powers = (16, [0, 1, 2, 3, 4, 0.5]) if k > 50 else (1, [0, 1, 0.5])
    size = np.ceil(k * np.ceil(np.log2(classes)) / 8) + 2 * exact + 4 * len(powers)
    basis = np.linspace(0, 1, k - exact)[:, None] ** np.array(powers)
    fitted = log_probs[:, exact:].astype(np.float64)
    coefficients = np.linalg.lstsq(basis, fitted.T, rcond=None)[0].astype(np.float32)
    rounded = log_probs[:, :exact].astype(jnp.bfloat16).astype(np.float64)
    errors = np.concatenate(
        [np.abs(rounded - log_probs[:, :exact]), np.abs((basis @ coefficients).T - fitted)], axis=1
    )
    return float(size), float(errors.mean())


def rows(only=""):
    """Rows whose name contains `only`."""
    cases = {}
    for kind in LOGITS:
        for classes in (128_256, 32_768):
            for k in (128, 50):
                name = f"top_k/{kind}/V={classes}/k={k}"
                cases[f"{name}/published"] = lambda a=(kind, classes, k): [_published(*a)]
                for step in (None, 1 / 32, 1 / 16, 1 / 8):
                    label = "exact" if step is None else f"1/{round(1 / step)}"
                    cases[f"{name}/{label}"] = lambda a=(kind, classes, k, step): [_top_k(*a)]
    for name, make in {"dense": _dense, f"hidden/D={WIDTH}": _hidden}.items():
        for dtype in ("float32", "bfloat16", "float16", "int8"):
            cases[f"{name}/{dtype}"] = lambda make=make, dtype=dtype: [make(dtype)]
    for exponent in (1.0, 0.7):
        cases[f"sampled/N=12/exponent={exponent}"] = lambda e=exponent: [_sampled(e)]
    cases["cache/"] = _cache
    columns = dict.fromkeys(("name", "ratio", "spread", *MEASURED))
    return [
        {**columns, **row, "name": name + row.get("name", "")}
        for name, make in cases.items()
        if only in name
        for row in make()
    ]


def _published(kind, classes, k):
    found = [
        polynomial(best_classes(LOGITS[kind](TOKENS, classes, seed), k)[0], classes)
        for seed in range(DRAWS)
    ]
    size, error = np.mean(found, axis=0)
    return {"ratio": 1.0, "spread": 0.0, "bytes": float(size), "error": float(error)}


def _top_k(kind, classes, k, step):
    format = signal_cache.TopKFormat(classes, k, step=step)
    drawn = [best_classes(LOGITS[kind](TOKENS, classes, seed), k) for seed in range(DRAWS)]
    fields = ("log_probs", "classes", "log_tail")

    def log_probs(x):
        order = np.argsort(x["classes"], axis=1)
        values = np.take_along_axis(x["log_probs"], order, axis=1)
        return values, np.concatenate([values, x["log_tail"][:, None]], axis=1)

    reference = polynomial(drawn[0][0], classes)[0]
    return _measured(
        format, [dict(zip(fields, x, strict=True)) for x in drawn], log_probs, reference
    )


def _dense(dtype):
    classes = 32_768
    drawn = [{"logits": normal(TOKENS, classes, s).astype(np.float32)} for s in range(DRAWS)]

    def log_probs(x):
        values = log_softmax(x["logits"].astype(np.float64))
        return values, values

    return _measured(signal_cache.DenseFormat(classes, dtype), drawn, log_probs, 4 * classes)


def _hidden(dtype):
    classes = 32_768
    rng = np.random.default_rng(0)
    head = (3 / np.sqrt(WIDTH)) * rng.standard_normal((WIDTH, classes), np.float32)
    drawn = [{"hidden": rng.standard_normal((TOKENS, WIDTH), np.float32)} for _ in range(DRAWS)]

    def log_probs(x):
        values = log_softmax((x["hidden"].astype(np.float32) @ head).astype(np.float64))
        return values, values

    return _measured(signal_cache.HiddenFormat(WIDTH, dtype), drawn, log_probs, 4 * classes)


def _sampled(exponent):
    classes, drawn = 128_256, []
    for seed in range(DRAWS):
        logits = jnp.asarray(normal(TOKENS, classes, seed), jnp.float32)
        signal = sample(jax.random.key(seed), logits, 12, exponent=exponent)
        fields = ("classes", "weights", "entropy")
        drawn.append({name: np.asarray(getattr(signal, name)) for name in fields})

    def log_weights(x):
        order = np.lexsort((x["weights"], x["classes"]), axis=1)
        return np.log(np.take_along_axis(x["weights"], order, axis=1)), None

    return _measured(signal_cache.SampledFormat(classes, 12), drawn, log_weights, 4 * classes)


def _measured(format, drawn, log_probs, reference):
    """A row; `log_probs(fields)` gives the compared values and the distributions of them, or None."""
    sizes, errors, worst, divergences, seconds = [], [], [], [], []
    for arrays in drawn:
        start = time.perf_counter()
        content = format.encode(**arrays)
        middle = time.perf_counter()
        back = format.decode(content, TOKENS)
        seconds.append((middle - start, time.perf_counter() - middle))
        sizes.append(len(content) / TOKENS)
        (values, p), (found, q) = log_probs(arrays), log_probs(back)
        errors.append(np.abs(values - found).mean())
        worst.append(np.abs(values - found).max())
        if p is not None:
            p, q = (log_softmax(x.astype(np.float64)) for x in (p, q))
            divergences.append((np.exp(p) * (p - q)).sum(axis=-1).mean())
    encoded, decoded = TOKENS / np.median(seconds, axis=0)
    return {
        **_timing.compared(np.array(sizes), np.full(len(sizes), reference)),
        "bytes": float(np.mean(sizes)),
        "error": float(np.mean(errors)),
        "worst": float(np.max(worst)),
        "kl": float(np.mean(divergences)) if divergences else None,
        "encoded": float(encoded),
        "decoded": float(decoded),
    }


def _cache():
    """A batch of 8 x 256 tokens at V = 32,768 and k = 50, written, and read at random."""
    classes, k, batch, length, width = 32_768, 50, 8, 256, 512
    rng = np.random.default_rng(0)
    head = jnp.asarray(rng.standard_normal((width, classes), np.float32) * 3 / np.sqrt(width))
    hidden = jnp.asarray(rng.standard_normal((32, length, width), np.float32))
    teacher = jax.jit(lambda index: top_k(hidden[index] @ head, k))
    binding = signal_cache.Binding(teacher="bench", tokenizer="bench", data="bench")
    format = signal_cache.TopKFormat(classes, k)
    ready = jax.tree.map(np.asarray, teacher(jnp.arange(batch)))

    def write(folder, examples):
        given = {"binding": binding, "length": length, "batch_size": batch}
        signal_cache.write(folder, lambda *_: (ready, None), examples, format, **given)

    def write_anew():
        with tempfile.TemporaryDirectory() as folder:
            write(folder, range(batch))

    with tempfile.TemporaryDirectory() as folder:
        write(folder, range(32))
        cache = signal_cache.SignalCache(folder, binding)
        order = np.random.default_rng(1).permutation(32)[:batch]
        runs = {
            "live": lambda: teacher(jnp.asarray(order)),
            "write": write_anew,
            "read": lambda: cache.read(order)[0].log_probs,
        }
        seconds = _timing.interleaved(runs, ROUNDS)
        stored = sum(path.stat().st_size for path in pathlib.Path(folder).glob("shard-*"))
    rate = {"write": "encoded", "read": "decoded"}
    return [
        {
            "name": name,
            **_timing.compared(seconds[name], seconds["live"]),
            "bytes": stored / (32 * length),
            rate[name]: float(batch * length / np.median(seconds[name])),
        }
        for name in rate
    ]
