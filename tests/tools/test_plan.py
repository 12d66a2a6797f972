"""The planner over CPU devices: the same path as for a TPU, numbers against counts by hand."""

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from experiments import setup
from kdjax.metrics.cost import count_flops
from kdjax.train import make_mesh
from tools.plan import __main__ as command
from tools.plan import chips, compile, hlo, job

ROOT = Path(__file__).parents[2]
BATCH, PIXELS, CLASSES, WIDE, NARROW = 16, 12, 4, 24, 8
RECIPES = {"lm": "llama3_8b_to_1b", "vision": "vit_h_to_s"}


def perceptrons(**place):
    """A config of two small perceptrons with plain SGD."""
    network = {"name": "multilayer_perceptron"}
    optimiser = {
        "name": "sgd", "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0, "drops": (),
        "clip": 0.0, "coupled_decay": 0.0, "options": {},
    }  # fmt: skip
    shapes = {"labelled": {"image": ((PIXELS,), "float32"), "label": ((), "int32")}}
    return ConfigDict(
        {
            "run": {
                "steps": 5, "batch": BATCH, "classes": CLASSES,
                "inputs": "labelled/image", "shapes": shapes,
                "teacher": {"network": {**network, "widths": (WIDE,)}},
                "student": {"network": {**network, "widths": (NARROW,)}, "optimiser": optimiser},
                "method": {"method": "kd"},
            },
            "place": {"mesh": "data=-1", "how": "pjit", "sharding": {}, "activations": {}, **place},
        }
    )  # fmt: skip


def load(file, argument):
    return importlib.import_module(f"configs.{file}").get_config(argument)


def test_a_step_of_perceptrons_by_hand():
    one = compile.plan(perceptrons(), jax.devices()[:1], "cpu")
    eight = compile.plan(perceptrons(), jax.devices(), "cpu")
    teacher = 2 * BATCH * WIDE * (PIXELS + CLASSES)
    # Forward; back to both kernels and to the hidden layer, not to the images.
    student = 2 * BATCH * NARROW * (2 * PIXELS + 3 * CLASSES)
    assert one["flops"] == 8 * eight["flops"] == teacher + student
    weights = {n: 4 * (n * PIXELS + n + n * CLASSES + CLASSES) for n in (WIDE, NARROW)}
    images = 4 * BATCH * (PIXELS + 1)
    numbers = 64  # step, key, hyperparameters, the learning rate: a few bytes each
    assert abs(one["arguments"] - sum(weights.values()) - images) <= numbers
    assert abs(eight["arguments"] - sum(weights.values()) - images / 8) <= numbers
    assert one["peak"] == one["arguments"] + one["temporaries"] + one["output"] - one["aliased"]
    assert one["output"] >= one["aliased"] >= weights[NARROW] and one["temporaries"] > 0
    assert one["collectives"] == [] and one["fits"] and one["roofline_seconds"] is None
    # The student's gradient is summed over devices, once and in one piece or by leaf.
    moved = [row for row in eight["collectives"] if row["kind"] == "all-reduce"]
    assert moved == eight["collectives"]
    assert weights[NARROW] <= sum(r["times"] * r["bytes"] for r in moved) <= weights[NARROW] + 64


def test_sharded_parameters_are_gathered_and_take_less():
    rules = {"teacher": (("dense1/kernel", ("fsdp", None)),)}
    whole = compile.plan(perceptrons(mesh="fsdp=-1"), jax.devices()[:4], "cpu")
    split = compile.plan(perceptrons(mesh="fsdp=-1", sharding=rules), jax.devices()[:4], "cpu")
    kernel = 4 * PIXELS * WIDE
    assert whole["arguments"] - split["arguments"] == kernel * 3 // 4
    kinds = {row["kind"] for row in split["collectives"]}
    assert kinds - {row["kind"] for row in whole["collectives"]}, kinds


def test_what_does_not_fit():
    small = compile.plan(perceptrons(), jax.devices()[:1], "cpu", memory=1000.0)
    assert not small["fits"] and small["peak"] > 1000
    assert "fits         NO" in command.describe("cpu:1", small)
    refusal = "RESOURCE_EXHAUSTED: XLA:TPU ran out of memory. Used 20.50G of 15.75G hbm. Exceeded"
    assert compile.out_of_memory(refusal) == 20.5 * 2**30
    assert math.isnan(compile.out_of_memory("RESOURCE_EXHAUSTED: something"))
    assert compile.out_of_memory("INTERNAL: no") is None
    unknown = {"memory": 16 * 2.0**30, "fits": False, "peak": 20.5 * 2**30, "flops": 197e12}
    unknown |= compile.roofline("v5e", 197e12, None) | {"chips": 8, "mesh": "data=8", "batch": 8}
    text = command.describe("v5e:2x4", unknown)
    assert "peak         20.50 GiB" in text and "products 1 s" in text and "bytes" not in text


def test_the_roofline_is_the_slower_of_products_and_memory():
    times = compile.roofline("v5e", 197e12, 2 * 819e9)
    assert times == {"compute_seconds": 1.0, "memory_seconds": 2.0, "roofline_seconds": 2.0}
    assert compile.roofline("v5e", 4 * 197e12, 819e9)["roofline_seconds"] == 4.0


def test_a_scanned_layer_counts_as_often_as_it_runs():
    config = load("lm", f"{RECIPES['lm']},tiny")
    mesh = make_mesh(config.place.mesh)

    def flops(depth):
        config.run.teacher.network.depth = depth
        planned = job.build(config, mesh)
        return count_flops(planned.step, planned.state, planned.frozen, planned.batch)

    batch, length, block, width, hidden, heads, key_heads = 8, 16, 8, 16, 32, 4, 2
    kernels = width * 4 * (2 * heads + 2 * key_heads) + 3 * width * hidden
    pairs = 3 * block * block  # of 2 x 2 blocks, the one above the diagonal is left out
    layer = 2 * batch * (length * kernels + 2 * pairs * heads * 4)
    assert flops(5) - flops(2) == 3 * layer


@pytest.mark.full
@pytest.mark.parametrize("file", RECIPES)
def test_recipes_plan_at_small_sizes(file):
    config = load(file, f"{RECIPES[file]},tiny")
    planned = compile.plan(config, jax.devices(), "cpu")
    assert planned["fits"] and planned["flops"] > 0 and planned["bytes"] > planned["arguments"]
    assert planned["collectives"]
    text = importlib.import_module(f"configs.{file}").__doc__
    assert f"python -m tools.plan --config=configs/{file}.py:{RECIPES[file]}" in text
    with pytest.raises(ValueError, match="nothing"):
        load(file, "nothing")


def test_loops_multiply_collectives_and_bytes():
    mesh = make_mesh("data=4", jax.devices()[:4])

    def body(x, w):
        x = jax.lax.psum(jnp.tanh(x @ w), "data") / 4
        return x, None

    def loop(x, weights):
        return jax.lax.scan(body, x, weights)[0]

    spec = PartitionSpec("data")
    mapped = jax.shard_map(
        loop, mesh=mesh, in_specs=(spec, PartitionSpec()), out_specs=spec, check_vma=False
    )
    trips, rows, width = 6, 4, 32
    x = jax.ShapeDtypeStruct((4 * rows, width), jnp.float32)
    weights = jax.ShapeDtypeStruct((trips, width, width), jnp.float32)
    program = hlo.Program(jax.jit(mapped).lower(x, weights).compile().as_text())
    assert program.collectives() == [hlo.Collective("all-reduce", trips, 4 * rows * width)]
    # A step reads its own kernel, not the stack of them, and a few arrays of the size of x.
    kernels = trips * 4 * width * width
    assert kernels <= program.bytes_moved() <= 3 * kernels + trips * 20 * 4 * rows * width


TEXT = """HloModule m, is_scheduled=true
%sum (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[]{:T(256)} parameter(0)
  ROOT %s = bf16[]{:T(256)} add(%a, %a)
}
%write (p: f32[9,8], q: f32[8]) -> f32[9,8] {
  %p = f32[9,8]{1,0:T(8,128)} parameter(0)
  %q = f32[8]{0:T(128)} parameter(1)
  %r = f32[1,8]{1,0} bitcast(%q)
  %zero = s32[] constant(0)
  ROOT %u = f32[9,8]{1,0:T(8,128)} dynamic-update-slice(%p, %r, %zero, %zero)
}
%beside (b: f32[8]) -> f32[8] {
  %b = f32[8]{0:T(128)} parameter(0)
  %part = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%b), channel_id=3, dimensions={0}
  ROOT %m = f32[8]{0:T(128)S(1)} negate(%b)
}
%body (t: (f32[9,8], f32[8], s32[], s32[])) -> (f32[9,8], f32[8], s32[], s32[]) {
  %t = (f32[9,8]{1,0:T(8,128)}, /*index=1*/f32[8]{0:T(128)}, s32[], s32[]) parameter(0)
  %x = f32[9,8]{1,0:T(8,128)} get-tuple-element(%t), index=0
  %y = f32[8]{0:T(128)} get-tuple-element(%t), index=1
  %w = f32[9,8]{1,0:T(8,128)} fusion(%x, %y), kind=kLoop, calls=%write
  %near = f32[8]{0:T(128)S(1)} fusion(%y), kind=kLoop, calls=%beside
  %k = s32[]{:T(128)} get-tuple-element(%t), index=2
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)S(1)} add(%k, %two)
  %n = s32[]{:T(128)} get-tuple-element(%t), index=3
  ROOT %o = (f32[9,8]{1,0:T(8,128)}, f32[8]{0:T(128)S(1)}, s32[], s32[]) tuple(%w, %near, %next, %n)
}
%cond (t: (f32[9,8], f32[8], s32[], s32[])) -> pred[] {
  %t = (f32[9,8]{1,0:T(8,128)}, f32[8]{0:T(128)}, s32[], s32[]) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%t), index=2
  %n = s32[]{:T(128)} get-tuple-element(%t), index=3
  ROOT %yes = pred[] compare(%k, %n), direction=LT
}
ENTRY %main (g: bf16[4,8], h: f32[9,8], i: f32[8]) -> bf16[16,8] {
  %g = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %h = f32[9,8]{1,0:T(8,128)} parameter(1)
  %i = f32[8]{0:T(128)} parameter(2)
  %first = s32[]{:T(128)} constant(1)
  %last = s32[]{:T(128)} constant(14)
  %c = (f32[9,8]{1,0:T(8,128)}, f32[8]{0:T(128)}, s32[], s32[]) tuple(%h, %i, %first, %last)
  %l = (f32[9,8], f32[8], s32[], s32[]) while(%c), condition=%cond, body=%body
  %ag = (bf16[4,8]{1,0:T(8,128)(2,1)}, bf16[16,8]{1,0:T(8,128)(2,1)}) all-gather-start(%g), channel_id=3, dimensions={0}
  ROOT %done = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather-done(%ag)
}
"""


def test_the_text_of_a_tpu_program():
    program = hlo.Program(TEXT)
    assert program.collectives() == [hlo.Collective("all-gather", 1, 2 * 16 * 8)]
    # Each of seven trips, from 1 below 14 by 2: 8 floats read and written in place, 8 read and kept
    # on the core, the counter, its step and its bound read, a predicate written.
    gather = 2 * 4 * 8 + 2 * (4 * 8 + 16 * 8)
    assert program.bytes_moved() == 7 * (32 + 32 + 32 + 2 * 4 + 2 * 4 + 1) + gather
    assert not program.unknown_loops
    unknown = hlo.Program(TEXT.replace("constant(14)", "custom-call()"))
    assert unknown.bytes_moved() < program.bytes_moved() and unknown.unknown_loops == {"l"}


def test_search_compares_meshes_and_says_why_one_is_refused(capsys):
    rules = {"student": (("dense1/kernel", (None, "tensor")),)}
    config = perceptrons(sharding=rules)
    assert sorted(compile.meshes(4))[:2] == ["data=1,fsdp=1,tensor=4", "data=1,fsdp=2,tensor=2"]
    assert len(list(compile.meshes(256))) == 45
    config.run.batch = 3
    found = command.search(config, jax.devices()[:2], "cpu", None)
    assert [p["mesh"] for p in found if p.get("fits")] == ["data=1,fsdp=1,tensor=2"]
    out = capsys.readouterr().out
    assert out.count("refused: config.run.batch: 2 parts of the mesh do not divide 3") == 2
    assert "yes" in out and "KiB" in out


def test_bad_input_is_refused_with_what_there_is():
    for topology in ("v5e", "v9:2x2", "v5e:2xx4", "v5e:0x4"):
        with pytest.raises(chips.PlanError, match="v5e:.*2x4.*v5p:.*4x4x4.*cpu"):
            chips.devices(topology)
    with pytest.raises(chips.PlanError, match="only 8 CPU devices"):
        chips.devices("cpu:512")
    if importlib.util.find_spec("libtpu") is None:
        with pytest.raises(chips.PlanError, match="tpu.*environment of its own"):
            chips.devices("v5e:2x4")
    with pytest.raises(chips.PlanError, match="no shapes"):
        compile.plan(load("digits", "tiny"), jax.devices()[:1], "cpu")
    with pytest.raises(setup.ConfigError, match="place.sharding.*match no parameter"):
        compile.plan(perceptrons(sharding={"teacher": (("conv", ()),)}), jax.devices()[:1], "cpu")
    with pytest.raises(setup.ConfigError, match="place.mesh.*does not divide the 8"):
        compile.plan(perceptrons(), jax.devices(), "cpu", "data=3")
    with pytest.raises(setup.ConfigError, match="place.activations.*no axes \\['tensor'\\]"):
        compile.plan(perceptrons(activations={"heads": "tensor"}), jax.devices(), "cpu")


def test_the_command_writes_its_plan(tmp_path):
    path = tmp_path / "plan.json"
    arguments = ["--config=configs/vision.py:vit_h_to_s,tiny", "--topology=cpu:1", f"--json={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.plan", *arguments, "--memory=0.000001"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    (plan,) = json.loads(path.read_text())
    assert plan["chips"] == 1 and not plan["fits"] and plan["peak"] > plan["memory"]
    assert f"peak         {command.size(plan['peak'])}" in done.stdout
    assert np.isfinite(plan["flops"])
