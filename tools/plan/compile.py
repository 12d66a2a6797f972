"""One plan: a job compiled for a mesh, and what that says about a chip."""

import math
import re
from typing import Any

import jax

from experiments import setup
from kdjax.metrics.cost import count_flops
from kdjax.train import make_mesh, replicated
from tools.plan import job as jobs
from tools.plan.chips import CHIPS
from tools.plan.hlo import Program


def plan(config, devices, chip: str, mesh_spec: str = "", memory: float | None = None):
    """The plan of a config's step as a dict that JSON can hold; sizes in bytes, of one chip.

    Args:
        config: a recipe with shapes, see `tools.plan.job`.
        devices: those of a topology.
        chip: its name in `CHIPS`.
        mesh_spec: instead of `config.place.mesh`.
        memory: bytes of a chip, instead of its own.

    Raises:
        ConfigError, ValueError: what cannot be placed on this mesh.
    """
    with setup.reading("place.mesh"):
        mesh = make_mesh(mesh_spec or config.place.mesh, devices)
    memory = CHIPS[chip].memory if memory is None else memory
    job = jobs.build(config, mesh)
    arguments = (job.state, job.frozen, job.batch)
    keep = jax.tree.map(lambda x: x.sharding, job.state)
    step = jax.jit(job.step, donate_argnums=0, out_shardings=(keep, replicated(mesh)))
    result: dict[str, Any] = {
        "chip": chip,
        "chips": len(devices),
        "mesh": ",".join(f"{name}={size}" for name, size in mesh.shape.items()),
        "batch": config.run.batch,
        "memory": memory,
        "flops": count_flops(step, *arguments) / len(devices),
    }
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted = out_of_memory(str(error))
        if wanted is None:
            raise
        return {**result, "fits": False, "peak": wanted, **roofline(chip, result["flops"], None)}
    sizes: Any = compiled.memory_analysis()
    peak = (
        sizes.argument_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
    )
    program = Program(compiled.as_text() or "")
    moved, collectives = program.bytes_moved(), program.collectives()
    return {
        **result,
        "arguments": sizes.argument_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "output": sizes.output_size_in_bytes,
        "aliased": sizes.alias_size_in_bytes,
        "peak": peak,
        "fits": memory is None or peak <= memory,
        "bytes": moved,
        **roofline(chip, result["flops"], moved),
        "collectives": [row._asdict() for row in collectives],
        "unknown_loops": len(program.unknown_loops),
    }


def out_of_memory(message: str) -> float | None:
    """The bytes that a program wanted, from the compiler's refusal; None if it refused for another.

    >>> out_of_memory("RESOURCE_EXHAUSTED: ... Used 17.50G of 15.75G hbm. Exceeded ...") / 2**30
    17.5
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    if found is None:
        return math.nan
    return float(found[1]) * 1024 ** " KMGT".index(found[2] or " ")


def roofline(chip, flops, moved):
    """Seconds that the products, and the bytes, take at the chip's peaks; None where unknown."""
    peaks = CHIPS[chip]
    compute = None if peaks.flops is None else flops / peaks.flops
    memory = None if peaks.bandwidth is None or moved is None else moved / peaks.bandwidth
    times = [seconds for seconds in (compute, memory) if seconds is not None]
    return {
        "compute_seconds": compute,
        "memory_seconds": memory,
        "roofline_seconds": max(times, default=None),
    }


def meshes(chips: int):
    """Every (data, fsdp, tensor) whose product is the number of chips, as mesh strings."""
    for data in range(1, chips + 1):
        for fsdp in range(1, chips // data + 1):
            if chips % (data * fsdp) == 0:
                yield f"data={data},fsdp={fsdp},tensor={chips // (data * fsdp)}"
