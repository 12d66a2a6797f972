"""Runs a study: a comparison over seeds whose data or whose order of work is its own.

    python -m experiments.study --config=configs/logits.py:empsel --workdir=runs/catalogue/empsel

Prints the rows and writes `config.json`, `results.json`, `report.html` and, where networks are trained,
`metrics.jsonl` and checkpoints into the workdir. The same command goes on with a run that was stopped
or killed.

A study is a public function of `experiments/studies/`, named by `config.run.study`:
`study(bench) -> {row: {metric: one value per seed}}`. What it trains goes through `bench.fit`, all
seeds in one program and by the shared step builder. Where classifiers of images learn from teachers in
one stage, no study is needed: that is `experiments.distill`.
"""

import dataclasses
import functools
import importlib
import pkgutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import setup, studies, train_teacher, training, tuning
from kdjax import networks
from kdjax.data import plans, sources, streams
from kdjax.report import tables
from kdjax.report.results import write_results


class Bench(NamedTuple):
    """What a study works with: the run, its source of data or None, and what its rows cost."""

    run: setup.Run
    source: sources.Source | None
    costs: dict[str, dict[str, float]]

    @property
    def options(self):
        return self.run.config.run.options

    @property
    def seeds(self) -> list[int]:
        return list(range(self.run.config.run.seeds))

    def fit(
        self,
        name: str,
        method,
        nets: Mapping[str, Any],
        inputs,
        data,
        *,
        steps: int,
        batch: int,
        rate: float,
        frozen: Mapping[str, Any] | None = None,
        score=None,
        start=None,
        seeds=None,
    ):
        """The state of a row's networks, trained for all seeds at once, with an axis of seeds.

        With `run.tune.grid[name]` the learning rate (`rate`, a factor) and the method's own numbers are
        chosen first, by the mean of `score` over the first seeds.

        Args:
            name: the row; "row/part" where a row trains in several parts, whose cost is added up.
            method: a `Method`; AdamW without decay trains all its players.
            nets: `{name: Network}`, the student's among them.
            inputs: the shapes that they are initialised with, `{name: shape struct}` or one for all.
            data: `{stream: Stream}`, or for one stream of that name `{stream: {column: [N, ...]}}`.
            rate: AdamW's learning rate.
            frozen: parameters that are not trained, without an axis of seeds.
            score: `score(state, seeds)`, one value per replica, higher is better, on validation data.
            start: `start(state, seeds) -> state` changes what training starts from: parameters of a
                row before, or what `memory` holds for every seed.
            seeds: the run's by default; `[0]` for a teacher that all of them share.
        """
        run, frozen = self.run, dict(frozen or {})
        own = self.seeds if seeds is None else list(seeds)
        row = name.partition("/")[0]
        setup.choose(f"run.rows of study {run.config.run.study!r}", row, run.config.run.rows)
        if not isinstance(inputs, Mapping) or not set(nets) <= set(inputs):
            inputs = dict.fromkeys(nets, inputs)
        given = {
            key: each if isinstance(each, streams.Stream) else stream(each, batch)
            for key, each in data.items()
        }
        optimiser = optax.chain(
            optax.adamw(rate, weight_decay=0.0),
            optax.inject_hyperparams(optax.scale)(step_size=1.0),
        )

        def build(seeds, chosen=None):
            label = name.replace("/", "_")
            stage = training.build_stage(
                label, method, nets, inputs, optimiser, given, steps, seeds, run.placement
            )
            return dataclasses.replace(stage, init=tuning.begun(stage, seeds, chosen, start))

        grid, chosen = run.config.run.get("tune", {}).get("grid", {}), {}
        if name in grid:
            chosen = tuning.tune(
                run, name, build, frozen, lambda stage, state, seeds: score(state, seeds)
            )
        stage = build(own, chosen)
        digests = {key: networks.fingerprint(tree) for key, tree in frozen.items()}

        def validate(state):
            return {} if score is None else {"score": np.asarray(score(state, own))}

        trained = training.train_row(run, stage, frozen, own, digests, validate)
        cost = self.costs.setdefault(row, {"training_flops": 0.0, "seconds": 0.0})
        cost["training_flops"] += tuning.training_flops(stage, own, frozen)
        cost["seconds"] += trained.seconds / len(own)
        return trained.state


def carried(params: Mapping[str, Any], **memory):
    """A `start` for `Bench.fit`: parameters of players, `{player: tree}`, and of `memory`, by seed."""

    def start(state, seeds):
        def of_seeds(tree):
            return jax.tree.map(lambda x: jnp.asarray(x)[jnp.asarray(seeds)], dict(tree))

        return state.replace(
            params={**state.params, **of_seeds(params)},
            memory={**state.memory, **of_seeds(memory)},
        )

    return start


def stream(columns: Mapping[str, np.ndarray], batch: int, examples=None) -> streams.Stream:
    """Batches of resident columns `{name: [N, ...]}`, of all examples or of those a seed has.

    `examples` is `int[n]`, or a function seed -> `int[n]`.
    """
    size = len(next(iter(columns.values())))
    plan = plans.IndexPlan(np.arange(size) if examples is None else examples, batch)
    return streams.Stream(plan, dict(columns))


def predict(network: networks.Network, params, inputs, *, model=None, batch: int = 500):
    """The `Outputs` `[S, N, ...]` of the networks of S seeds on `inputs` `[N, ...]`, by batches.

    `inputs` is a tree of arrays; `params` and `model` lead with the axis of seeds.
    """

    def one(params, model):
        variables = {"params": params, "model": model, "frozen": {}}

        def outputs(x):
            x = jax.tree.map(lambda leaf: leaf[None], x)
            given, _ = network.apply(variables, x, train=False, rngs={})
            return jax.tree.map(lambda leaf: leaf[0], given)

        return jax.lax.map(outputs, inputs, batch_size=batch)

    return jax.jit(jax.vmap(one))(params, {} if model is None else model)


def right(logits, labels) -> np.ndarray:
    """By seed, for how many of the logits `[S, N, C]` the label `[N]` has the largest."""
    return np.mean(np.argmax(np.asarray(logits), axis=-1) == labels, axis=1)


def first(tree):
    """The leaves of the first seed: of what is trained once for all seeds."""
    return jax.tree.map(lambda x: x[0], tree)


def repeated(tree, seeds):
    """What all seeds share, once for each of them."""
    return jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], len(seeds), axis=0), tree)


def by_seed(study: Callable[..., Mapping[str, Mapping[str, float]]]):
    """A study from `one(rng, bench) -> {row: {metric: value}}`, called with each seed's generator."""

    @functools.wraps(study)
    def over_seeds(bench):
        began = time.perf_counter()
        found = [study(np.random.default_rng(seed), bench) for seed in bench.seeds]
        seconds = (time.perf_counter() - began) / len(found)
        for row in found[0]:
            bench.costs[row] = {"seconds": seconds / len(found[0])}
        return {
            row: {key: [float(each[row][key]) for each in found] for key in metrics}
            for row, metrics in found[0].items()
        }

    return over_seeds


def named_studies() -> dict[str, Callable[[Bench], Mapping[str, Mapping[str, Sequence[float]]]]]:
    """Every public function of `experiments/studies/`, by name; what `_private.py` has is no study."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(studies.__path__):
        if module.name.startswith("_"):
            continue
        there = setup.public(importlib.import_module(f"{studies.__name__}.{module.name}"))
        own = {
            name: function
            for name, function in there.items()
            if function.__module__ == f"{studies.__name__}.{module.name}"
            and not name.startswith("_")
        }
        if twice := sorted(own.keys() & found.keys()):
            raise ValueError(f"two studies are named {twice}")
        found |= own
    return found


def main(config, workdir: Path) -> None:
    study = setup.choose("run.study", config.run.study, named_studies())
    tuning.check_measurement(config)
    data, source = config.run.data, None
    if "manual_dir" in data:
        with setup.reading("run.data"), setup.first_process_first("data"):
            source = train_teacher.load_source(data)
    run = setup.open_run(config, workdir, source.fingerprint if source else data.name)
    bench = Bench(run, source, {})
    measured = study(bench)
    rows = []
    for name in config.run.rows:
        if name not in measured:
            raise ValueError(
                f"study {config.run.study!r} measured {sorted(measured)}, not {name!r}"
            )
        values = {key: np.asarray(each, float).tolist() for key, each in measured[name].items()}
        # What is made of other rows, without training, costs nothing of its own.
        own = bench.costs.get(name, {"seconds": 0.0})
        cost = {key: [each] * config.run.seeds for key, each in own.items()}
        rows.append({"name": name, "seeds": bench.seeds, "metrics": {**values, **cost}})
    write_results(workdir / "results.json", rows)
    report(config, workdir, rows)


def report(config, workdir, rows):
    """The table on the terminal and `report.html`; gains are over the first claim's first opponent."""
    claims = config.run.claims.values()
    claimed = [claim.metric for claim in claims]
    names = dict.fromkeys(key for row in rows for key in row["metrics"])
    columns = []
    for key in sorted(names, key=lambda name: name not in claimed):
        if key in ("seconds", "training_flops"):
            continue
        share = key in tables.SHARES
        heading, digits = key.replace("_", " "), 1 if share else 3
        columns.append(tables.Column(key, heading, share, digits, gain=key in claimed))
    setup.report(
        config, workdir, rows, columns,
        baseline=next(iter(claims)).over[0],
        experiment="study",
        title=config.run.study.replace("_", " ").capitalize(),
        notes={"data": config.run.data.name},
    )  # fmt: skip


if __name__ == "__main__":
    setup.launch(main)
