"""Trains the teacher of a config on all labels, for many students to share.

    python -m experiments.train_teacher --config=configs/digits.py --workdir=runs/teacher

`experiments.distill` does this itself unless `config.run.teacher.workdir` names such a workdir.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import setup
from kdjax.data import augment, plans, sources, splits, streams
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

    def whole(numbers):
        columns = {name: source.columns[name][numbers] for name in ("image", "label")}
        devices = placement.mesh.size
        size = -(-min(512, len(numbers)) // devices) * devices
        batches = streams.epoch_batches(columns, size, prepare=normalise)
        return setup.place_batches(placement, batches)

    student = {"labelled": stream(labelled, "image", "label")}
    if data.transfer:
        student["transfer"] = stream(parts.transfer, "image")
    image = source.columns["image"]
    return Data(
        source=source,
        classes=source.num_classes,
        splits=parts,
        inputs=jax.ShapeDtypeStruct((1, *image.shape[1:]), jnp.float32),
        student=student,
        teacher={"labelled": stream(parts.train, "image", "label")},
        validation=whole(parts.validation),
        test=whole(parts.test),
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


def build_networks(config, data: Data) -> dict[str, Any]:
    """The teacher, giving the features that some row asks for."""
    asked = {row.teacher_feature for row in config.run.rows.values() if "teacher_feature" in row}
    network = setup.build_network(
        "run.teacher.network",
        config.run.teacher.network,
        data.classes,
        data.inputs,
        asked,
    )
    return {"teacher": network}


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


def build_stage(config, data: Data, network):
    """The teacher's stage; it is the player `student` of its own training."""
    settings = config.run.teacher
    setup.check_range("run.teacher.steps", settings.steps, lambda v: v > 0, "above 0")
    key = "run.teacher.optimiser"
    optimiser = setup.build_optimiser(key, settings.optimiser, settings.steps)
    setup.check_no_decay(key, settings.optimiser, network, data.inputs)
    placement = setup.build_placement(config)
    rules = placement.sharding.get("teacher", ())
    placement = placement._replace(sharding={"student": rules} if rules else {})
    return setup.build_stage(
        "teacher", build_method(config), {"student": network}, {"student": data.inputs},
        optimiser, data.teacher, settings.steps, 0, placement,
    )  # fmt: skip


def obtain_teacher(config, run, data: Data, stage):
    """(frozen arrays of the teacher, its fingerprint, its row): trained here, or where config says."""
    evaluate = build_evaluation(stage.networks, measure)
    elsewhere = config.run.teacher.workdir
    if elsewhere:
        trained = setup.restore_row(
            Path(elsewhere), stage, {}, run.placement, key="run.teacher.workdir"
        )
    else:
        validate = lambda state: summary(evaluate(state, {}, data.validation))
        trained = setup.train_row(run, stage, {}, 0, {}, validate)
    frozen = stage.finish(trained.state, {})
    metrics = summary(evaluate(trained.state, {}, data.test))
    row = setup.result_row(
        "teacher", [0], [(metrics, trained)], stage.networks["student"], data.inputs
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
