"""Eight CPU devices, programs that are not optimised and no silent rank promotion, for every test.

Compilation is most of what the suite costs; unoptimised it takes half as long, and what one worker or
an earlier run has compiled is not compiled again.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the long matrices too")
    parser.addoption("--data", default=None, help="a folder of raw data sets, see README.md")


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("full") and not config.getoption("--full"):
            item.add_marker(pytest.mark.skip(reason="a long matrix: run with --full"))
        if item.get_closest_marker("data") and config.getoption("--data") is None:
            item.add_marker(pytest.mark.skip(reason="needs raw data sets: run with --data DIR"))
