"""Random numbers by address: the same (seed, stream, counter) always gives the same numbers.

Built on the raw output of Philox, which numpy keeps stable across its versions, as it does not for
the methods of `Generator`: an order that a run was trained in can be made again later.
"""

import operator
import threading

import numpy as np

# One number per use, so that two uses of one seed share nothing.
ORDER, CLASSES, EPISODES, SPLIT, LABELLED = range(1, 6)

_kept = threading.local()


def uniforms(count, *, seed, stream, counter=0):
    """`count` float64 in [0, 1)."""
    return (_raw(count, seed, stream, counter) >> np.uint64(11)) * 2.0**-53


def permutation(size, *, seed, stream, counter=0):
    """int64[size], a random order of 0 .. size - 1."""
    return np.argsort(_raw(size, seed, stream, counter), kind="stable")


def check_seed(seed):
    """The seed as an int; what is not an integer in [0, 2³²) is refused."""
    try:
        seed = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, got {seed!r}") from None
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and below 2**32, got {seed}")
    return seed


def _raw(count, seed, stream, counter):
    # A new generator asks the system for entropy that it then does not use, several times as long as
    # all the rest; the counter goes to the highest word, since Philox itself counts in the lowest.
    philox = getattr(_kept, "philox", None)
    if philox is None:
        philox = _kept.philox = np.random.Philox(key=0)
    philox.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array([0, 0, 0, counter], np.uint64),
            "key": np.array([check_seed(seed), stream], np.uint64),
        },
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return philox.random_raw(count)
