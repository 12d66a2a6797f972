"""Distils a language model into a smaller one by several methods, over seeds.

    python -m experiments.distill_lm --config=configs/lm.py --workdir=runs/lm

Trains the tokenizer, the teacher and the students on the text that the config names, and prints a
table of held-out perplexity, KL to the teacher, agreement, calibration and the acceptance rate of
speculative decoding, for teacher, students, and the student trained without a teacher. Writes
`tokenizer.json`, `config.json`, `metrics.jsonl`, `results.json`, `report.html`, `checkpoints/` and
TensorBoard events into the workdir. The same command goes on with a run that was stopped or killed.

A row of `run.rows` holds its method with the hyperparameters and what `experiments.lm_rows` meets. With
`run.tune` the numbers of every row are chosen on validation first, by as many trials for each.
"""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments import lm_rows, setup, train_lm, training, tuning
from experiments.train_lm import (
    Data,
    build_data,
    build_network,
    classes_of,
    measure,
    obtain_teacher,
    summary,
    with_logits,
)
from kdjax import methods, surgery
from kdjax.data import alignment
from kdjax.methods import cross_tokenizer, language, on_policy, sequence
from kdjax.networks import count_parameters, fingerprint, merged, pretrained
from kdjax.report import files, tables
from kdjax.report.results import write_results
from kdjax.train import build_evaluation, fetch, per_shard

COLUMNS = (
    tables.Column("perplexity", "test perplexity", digits=2, gain=True),
    tables.Column("divergence", "KL to the teacher, nats", digits=3),
    tables.Column("agreement", "agreement with teacher", percent=True),
    tables.Column("calibration_error", "calibration error", percent=True),
    tables.Column("acceptance", "accepted as draft", percent=True),
    tables.Column("parameters", "parameters", digits=0),
    tables.Column("trained", "of them trained", digits=0),
    tables.Column("flops", "FLOPs per sequence", digits=0),
    tables.Column("seconds", "seconds per seed", digits=1),
)
# Methods over sequences, and those of them that can do with a teacher of another tokenizer.
METHODS = {
    name: function
    for module in (sequence, on_policy, cross_tokenizer, language)
    for name, function in setup.public(module).items()
    if getattr(methods, name, None) is function
}
CROSS = ("universal_kd", "aligned_universal_kd")


# --- Networks and methods -------------------------------------------------------------------------


def build_networks(config, data: Data) -> dict[str, Any]:
    """Teacher and student."""
    return {player: build_network(config, data, player) for player in ("teacher", "student")}


def shared_vocabulary(config, data: Data) -> int | None:
    """Over how many classes losses are taken, where heads have more than the tokenizer; else None."""
    classes = {p: classes_of(config, data, p) for p in ("teacher", "student")}
    padded = {player: n for player, n in classes.items() if n > data.vocabulary(player)}
    if not padded or data.crosses:
        return None
    print(
        f"warning: {padded} classes for {data.vocabulary('student')} tokens: the others are cut off "
        "and the probabilities renormalised",
        file=sys.stderr,
    )
    return data.vocabulary("student")


def check_tokenizers(config, data: Data) -> None:
    """Refuses rows that compare classes of one tokenizer with those of another."""
    for name, row in config.run.rows.items():
        if data.crosses and row.method not in (*CROSS, "next_token"):
            with setup.reading(f"run.rows.{name}.method {row.method!r} needs one tokenizer"):
                alignment.check_same_tokenizer(data.tokenizer, data.teacher_tokenizer)
        if row.method in CROSS and not data.crosses:
            raise setup.ConfigError(
                f"config.run.rows.{name}.method {row.method!r} needs a teacher with another "
                "tokenizer: config.run.teacher.tokenizer"
            )


def build_method(config, name, vocabulary=None):
    """The method of one row, told the run's length, chunk, vocabulary and placement if it asks."""
    key, row = f"run.rows.{name}", config.run.rows[name]
    function = setup.choose(f"{key}.method", row.method, METHODS)
    given = {"steps": config.run.steps, "vocabulary": vocabulary}
    if config.run.chunk:
        given["chunk"] = config.run.chunk
        mesh = setup.build_placement(config).mesh
        if mesh.size > 1:
            given["per_shard"] = per_shard(mesh)
    asked = inspect.signature(function).parameters
    options = {option: value for option, value in given.items() if option in asked}
    own = {option: row[option] for option in row if option not in ("method", *lm_rows.ROW_OPTIONS)}
    return setup.call_with(key, function, {**options, **own})


def build_stages(config, data: Data, nets):
    """{row: its stages}: all seeds in one program, or a stage for each."""
    setup.check_range("run.steps", config.run.steps, lambda v: v > 0, "above 0")
    setup.check_range("run.seeds", config.run.seeds, lambda v: v > 0, "above 0")
    setup.choose("run.baseline", config.run.baseline, config.run.rows)
    tuning.check_measurement(config)
    how = setup.build_placement(config).how
    setup.check_range("place.how", how, lambda v: v == "pjit", "'pjit'")
    check_tokenizers(config, data)
    vocabulary = shared_vocabulary(config, data)
    names = sorted(config.run.rows, key=lambda name: name != config.run.baseline)
    return {name: build_row(config, data, nets, name, vocabulary) for name in names}


def build_row(config, data: Data, nets, name, vocabulary):
    """The stages of one row, with their seeds."""
    groups = training.seed_groups(name, config.run.seeds, config.run.seeds_together)
    return [
        (build_stage(config, data, nets, name, label, seeds, vocabulary), seeds)
        for label, seeds in groups
    ]


def build_stage(config, data: Data, nets, name, label, seeds, vocabulary, scaled=False):
    """One stage of a row; `scaled` puts a factor of the learning rate, `step_size`, up for trial."""
    steps, inputs = config.run.steps, data.inputs["student"]
    optimiser = tuning.row_optimiser(config, name, steps, nets["student"], inputs)
    if scaled:
        optimiser = optax.chain(optimiser, optax.inject_hyperparams(optax.scale)(step_size=1.0))
    method = build_method(config, name, vocabulary)
    own = {**nets, "student": lm_rows.rounded(config, name, nets["student"])}
    lm_rows.check_stored(config, data, name)
    with setup.reading(f"run.rows.{name}"):
        given, memory = lm_rows.build_streams(config, data, name)
        method = method._replace(memory={**method.memory, **memory})
        return training.build_stage(
            label, method, own, data.inputs,
            optimiser, given, steps, seeds, setup.build_placement(config),
        )  # fmt: skip


# --- The job --------------------------------------------------------------------------------------


def build_student_evaluation(stage, data: Data, seeds):
    """`evaluate(state, frozen, batches) -> totals` of one stage, by seed for several."""
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    measured = measure(data.vocabulary("student"), "student", None if data.crosses else "teacher")
    return build_evaluation(stage.networks, measured, replicas=replicas)


def prepare(config, run, data: Data, name, stage, seeds, frozen, digest):
    """(the stage, the frozen arrays) with what the row asks for once there is a teacher."""
    stage, frozen = lm_rows.with_start(config, data, stage, seeds, name, frozen)
    stage, frozen = lm_rows.with_stored(config, data, run.workdir, stage, name, frozen, digest)
    return lm_rows.with_writing(config, data, stage, name, frozen), frozen


def train_student(config, run, data: Data, name, stage, seeds, frozen, digest, chosen=None):
    """(metrics on the test split, what was trained, the frozen arrays it reads) of one stage."""
    stage, frozen = prepare(config, run, data, name, stage, seeds, frozen, digest)
    if chosen:
        stage = dataclasses.replace(stage, init=tuning.begun(stage, seeds, chosen))
    evaluate = build_student_evaluation(stage, data, seeds)

    def validate(state):
        return summary(evaluate(state, frozen, data.validation["student"]))

    trained = training.train_row(run, stage, frozen, seeds, {"teacher": digest}, validate)
    metrics = summary(evaluate(trained.state, frozen, data.test["student"]))
    count = 1 if isinstance(seeds, int) else len(seeds)
    size = count_parameters(trained.state.params["student"]) // count
    metrics["trained"] = np.full_like(metrics["nll"], size)
    if "teacher_temperature" in config.run.rows[name]:
        told = config.run.rows[name].teacher_temperature
        metrics["teacher_temperature"] = np.full(metrics["nll"].shape, told)
    if "tune" in config.run:
        cost = tuning.training_flops(stage, seeds, frozen)
        metrics["training_flops"] = np.full(metrics["nll"].shape, cost)
    return metrics, trained, frozen


def tuned_stage(config, run, data: Data, nets, name, frozen, digest):
    """(the stage of a row for all seeds, the numbers for it that were the best on validation)."""
    shared, given = shared_vocabulary(config, data), dict(frozen)

    def build(seeds):
        return build_stage(config, data, nets, name, name, seeds, shared, scaled=True)

    def prepared(seeds):
        stage, found = prepare(config, run, data, name, build(seeds), seeds, frozen, digest)
        given.update(found)
        return stage

    def score(stage, state, seeds):
        evaluate = build_student_evaluation(stage, data, seeds)
        return summary(evaluate(state, given, data.validation["student"]))["log_likelihood"]

    return build(list(range(config.run.seeds))), tuning.tune(run, name, prepared, given, score)


def export_student(config, data: Data, workdir, name, done, seeds, digest):
    """Writes the student of seed 0 to `WORKDIR/students/ROW`, as `transformers` loads it."""
    metrics, trained, frozen = done
    folder, run = workdir / "students" / name, config.run
    if (folder / "config.json").is_file():
        return  # by the command that was stopped
    wanted, first = lm_rows.options_of(config, name, "student"), isinstance(seeds, int)
    params = jax.tree.map(lambda x: x if first else x[0], fetch(trained.state.params["student"]))
    if wanted.rank:
        params = merged(fetch(frozen["student"]), params, alpha=wanted.alpha)
    if wanted.bits:
        params = surgery.fake_quantised(params, lm_rows.names_of(wanted.patterns), bits=wanted.bits)
    options = {key: value for key, value in run.student.network.items() if key != "name"}
    options["vocabulary"] = classes_of(config, data, "student")
    numbers = {key: float(np.ravel(metrics[key])[0]) for key in ("perplexity", "accuracy")}
    card = pretrained.model_card(
        name,
        licence=run.student.licence,
        method=str(run.rows[name].to_dict()),
        teacher=run.teacher.weights or "the teacher of the same run",
        teacher_fingerprint=digest,
        numbers=numbers,
        data=f"{run.data.name}, measured on held-out documents",
        command=setup.command("distill_lm"),
        fingerprint=fingerprint(params),
    )
    folder.parent.mkdir(exist_ok=True)
    with setup.reading("run.student.licence"):
        pretrained.save_pretrained(
            folder,
            {"params": params, "model": {}},
            pretrained.decoder_config(options, positions=run.data.length),
            tokenizer=workdir,
            card=card,
        )


def main(config, workdir: Path) -> int:
    data = build_data(config)
    nets = build_networks(config, data)
    teacher_stage = train_lm.build_stage(config, data, nets["teacher"])
    stages = build_stages(config, data, nets)
    run = setup.open_run(config, workdir, data.fingerprint)
    if setup.is_first():
        files.write_atomically(workdir / "tokenizer.json", data.tokenizer.to_str())

    frozen, digest, row = obtain_teacher(config, run, data, teacher_stage, nets["teacher"])
    rows, failed = [row], 0
    for name, parts in stages.items():
        own, adapted, chosen = tuning.row_run(config, run, name), config, None
        if "tune" in config.run:
            adapted = lm_rows.calibrated(config, data, nets["teacher"], frozen, name)
            stage, chosen = tuned_stage(adapted, own, data, nets, name, frozen, digest)
            parts = [(stage, list(range(config.run.seeds)))]
        done = [
            train_student(adapted, own, data, name, stage, seeds, frozen, digest, chosen)
            for stage, seeds in parts
        ]
        failed += sum(len(trained.failures) for _, trained, _ in done)
        seeds = list(range(config.run.seeds))
        network, measured = with_logits(nets["student"]), [each[:2] for each in done]
        rows.append(training.result_row(name, seeds, measured, network, data.inputs["student"]))
        if config.run.student.licence and setup.is_first():
            export_student(config, data, workdir, name, done[0], parts[0][1], digest)
    if setup.is_first():
        write_results(workdir / "results.json", rows)
        report(config, workdir, data, rows)
    return 1 if failed else 0


def report(config, workdir, data: Data, rows):
    """The table on the terminal and `report.html`."""
    train, length = data.rows["tokens"].shape
    parts = (data.documents.train, data.documents.validation, data.documents.test)
    documents = ", ".join(str(len(names)) for names in parts)
    described = f"{config.run.data.name}: {train} training rows of {length} tokens, "
    setup.report(
        config, workdir, rows, COLUMNS,
        baseline=config.run.baseline,
        experiment="distill_lm",
        title=f"Distillation of language models on {config.run.data.name}",
        notes={
            "data": described + f"{data.vocabulary('student')} in the vocabulary; documents by "
            f"split: {documents}",
            "perplexity": "a negative gain is the better one",
        },
    )  # fmt: skip


if __name__ == "__main__":
    setup.launch(main)
