"""The chips that a step can be planned for: their memory and peaks, and the devices of a topology.

Sources: the "TPU v5e", "TPU v5p", "TPU v4" and "TPU v6e" pages of the Cloud TPU documentation (peak
compute in bfloat16, HBM capacity and bandwidth of one chip).
"""

import contextlib
import dataclasses
import importlib.util
import math
import re

import jax
from jax.experimental import topologies

GIB = 2**30
INSTALL = (
    "compiling for a TPU needs libtpu: pip install -e '.[train,report,tpu]' in an environment of its "
    "own, and run this there with JAX_PLATFORMS=cpu; --topology=cpu:8 plans without it"
)


class PlanError(ValueError):
    """What cannot be planned, in one line."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peaks of one chip; None where there are none to hold a program against."""

    flops: float | None
    memory: float | None
    bandwidth: float | None
    shapes: tuple[str, ...]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
CHIPS = {
    "v4": Chip(275e12, 32 * GIB, 1228e9, _SOLID),
    "v5e": Chip(197e12, 16 * GIB, 819e9, _FLAT),
    "v5p": Chip(459e12, 95 * GIB, 2765e9, _SOLID),
    "v6e": Chip(918e12, 32 * GIB, 1640e9, _FLAT),
    "cpu": Chip(None, None, None, ("1", "2", "4", "8")),
}


def parse(topology: str) -> tuple[str, int]:
    """("v5e", 256) of "v5e:16x16"."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", topology)
    if found is None or found[1] not in CHIPS or "0" in found[2].split("x"):
        raise PlanError(f"there is no topology {topology!r}; there are {known()}")
    return found[1], math.prod(map(int, found[2].split("x")))


def known() -> str:
    """The topologies there are, as one line."""
    return "; ".join(f"{name}:{{{','.join(chip.shapes)}}}" for name, chip in CHIPS.items())


def devices(topology: str):
    """(the chip's name, the devices of a topology), attached or not.

    Call it before anything starts a backend: the CPU is given as many devices as are asked for.

    Raises:
        PlanError: an unknown topology; a TPU without libtpu.
    """
    name, count = parse(topology)
    if name == "cpu":
        with contextlib.suppress(RuntimeError):  # a backend has started: what it has must do
            jax.config.update("jax_num_cpu_devices", count)
        here = jax.devices("cpu")
        if len(here) < count:
            raise PlanError(f"{topology}: this process has only {len(here)} CPU devices")
        return name, here[:count]
    if importlib.util.find_spec("libtpu") is None:
        raise PlanError(INSTALL)
    jax.config.update("jax_platforms", "cpu")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as error:  # libtpu's refusals have no type of their own
        reason = str(error).splitlines()[0]
        if "lockfile" in reason:
            raise PlanError("libtpu is in use: it serves one process at a time") from error
        raise PlanError(f"no topology {topology!r} ({reason}); there are {known()}") from error
    return name, described.devices
