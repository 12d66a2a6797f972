"""Trains the teacher of a config on all labels, for many students to share.

    python -m experiments.train_teacher --config=configs/digits.py --workdir=runs/teacher

`experiments.distill` does this itself unless `config.run.teacher.workdir` names such a workdir.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import setup, training
from kdjax.data import augment, plans, poison, sources, splits, streams
from kdjax.methods import supervised
from kdjax.metrics import classification
from kdjax.networks import fingerprint
from kdjax.report.results import write_results
from kdjax.train import build_evaluation, fetch

AUGMENTATIONS = {
    "": (),
    "crop": (augment.random_crop(4),),
    "crop_flip": (augment.random_crop(4), augment.random_flip()),
}


class Data(NamedTuple):
    """A classification set: its splits, what a network is initialised with, and streams of it."""

    source: sources.Source
    classes: int
    splits: splits.Splits
    inputs: jax.ShapeDtypeStruct
    student: dict[str, streams.Stream]
    teacher: dict[str, streams.Stream]
    validation: dict[str, jax.Array]
    test: dict[str, jax.Array]
    attacks: dict[str, jax.Array] | None  # of a poisoned teacher: accuracy there is their success


def build_data(config) -> Data:
    """Streams of the labelled subset (by seed) and of the unlabelled training set, and both splits."""
    data, batch = config.run.data, config.run.batch
    placement = setup.build_placement(config)
    with setup.reading("run.data"), setup.first_process_first("data"):
        source = load_source(data)
        if source.num_classes is None or "image" not in source.columns:
            raise ValueError(f"{data.name} has {sorted(source.columns)}: wanted image and label")
        parts = splits.split(source, validation=data.validation, test=data.test)
        normalise = augment.normalise(*(_by_channel(data[name]) for name in ("mean", "std")))
        parts.labelled(data.labelled or len(parts.train), 0, balanced=bool(data.labelled))
    steps = setup.choose("run.data.augment", data.augment, AUGMENTATIONS)
    view = augment.compose(*steps, normalise)

    def labelled(seed):
        if not data.labelled:
            return parts.train
        return parts.labelled(data.labelled, seed)

    def stream(examples, *columns):
        with setup.reading("run.batch"):
            plan = plans.IndexPlan(examples, batch)
        return streams.Stream(plan, {c: source.columns[c] for c in columns}, augment=view)

    def columns(numbers):
        return {name: source.columns[name][numbers] for name in ("image", "label")}

    def whole(columns):
        devices = placement.mesh.size
        size = -(-min(512, len(columns["label"])) // devices) * devices
        batches = streams.epoch_batches(columns, size, prepare=normalise)
        return setup.place_batches(placement, batches)

    student = {"labelled": stream(labelled, "image", "label")}
    if data.transfer:
        student["transfer"] = stream(parts.transfer, "image")
    image, attacks = source.columns["image"], None
    if config.run.teacher.get("poison"):
        patch = {key: config.run.teacher.poison[key] for key in ("target", "size")}
        attacks = whole(poison.attacks(columns(parts.test), **patch))
    return Data(
        source=source,
        classes=source.num_classes,
        splits=parts,
        inputs=jax.ShapeDtypeStruct((1, *image.shape[1:]), jnp.float32),
        student=student,
        teacher={"labelled": stream(parts.train, "image", "label")},
        validation=whole(columns(parts.validation)),
        test=whole(columns(parts.test)),
        attacks=attacks,
    )


def load_source(data) -> sources.Source:
    """A `.npz` or `.jsonl` file of the user's own, or a TFDS data set by name."""
    if data.name.endswith(".npz"):
        return sources.load_npz(data.name)
    if data.name.endswith(".jsonl"):
        return sources.load_jsonl(data.name, ["image", "label"])
    return sources.load_tfds(data.name, data.data_dir or None, manual_dir=data.manual_dir or None)


def _by_channel(values):
    return values[0] if len(values) == 1 else tuple(values)


def teacher_configs(config) -> dict[str, Any]:
    """The settings of `teacher` and of every other teacher, `config.run.teachers`, by name."""
    return {"teacher": config.run.teacher, **config.run.get("teachers", {})}


def build_networks(config, data: Data) -> dict[str, Any]:
    """The teachers by name, giving the features that some row asks for."""
    asked = {row.teacher_feature for row in config.run.rows.values() if "teacher_feature" in row}
    return {
        name: setup.build_network(
            f"run.{_key(name)}.network", settings.network, data.classes, data.inputs, asked
        )
        for name, settings in teacher_configs(config).items()
    }


def _key(name):
    return name if name == "teacher" else f"teachers.{name}"


def build_method(config):
    """The teacher learns from labels."""
    del config
    return supervised()


def measure(scope):
    """What is measured of one network, per example; agreement where there is a teacher beside it."""
    batch = scope.batch
    logits = scope.apply("student", batch["image"])[0].logits
    return {
        "accuracy": classification.correct(logits, batch["label"]),
        "nll": classification.negative_log_likelihood(logits, batch["label"]),
        "calibration": classification.calibration_gaps(logits, batch["label"]),
    }


def summary(totals) -> dict[str, np.ndarray]:
    """{metric: value, or one per seed} from the totals of an evaluation."""
    values = {}
    for name, (total, count) in fetch(totals).items():
        if name == "calibration":
            error = classification.expected_calibration_error(total, count)
            values["calibration_error"] = np.asarray(error)
        else:
            values[name] = total / count
    return values


def measured(evaluate, state, frozen, data: Data) -> dict[str, np.ndarray]:
    """What a trained network does on the test split, and whether the attacks on it succeed."""
    metrics = summary(evaluate(state, frozen, data.test))
    if data.attacks is not None:
        metrics["attack_success"] = summary(evaluate(state, frozen, data.attacks))["accuracy"]
    return metrics


def build_stage(config, data: Data, network, name="teacher"):
    """A teacher's stage; it is the player `student` of its own training."""
    settings, key = teacher_configs(config)[name], f"run.{_key(name)}"
    setup.check_range(f"{key}.steps", settings.steps, lambda v: v > 0, "above 0")
    key = f"{key}.optimiser"
    optimiser = setup.build_optimiser(key, settings.optimiser, settings.steps)
    setup.check_no_decay(key, settings.optimiser, network, data.inputs)
    placement = setup.build_placement(config)
    rules = placement.sharding.get(name, ())
    placement = placement._replace(sharding={"student": rules} if rules else {})
    return training.build_stage(
        name, build_method(config), {"student": network}, {"student": data.inputs},
        optimiser, teacher_streams(data, settings), settings.steps, 0, placement,
    )  # fmt: skip


def teacher_streams(data: Data, settings) -> dict[str, streams.Stream]:
    """All training images, or those of `settings.classes`; a share of them with `settings.poison`."""
    classes, stream = tuple(settings.get("classes", ())), data.teacher["labelled"]
    if settings.get("poison"):
        with setup.reading("run.teacher.poison"):
            view = augment.compose(poison.poisoned(**settings.poison), stream.augment)
        stream = dataclasses.replace(stream, augment=view)
    if not classes:
        return {"labelled": stream}
    train = data.splits.train
    kept = train[np.isin(data.source.columns["label"][train], classes)]
    plan = plans.IndexPlan(kept, stream.plan.batch_size)
    return {"labelled": dataclasses.replace(stream, plan=plan)}


def obtain_teacher(config, run, data: Data, stage):
    """(frozen arrays of the teacher, its fingerprint, its row): trained here, or where config says.

    `run.teacher.workdir` names the workdir of a finished teacher. With `place.shared` a teacher is
    trained once for all runs with its settings and its data.
    """
    settings, run = teacher_configs(config)[stage.name], teacher_run(config, run, stage.name)
    evaluate = build_evaluation(stage.networks, measure)
    if settings.workdir:
        trained = restore_teacher(run, stage)
    else:
        validate = lambda state: summary(evaluate(state, {}, data.validation))
        trained = training.train_row(run, stage, {}, 0, {}, validate)
    return frozen_teacher(data, stage, trained)


def teacher_run(config, run, name):
    """The run in the workdir where a teacher is trained, or was."""
    settings = teacher_configs(config)[name]
    if settings.workdir:
        return run._replace(workdir=Path(settings.workdir))
    if not config.place.get("shared", ""):
        return run
    own = {key: value for key, value in settings.to_dict().items() if key != "workdir"}
    return setup.shared_run(run, {"teacher": own, "batch": config.run.batch})


def restore_teacher(run, stage):
    """What `teacher_run` holds of a teacher."""
    key = f"run.{_key(stage.name)}.workdir"
    return training.restore_row(run.workdir, stage, {}, run.placement, key=key)


def frozen_teacher(data: Data, stage, trained):
    """(frozen arrays of a trained teacher, its fingerprint, its row)."""
    name = stage.name
    frozen = {
        key.replace("teacher", name, 1): value
        for key, value in stage.finish(trained.state, {}).items()
    }
    metrics = measured(build_evaluation(stage.networks, measure), trained.state, {}, data)
    row = training.result_row(
        name, [0], [(metrics, trained)], stage.networks["student"], data.inputs
    )
    return frozen, fingerprint(fetch(frozen)), row


def main(config, workdir: Path) -> None:
    data = build_data(config)
    stage = build_stage(config, data, build_networks(config, data)["teacher"])
    run = setup.open_run(config, workdir, data.source.fingerprint)
    _, digest, row = obtain_teacher(config, run, data, stage)
    if not setup.is_first():
        return
    write_results(workdir / "results.json", [row])
    print(f"teacher {digest[:12]}: test accuracy {row['metrics']['accuracy'][0]:.4f}, in {workdir}")


if __name__ == "__main__":
    setup.launch(main)
