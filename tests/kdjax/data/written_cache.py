"""A small cache and the process that writes it: `written_cache.py FOLDER PART PARTS THREADS CALLS`.

After CALLS batches the process kills itself, in the middle of a shard; 0 for never.
"""

import os
import signal
import sys
import threading

import numpy as np

from kdjax.data import signal_cache
from kdjax.signals import signal as signals

EXAMPLES, SEEDS, LENGTH, CLASSES, K = np.arange(40)[::-1] * 3, (7, 0), 6, 50, 4
BINDING = signal_cache.Binding(teacher="aaa", tokenizer="bbb", data="ccc")
FORMAT = signal_cache.TopKFormat(CLASSES, K, step=None)
SHARDS = 16  # 80 records, five in each


def expected(example, seed):
    """(signal, where) of one key: a pure function of it. The mask has holes, and may be empty."""
    rng = np.random.default_rng([example, seed])
    p = rng.dirichlet(np.full(CLASSES, 0.2), LENGTH).astype(np.float32) + np.float32(1e-9)
    classes = np.sort(rng.permuted(np.tile(np.arange(CLASSES), (LENGTH, 1)), axis=1)[:, :K])
    chosen = np.take_along_axis(p, classes, axis=1)
    tail = np.log(np.maximum(1 - chosen.sum(1), 1e-9)).astype(np.float32)
    signal = signals.TopK(np.log(chosen), classes.astype(np.int32), tail)
    return signal, rng.random(LENGTH) < rng.choice([0.0, 0.5, 1.0])


def signal_of(examples, seeds):
    each = [expected(e, s) for e, s in zip(examples, seeds, strict=True)]
    parts = [(s.log_probs, s.classes, s.log_tail) for s, _ in each]
    return signals.TopK(*map(np.stack, zip(*parts, strict=True))), np.stack([w for _, w in each])


def write(folder, signal_of=signal_of, **changes):
    given = {"binding": BINDING, "seeds": SEEDS, "length": LENGTH, "batch_size": 2, "shard_size": 5}
    return signal_cache.write(folder, signal_of, EXAMPLES, FORMAT, **{**given, **changes})


def main(folder, part, parts, threads, calls):
    lock, counted = threading.Lock(), 0

    def killed_later(examples, seeds):
        nonlocal counted
        with lock:
            counted += 1
            if counted == calls:
                os.kill(os.getpid(), signal.SIGKILL)
        return signal_of(examples, seeds)

    print(write(folder, killed_later, part=(part, parts), threads=threads))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
