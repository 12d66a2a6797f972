import concurrent.futures

import numpy as np
import pytest

from kdjax.data import _random

ADDRESSES = [(0, 1, 0, 5), (3, 2, 7, 100), (2**32 - 1, 5, 2**40, 33), (1, 1, 1, 1)]


def fresh(seed, stream, counter, count):
    """What Philox itself gives at the address, as float64 in [0, 1)."""
    raw = np.random.Philox(key=[seed, stream], counter=[0, 0, 0, counter]).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53


def test_numbers_are_those_of_their_address_whatever_was_drawn_before():
    for seed, stream, counter, count in (*ADDRESSES, *ADDRESSES[::-1]):
        found = _random.uniforms(count, seed=seed, stream=stream, counter=counter)
        np.testing.assert_array_equal(found, fresh(seed, stream, counter, count))


def test_threads_do_not_disturb_each_other():
    def order(seed):
        return [
            _random.permutation(50, seed=seed, stream=1, counter=n).tolist() for n in range(200)
        ]

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert list(threads.map(order, range(8))) == [order(seed) for seed in range(8)]


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_that_is_no_address_is_refused(seed):
    with pytest.raises((TypeError, ValueError), match="seed"):
        _random.uniforms(1, seed=seed, stream=1)
