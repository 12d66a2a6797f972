"""From a config to the step that would be trained, every array of it a shape with a sharding."""

import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments import setup, training
from kdjax import methods, networks
from kdjax.train import (
    batch_sharding,
    build_train_step,
    constrainer,
    per_shard,
    state_sharding,
)
from kdjax.train.placement import DATA_AXES
from tools.plan.chips import PlanError


class Job(NamedTuple):
    """`step(state, frozen, batch)` and its arguments as sharded shapes."""

    step: Any
    state: Any
    frozen: Any
    batch: Any


def build(config, mesh) -> Job:
    """The step of `config.run` as `place` would compile it over `mesh`.

    The config gives, beside networks, optimiser and method, `run.shapes` (`{stream: {name: (shape of
    one example, dtype)}}`), `run.inputs` (what the networks read: `STREAM` or `STREAM/NAME`),
    `place.sharding` (`{"teacher" | "student": sharding rules}`) and `place.activations` (mesh axes by the
    names that the networks give to the axes of their activations).

    Raises:
        ConfigError, ValueError: what the parts refuse; PlanError: a config without shapes.
    """
    run, place = config.run, config.place
    if "shapes" not in run:
        raise PlanError("config.run has no shapes: a step is planned from those of its batch")
    batch = _batch(run, mesh)
    inputs = _inputs(run)
    nets = build_networks(config, mesh, inputs)
    optimiser = setup.build_optimiser("run.student.optimiser", run.student.optimiser, run.steps)
    placement = setup.Placement(mesh, "pjit", {})
    stage = training.build_stage(
        "plan", build_method(config, mesh), nets, dict.fromkeys(nets, inputs),
        optimiser, {}, run.steps, 0, placement,
    )  # fmt: skip
    state = jax.eval_shape(lambda: stage.init({})[0])
    teacher = networks.variable_shapes(nets["teacher"], inputs)
    frozen = {"teacher": teacher["params"], "teacher/model": teacher["model"]}
    rules = {name: of_name for name, of_name in place.sharding.items() if of_name}
    with setup.reading("place.sharding"):
        sharding = state_sharding(mesh, state, frozen, rules)
    state, frozen = (_sharded(*pair) for pair in zip((state, frozen), sharding, strict=True))
    assert stage.method is not None  # only a fold without gradients has none
    step = build_train_step(
        stage.networks, stage.method.phases, stage.optimisers, averages=stage.method.averages
    )
    return Job(step, state, frozen, batch)


def build_networks(config, mesh, inputs):
    """Teacher and student, their activations placed as the config says."""
    with setup.reading("place.activations"):
        axes = {name: axis for name, axis in config.place.activations.items()}
        constrain = constrainer(mesh, axes)
    built = {}
    for player in ("teacher", "student"):
        options = dict(config.run[player].network)
        features = options.pop("features", ())
        if axes:
            options["constrain"] = constrain
        built[player] = setup.build_network(
            f"run.{player}.network", ConfigDict(options), config.run.classes, inputs, features
        )
    return built


def build_method(config, mesh):
    """The config's method, told how the batch is split if it asks."""
    options = dict(config.run.method)
    function = getattr(methods, options["method"], None)
    if function and "per_shard" in inspect.signature(function).parameters:
        options["per_shard"] = per_shard(mesh)
    return setup.build_method("run.method", ConfigDict(options))


def _batch(run, mesh):
    sharding = batch_sharding(mesh)
    parts = math.prod(mesh.shape[axis] for axis in DATA_AXES if axis in mesh.shape)
    if run.batch % parts:
        raise setup.ConfigError(
            f"config.run.batch: {parts} parts of the mesh do not divide {run.batch}"
        )
    return {
        stream: {
            name: jax.ShapeDtypeStruct((run.batch, *shape), jnp.dtype(dtype), sharding=sharding)
            for name, (shape, dtype) in columns.items()
        }
        for stream, columns in run.shapes.items()
    }


def _inputs(run):
    """What a network is created with: one example."""
    stream, *name = run.inputs.split("/")
    columns = {
        key: jax.ShapeDtypeStruct((1, *shape), jnp.dtype(dtype))
        for key, (shape, dtype) in run.shapes[stream].items()
        if key != "mask"
    }
    return columns[name[0]] if name else columns


def _sharded(tree, shardings):
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )
