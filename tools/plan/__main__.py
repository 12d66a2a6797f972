"""Compiles a config's real training step for chips that are not attached, and says what it takes.

    python -m tools.plan --config=configs/lm.py:llama3_8b_to_1b --topology=v5e:16x16

Prints per chip: arguments, temporaries, output, peak and whether it fits; FLOPs counted on the jaxpr,
bytes, the roofline time, and collectives by kind and size. `--search` compares mesh shapes. Exit 0
fits, 1 does not, 2 refused. A TPU topology needs the extra `tpu`; `--topology=cpu:8` does not.
"""

import json
import sys
from pathlib import Path

from absl import app, flags

from experiments import setup
from tools.plan import chips, compile

TOPOLOGY = flags.DEFINE_string("topology", None, f"chips and their shape: {chips.known()}")
MESH = flags.DEFINE_string("mesh", "", "a mesh instead of config.place.mesh, data=4,fsdp=64 say")
MEMORY = flags.DEFINE_float("memory", None, "GiB of a chip that may be used, instead of all it has")
SEARCH = flags.DEFINE_bool("search", False, "plan every mesh shape (data, fsdp, tensor)")
JSON = flags.DEFINE_string("json", "", "write the plans to this file")
SHOWN = 12  # kinds and sizes of collectives in the printed plan; the JSON has them all


def main(argv):
    del argv
    memory = None if MEMORY.value is None else MEMORY.value * chips.GIB
    try:
        chip, devices = chips.devices(TOPOLOGY.value)
        if SEARCH.value:
            plans = search(setup.CONFIG.value, devices, chip, memory)
        else:
            plans = [compile.plan(setup.CONFIG.value, devices, chip, MESH.value, memory)]
            print(describe(TOPOLOGY.value, plans[0]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(plans, indent=1) + "\n")
    sys.exit(0 if any(plan.get("fits") for plan in plans) else 1)


def search(config, devices, chip, memory):
    """The plans of all mesh shapes, those that fit first; one line each as it is known."""
    print(f"{'mesh':32} {'fits':5} {'peak':>10} {'roofline':>10} {'collectives':>12}", flush=True)
    plans = []
    for mesh in compile.meshes(len(devices)):
        try:
            found = compile.plan(config, devices, chip, mesh, memory)
        except ValueError as error:
            found = {"mesh": mesh, "refused": str(error).splitlines()[0]}
        plans.append(found)
        print(search_line(found), flush=True)
    return sorted(plans, key=lambda p: (not p.get("fits"), p.get("roofline_seconds") or 0))


def search_line(plan):
    """A row of the search: the mesh and its plan, or why there is none."""
    if "refused" in plan:
        return f"{plan['mesh']:32} refused: {plan['refused']}"
    moved = sum(row["times"] * row["bytes"] for row in plan.get("collectives", ()))
    return (
        f"{plan['mesh']:32} {'yes' if plan['fits'] else 'no':5} {size(plan['peak']):>10} "
        f"{seconds(plan['roofline_seconds']):>10} {size(moved) if plan['fits'] else '-':>12}"
    )


def describe(topology, plan):
    """A plan as lines for the terminal."""
    lines = [
        f"{topology}, {plan['chips']} chips, mesh {plan['mesh']}, batch {plan['batch']}; one chip:"
    ]
    for name in ("arguments", "temporaries", "output", "aliased", "peak", "memory"):
        if plan.get(name) is not None:
            lines.append(f"  {name:12} {size(plan[name])}")
    lines.append(f"  {'fits':12} {'yes' if plan['fits'] else 'NO'}")
    lines.append(f"  {'FLOPs':12} {plan['flops']:.4g}")
    if "bytes" in plan:
        lines.append(f"  {'bytes':12} {plan['bytes']:.4g}")
    lines.append(
        f"  {'roofline':12} {seconds(plan['roofline_seconds'])} a step (products "
        f"{seconds(plan['compute_seconds'])}, memory {seconds(plan['memory_seconds'])}; collectives "
        "not counted)"
    )
    rows = plan.get("collectives", [])
    if "bytes" in plan:
        lines.append("  collectives" + ("" if rows else "  none"))
    for row in rows[:SHOWN]:
        lines.append(f"    {row['kind']:20} {row['times']:6} x {size(row['bytes'])}")
    rest = rows[SHOWN:]
    if rest:
        moved = sum(row["times"] * row["bytes"] for row in rest)
        lines.append(f"    and {len(rest)} smaller kinds and sizes, {size(moved)} together")
    if plan.get("unknown_loops"):
        lines.append(f"  {plan['unknown_loops']} loops of unknown length count once in both")
    return "\n".join(lines)


def size(count):
    """Bytes in the largest unit that leaves a digit before the point."""
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if count >= 1024**power:
            return f"{count / 1024**power:.2f} {unit}"
    return f"{count:.0f} B"


def seconds(value):
    if value is None:
        return "-"
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main, flags_parser=setup.parse_flags)
