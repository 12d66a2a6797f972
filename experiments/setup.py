"""What every experiment shares: flags, config checks, config -> parts, the workdir, the report.

`ConfigDict` stops here: nothing below `experiments/` takes a config, reads a flag or an environment.
"""

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import re
import shlex
import signal
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from kdjax import methods, networks
from kdjax.report import files, html, tables
from kdjax.report.writers import MetricWriter, read_metrics
from kdjax.train import (
    Method,
    NonFiniteLossError,
    Stopped,
    batch_sharding,
    make_mesh,
    put,
)

CONFIG = config_flags.DEFINE_config_file("config", None, "the recipe: configs/FILE.py[:NAME,...]")
WORKDIR = flags.DEFINE_string("workdir", None, "where config, metrics, checkpoints and report go")
EXTEND = flags.DEFINE_bool("extend", False, "allow more steps than the workdir was started with")
PROFILE = flags.DEFINE_string("profile", "", "write a profile of the run to this folder")
COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache", "", "keep compiled programs in this folder, for the next start"
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    "",
    "HOST:PORT of the first of several processes; not needed under srun, mpirun or on TPU VMs",
)
PROCESSES = flags.DEFINE_integer("processes", None, "with --coordinator: how many there are")
PROCESS = flags.DEFINE_integer("process", None, "with --coordinator: which one this is, from 0")

# What a user can mend by changing the command; anything else is a fault and keeps its traceback.
_USER_ERRORS = (ValueError, TypeError, FileNotFoundError, KeyError)


class ConfigError(ValueError):
    """A config that cannot be run; the message names the key, what it holds and what was wanted."""


# --- The program ----------------------------------------------------------------------------------


def launch(main: Callable[[Any, Path], int | None]) -> None:
    """Runs `main(config, workdir)` as a program: exit 0 done or stopped, 1 not finite, 2 refused."""
    flags.mark_flags_as_required(["config", "workdir"])

    def run(argv):
        if len(argv) > 1:
            raise app.UsageError(f"unexpected arguments {argv[1:]}")
        logging.set_verbosity(logging.WARNING)
        if COMPILATION_CACHE.value:
            jax.config.update("jax_compilation_cache_dir", COMPILATION_CACHE.value)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        try:
            join_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        signal.signal(signal.SIGTERM, _remember_stop)
        tracing = jax.profiler.trace(PROFILE.value) if PROFILE.value else contextlib.nullcontext()
        try:
            with tracing:
                sys.exit(main(CONFIG.value, Path(WORKDIR.value)) or 0)
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on from here", file=sys.stderr)
            sys.exit(0)
        except NonFiniteLossError as error:
            print(f"error: {error}; the checkpoints before it are kept", file=sys.stderr)
            sys.exit(1)
        except ConfigError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    app.run(run, flags_parser=parse_flags)


def parse_flags(argv):
    """Flags; a misspelt config key is answered in one line, with the nearest there is."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        print(f"error: {str(error).strip(chr(34))}", file=sys.stderr)
        sys.exit(2)


_stop_asked = False


def _remember_stop(signum, frame):
    global _stop_asked
    _stop_asked = True


def stop_agreed() -> bool:
    """Whether any process was asked to stop: they stop after the same chunk, or they would wait."""
    if jax.process_count() == 1:
        return _stop_asked
    return bool(multihost_utils.process_allgather(np.asarray(_stop_asked)).any())


def stop_before(what: str) -> None:
    """Ends the run if a stop was asked for in the last chunk of what came before."""
    if stop_agreed():
        raise Stopped(f"stopped before {what}")


def join_processes(coordinator: str, count: int | None, number: int | None) -> None:
    """Makes this process one of several, where a flag or the environment says that there are several.

    Every process runs the same command on a workdir that all of them see; process 0 writes to it.

    Raises:
        ConfigError: flags that do not say where, how many and which.
    """
    given = {"processes": count, "process": number}
    if coordinator:
        if count is None or number is None:
            missing = [name for name, value in given.items() if value is None]
            raise ConfigError(f"--coordinator needs --{' and --'.join(missing)}")
        if not 0 <= number < count:
            raise ConfigError(f"--process={number} is not one of {count}, from 0")
        jax.distributed.initialize(coordinator, count, number)
    elif any(value is not None for value in given.values()):
        raise ConfigError("--processes and --process need --coordinator=HOST:PORT")
    elif _launched_as_several(os.environ) or _on_tpu_vm():
        jax.distributed.initialize()


def _launched_as_several(environment) -> bool:
    # What srun and mpirun set for the processes that they start, and only for those.
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return any(int(environment.get(name, "1")) > 1 for name in counts)


def _on_tpu_vm() -> bool:
    # One host of a pod does not know of the others from its environment: JAX asks the machine.
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev").glob("vfio/[0-9]*")]
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
    """Whether this is the process that writes and prints, process 0."""
    return jax.process_index() == 0


@contextlib.contextmanager
def first_process_first(what: str):
    """Process 0 goes through the block before the others: what it prepares, they find."""
    if not is_first():
        multihost_utils.sync_global_devices(what)
    try:
        yield
    finally:
        if is_first():
            multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def reading(key: str):
    """Turns what the library refuses into an error that names the config key it came from."""
    try:
        yield
    except ConfigError:
        raise
    except _USER_ERRORS as error:
        raise ConfigError(f"config.{key}: {error}") from error


# --- Config -> parts ------------------------------------------------------------------------------


def choose(key: str, name: str, choices: Mapping[str, Any]):
    """`choices[name]`; an unknown name is refused with the nearest one and all there are."""
    if name in choices:
        return choices[name]
    near = difflib.get_close_matches(str(name), choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"config.{key} is {name!r}{hint} There are: {', '.join(sorted(choices))}")


def public(module):
    """{name: function} of what a module offers to configs."""
    kinds = (types.FunctionType, functools.partial)
    return {name: f for name, f in vars(module).items() if isinstance(f, kinds)}


def call_with(key: str, function, options: Mapping[str, Any], *arguments):
    """`function(*arguments, **options)`; an option that it does not have is refused by name."""
    known = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for option in options:
            choose(f"{key}.{option}", option, {name: None for name in known})
    with reading(key):
        return function(*arguments, **options)


def build_network(key: str, config, classes: int, inputs, features=()) -> networks.Network:
    """The network `config.name` of `kdjax.networks` with its options, giving `features`.

    It is traced once on the shapes `inputs`, so that a feature it does not have is refused here.
    """
    options = {name: value for name, value in config.items() if name != "name"}
    function = choose(f"{key}.name", config.name, public(networks))
    options["features"] = tuple(sorted(features))
    network = call_with(key, function, options, classes)
    with reading(key):
        networks.output_shapes(network, inputs)
    return network


def build_method(key: str, config) -> Method:
    """The method `config.method` of `kdjax.methods` with its hyperparameters."""
    options = {name: value for name, value in config.items() if name != "method"}
    return call_with(key, choose(f"{key}.method", config.method, public(methods)), options)


def build_optimiser(key: str, config, steps: int) -> optax.GradientTransformation:
    """The optimiser `config.name` of optax: clipping, coupled decay, the rule, in this order.

    `schedule` is "constant", "cosine" (to zero) or "steps" (times 0.1 at each fraction of the run in
    `drops`); `warmup` is a fraction of the run that rises from zero. `no_decay` are patterns of the
    parameters that neither `coupled_decay` nor the rule's own weight decay touches: `"bias$"`.
    """
    check_range(f"{key}.learning_rate", config.learning_rate, lambda v: v > 0, "above 0")
    schedules = {
        "constant": lambda rate, n: optax.constant_schedule(rate),
        "cosine": optax.cosine_decay_schedule,
        "steps": lambda rate, n: optax.piecewise_constant_schedule(
            rate, {round(drop * n): 0.1 for drop in config.drops}
        ),
    }
    make = choose(f"{key}.schedule", config.schedule, schedules)
    warm = round(config.warmup * steps)
    schedule = make(config.learning_rate, max(steps - warm, 1))
    if warm:
        rising = optax.linear_schedule(0.0, config.learning_rate, warm)
        schedule = optax.join_schedules([rising, schedule], [warm])
    function = choose(f"{key}.name", config.name, public(optax))
    check_range(f"{key}.clip", config.clip, lambda v: v >= 0, "0 (none) or above")
    patterns = tuple(config.get("no_decay", ()))
    decayed = functools.partial(_decayed, patterns) if patterns else None
    masked = {}
    if patterns and "mask" in inspect.signature(function).parameters:
        masked["mask"] = decayed
    elif patterns and not config.coupled_decay:
        raise ConfigError(
            f"config.{key}.no_decay: {config.name} has no weight decay to leave out, and "
            "coupled_decay is 0"
        )
    with reading(key):
        rule = optax.inject_hyperparams(function, static_args=tuple(masked))(
            learning_rate=schedule, **config.options, **masked
        )
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.coupled_decay:
        parts.append(optax.add_decayed_weights(config.coupled_decay, decayed))
    return optax.chain(*parts, rule)


def _decayed(patterns, params):
    """Whether each leaf decays: not where one of the patterns is found in its path."""

    def one(path, leaf):
        return not any(re.search(pattern, _path_name(path)) for pattern in patterns)

    return jax.tree.map_with_path(one, params)


def _path_name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_no_decay(key: str, config, network: networks.Network, inputs) -> None:
    """Refuses a pattern in `config.no_decay` that matches none of the network's parameters."""
    params = networks.variable_shapes(network, inputs)["params"]
    names = [_path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    idle = [p for p in config.get("no_decay", ()) if not any(re.search(p, n) for n in names)]
    if idle:
        raise ConfigError(f"config.{key}.no_decay: {idle} match no parameter; there are {names}")


class Placement(NamedTuple):
    """Where a run's arrays lie: the devices, and the sharding rules of players and teachers by name."""

    mesh: jax.sharding.Mesh
    how: str
    sharding: Mapping[str, Any]


def build_placement(config) -> Placement:
    """From `config.place`: `mesh`, `how`, and the rules `sharding.NAME` for those who have any."""
    place = config.place
    check_range("place.how", place.how, lambda v: v in ("pjit", "pmap"), "'pjit' or 'pmap'")
    with reading("place.mesh"):
        mesh = make_mesh(place.mesh)
    sharding = {name: rules for name, rules in place.get("sharding", {}).items() if rules}
    if place.how == "pmap" and (sharding or jax.process_count() > 1):
        raise ConfigError("config.place.how: sharding rules and several processes need 'pjit'")
    return Placement(mesh, place.how, sharding)


def place_batches(placement: Placement, batches):
    """The batches `[batches, B, ...]` of an evaluation, each split over the devices."""
    if placement.how == "pmap":
        return batches
    return put(batches, batch_sharding(placement.mesh, 1))


def check_range(key: str, value, holds: Callable[[Any], bool], wanted: str) -> None:
    """Refuses a config value for which `holds` is false."""
    if not holds(value):
        raise ConfigError(f"config.{key} must be {wanted}, got {value}")


# --- The workdir ----------------------------------------------------------------------------------


class Run(NamedTuple):
    """A run in its workdir: what every row is trained with."""

    workdir: Path
    config: Any
    placement: Placement
    writer: "MetricWriter | SilentWriter"
    record: dict[str, Any]


class SilentWriter:
    """The metric writer of the processes that do not write."""

    def write(self, row, step, values, split="train"):
        pass

    def rewind(self, row, step, split=None):
        pass


def open_run(config, workdir: Path, data_fingerprint: str) -> Run:
    """Starts a workdir or goes on with one.

    Raises:
        ConfigError: the workdir belongs to another `run` config or other data (the difference is
            shown), a mesh that does not fit the devices.
    """
    placement = build_placement(config)
    for key in ("save_every", "log_every", "validate_every"):
        check_range(f"place.{key}", config.place[key], lambda v: v > 0, "above 0")
    processes = f" {jax.process_count()} processes" if jax.process_count() > 1 else ""
    record = {
        "run": _plain(config.run),
        "place": _plain(config.place),
        "layout": f"{placement.how} {dict(placement.mesh.shape)} {jax.default_backend()}{processes}",
        "jaxlib": jax.lib.__version__,
        "python": platform.python_version(),
        "data": data_fingerprint,
    }
    path = workdir / "config.json"
    if path.exists():
        _check_same(workdir, json.loads(path.read_text()), record)
    workdir.mkdir(parents=True, exist_ok=True)
    if not is_first():
        return Run(workdir, config, placement, SilentWriter(), record)
    files.write_atomically(path, json.dumps(record, indent=1))
    return Run(workdir, config, placement, MetricWriter(workdir), record)


def shared_run(run: Run, identity: Mapping[str, Any]) -> Run:
    """The run in a folder of `place.shared` that belongs to `identity`, to the data and the layout.

    What is trained there is found again by every other run that asks for the same.
    """
    data = run.record["run"]["data"]
    held = {key: value for key, value in data.items() if key not in ("data_dir", "manual_dir")}
    conditions = {key: run.record[key] for key in ("layout", "jaxlib", "python")}
    everything = {**identity, **conditions, "data": held, "fingerprint": run.record["data"]}
    text = json.dumps(everything, sort_keys=True)
    folder = Path(run.config.place.shared) / hashlib.sha256(text.encode()).hexdigest()[:16]
    if not is_first():
        return run._replace(workdir=folder)
    folder.mkdir(parents=True, exist_ok=True)
    return run._replace(workdir=folder, writer=MetricWriter(folder))


def _plain(config):
    return json.loads(json.dumps(config.to_dict()))


def _check_same(workdir, before, now):
    changed = dict(_differences(before["run"], now["run"]))
    longer = {
        key: pair
        for key, pair in changed.items()
        if key.split(".")[-1] == "steps" and pair[1] > pair[0]
    }
    if changed and not (EXTEND.value and changed == longer):
        lines = "".join(f"\n  run.{key}: {a!r} there, {b!r} now" for key, (a, b) in changed.items())
        hint = "\nMore steps are allowed with --extend." if changed == longer else ""
        raise ConfigError(f"{workdir} holds a run with another config:{lines}{hint}")
    if before["data"] != now["data"]:
        raise ConfigError(f"{workdir} was started with other data: {before['data']}, {now['data']}")
    for key, (a, b) in _differences(
        {name: before[name] for name in ("place", "layout", "jaxlib", "python")},
        {name: now[name] for name in ("place", "layout", "jaxlib", "python")},
    ):
        if is_first():
            print(f"resuming with {key} = {b!r}, was {a!r}", file=sys.stderr)


def _differences(before, now, prefix=""):
    for key in sorted(set(before) | set(now)):
        a, b = before.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield prefix + key, (a, b)


# --- The report -----------------------------------------------------------------------------------


def command(experiment: str) -> str:
    """The command that runs, as a user would type it."""
    return shlex.join(["python", "-m", f"experiments.{experiment}", *sys.argv[1:]])


def report(
    config,
    workdir: Path,
    rows,
    columns,
    *,
    baseline: str,
    experiment: str,
    title: str,
    notes: Mapping[str, str],
) -> None:
    """The table of `rows` on the terminal, and `report.html` with the curves in the workdir.

    `notes` are those of the experiment; the command, the seeds and the versions are added.
    """
    table = tables.results_table(rows, baseline=baseline, columns=columns)
    print(table)
    path, metrics = workdir / "report.html", workdir / "metrics.jsonl"
    html.write_report(
        path,
        title=title,
        table=table,
        curves=read_metrics(metrics) if metrics.exists() else [],
        notes={
            "command": command(experiment),
            "seeds": f"{config.run.seeds}, paired by seed with {baseline!r}",
            **notes,
            "versions": f"jax {jax.__version__}, {jax.default_backend()}",
        },
        config=config.to_dict(),
    )
    print(f"report: {path}")
