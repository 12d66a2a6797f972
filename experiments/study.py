"""Runs a study: a comparison over seeds whose data or whose order of work is its own.

    python -m experiments.study --config=configs/logits.py:empsel --workdir=runs/catalogue/empsel

Prints the rows and writes `config.json`, `results.json`, `report.html` and, where networks are trained,
`metrics.jsonl` and checkpoints into the workdir. The same command goes on with a run that was stopped
or killed.

A study is a public function of `experiments/studies/`, named by `config.run.study`:
`study(bench) -> {row: {metric: [S]}}`, or `{row: [S]}` for accuracies, with a value per seed or one for
all of them. What it trains goes through `bench.fit` or `bench.compare`, all seeds in one program and by
the shared step builder. Where classifiers of images learn from teachers in
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


class Trained(NamedTuple):
    """What `Bench.fit` has trained: a state with an axis of replicas, the networks, each replica's seed."""

    state: Any
    nets: Mapping[str, networks.Network]
    seeds: Sequence[int]

    @property
    def params(self):
        """By player, with the axis of replicas."""
        return self.state.params

    @property
    def frozen(self):
        """The student of the first replica, for `frozen` of rows that have it as their teacher."""
        return first(self.params["student"])

    def outputs(self, inputs, player="student", batch=500) -> networks.Outputs:
        """The `Outputs` `[S, N, ...]` of every replica on `inputs` `[N, ...]`."""
        model = self.state.model[player] or None
        return predict(self.nets[player], self.params[player], inputs, model=model, batch=batch)

    def logits(self, inputs, player="student"):
        """The logits of `outputs`."""
        return self.outputs(inputs, player).logits


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

    def option(self, name: str, key: str, given=None):
        """What is given, or a row's or part's own option (`teacher_steps`), or the recipe's (`steps`)."""
        own = f"{name.rpartition('/')[2]}_{key}"
        found = next((self.options[k] for k in (own, key) if k in self.options), given)
        if given is None and found is None:
            raise setup.ConfigError(
                f"config.run.options needs {key!r} or {own!r} for row {name!r}; it has "
                f"{sorted(self.options)}"
            )
        return found if given is None else given

    def fit(
        self,
        name: str,
        method,
        nets: Mapping[str, networks.Network],
        inputs,
        data,
        *,
        steps: int | None = None,
        batch: int | None = None,
        rate: float | None = None,
        frozen: Mapping[str, Any] | None = None,
        score: Callable[[Trained], Any] | None = None,
        start=None,
        seeds=None,
    ) -> Trained:
        """A row's networks, trained for all seeds at once.

        With `run.tune.grid[name]` the learning rate (`rate`, a factor) and the method's own numbers are
        chosen first, by the mean of `score` over the first seeds.

        Args:
            name: the row; "row/part" where a row trains in several parts, whose cost is added up.
            method: a `Method`; AdamW without decay trains all its players.
            nets: `{name: Network}`, the student's among them.
            inputs: the shapes that they are initialised with, `{name: shape struct}` or one for all.
            data: `{stream: Stream}`, or for one stream of that name `{stream: {column: [N, ...]}}`.
            steps, batch, rate: of AdamW. By default the recipe's `options.steps` and so on, or where it
                has them those of the row or of the part: `teacher_steps` of "teacher" and of "kd/teacher".
            frozen: parameters that are not trained, without an axis of seeds.
            score: `score(trained)`, one value per replica, higher is better, on validation data.
            start: `start(state, seeds) -> state` changes what training starts from: parameters of a
                row before, or what `memory` holds for every seed.
            seeds: the run's by default; `[0]` for a teacher that all of them share.
        """
        run, frozen = self.run, dict(frozen or {})
        own = self.seeds if seeds is None else list(seeds)
        row = name.partition("/")[0]
        steps = self.option(name, "steps", steps)
        rate = self.option(name, "rate", rate)
        setup.choose(f"run.rows of study {run.config.run.study!r}", row, run.config.run.rows)
        if not isinstance(inputs, Mapping) or not set(nets) <= set(inputs):
            inputs = dict.fromkeys(nets, inputs)
        given = {
            key: each
            if isinstance(each, streams.Stream)
            else stream(each, self.option(name, "batch", batch))
            for key, each in data.items()
        }
        optimiser = optax.chain(
            optax.adamw(rate, weight_decay=0.0),
            optax.inject_hyperparams(optax.scale)(step_size=1.0),
        )

        def measured(state, seeds):
            if score is None:
                raise setup.ConfigError(
                    f"config.run.tune.grid has {name!r}, which study {run.config.run.study!r} does not "
                    "score"
                )
            return np.asarray(score(Trained(state, nets, seeds)))

        def build(seeds, chosen=None):
            label = name.replace("/", "_")
            stage = training.build_stage(
                label, method, nets, inputs, optimiser, given, steps, seeds, run.placement
            )
            return dataclasses.replace(stage, init=tuning.begun(stage, seeds, chosen, start))

        grid, chosen = run.config.run.get("tune", {}).get("grid", {}), {}
        if name in grid:
            chosen = tuning.tune(
                run, name, build, frozen, lambda stage, state, seeds: measured(state, seeds)
            )
        stage = build(own, chosen)
        digests = {key: networks.fingerprint(tree) for key, tree in frozen.items()}

        def validate(state):
            return {} if score is None else {"score": measured(state, own)}

        trained = training.train_row(run, stage, frozen, own, digests, validate)
        cost = self.costs.setdefault(row, {"training_flops": 0.0, "seconds": 0.0})
        cost["training_flops"] += tuning.training_flops(stage, own, frozen)
        cost["seconds"] += trained.seconds / len(own)
        return Trained(trained.state, nets, own)

    def compare(
        self,
        rows: Mapping[str, Any],
        nets: Mapping[str, networks.Network],
        inputs,
        data,
        *,
        measure: Callable[[Trained, str], Any],
        score: Callable[[Trained], Any] | None = None,
        **settings,
    ) -> dict[str, Any]:
        """What every row measures on test, `{row: measure(trained, "test")}`.

        Args:
            rows: `{row: method}`, or `{row: {"method": method, **changes}}` with arguments of `fit` that
                are the row's own.
            nets, inputs, data, settings: of `fit`.
            measure: `measure(trained, part)`, `[S]` or `{metric: [S]}`, of "validation" or "test".
            score: `measure(trained, "validation")` by default, which then is `[S]`.
        """
        score = score or (lambda trained: measure(trained, "validation"))
        shared = {"nets": nets, "inputs": inputs, "data": data, "score": score, **settings}
        found = {}
        for name, row in rows.items():
            own = dict(row) if isinstance(row, Mapping) else {"method": row}
            found[name] = measure(self.fit(name, **{**shared, **own}), "test")
        return found


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


def shared(params: Mapping[str, Any]):
    """A `start` for `Bench.fit`: parameters of players, `{player: tree}`, the same for every seed."""

    def start(state, seeds):
        return state.replace(params={**state.params, **repeated(dict(params), seeds)})

    return start


def stream(
    columns: Mapping[str, np.ndarray], batch: int, examples=None, augment=None
) -> streams.Stream:
    """Batches of resident columns `{name: [N, ...]}`, of all examples or of those a seed has.

    `examples` is `int[n]`, or a function seed -> `int[n]`; `augment(key, example)` gives an example.
    """
    size = len(next(iter(columns.values())))
    plan = plans.IndexPlan(np.arange(size) if examples is None else examples, batch)
    return streams.Stream(plan, dict(columns), augment=augment)


def stream_of_seeds(columns: Mapping[str, np.ndarray], batch: int, examples=None) -> streams.Stream:
    """`stream` of columns `{name: [S, N, ...]}`: of its own N a seed has all, or `examples(seed)`."""
    size = next(iter(columns.values())).shape[1]

    def own(seed):
        return seed * size + (np.arange(size) if examples is None else examples(seed))

    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in columns.items()}
    return stream(flat, batch, own)


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


def by_metric(measured, seeds: int) -> dict[str, list[float]]:
    """A row of a study as `{metric: [S]}`: `measured` is that or accuracies, for S seeds or for all."""
    found = measured if isinstance(measured, Mapping) else {"accuracy": measured}
    return {
        key: np.broadcast_to(np.asarray(each, float), seeds).tolist() for key, each in found.items()
    }


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
        values = by_metric(measured[name], config.run.seeds)
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
