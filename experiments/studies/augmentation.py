"""Views of images that are learned, under a teacher who is indifferent to them."""

import jax
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods.augmentation import shifted


def learned_shifts(bench):
    """Centred digits, a teacher who knows them at any place, and tests on digits that were shifted."""
    options = bench.options
    data = images.prepare(bench, options.size)
    teacher = networks.unfolded_cnn(
        data.classes, widths=options.teacher.widths, strides=options.teacher.strides, circular=True
    )
    net = networks.multilayer_perceptron(data.classes, widths=options.widths)
    taught = images.teach(bench, teacher, data)

    moved = data._replace(image=data.image.copy())
    for numbers in (data.parts.validation, data.parts.test):
        size = (len(numbers), 2)
        shifts = np.random.default_rng(1).uniform(-options.reach, options.reach, size)
        moved.image[numbers] = shifted(data.image[numbers], shifts.astype(np.float32))

    def measured(trained, part):
        found = {"shifted": moved.accuracy(trained, part), "accuracy": data.accuracy(trained, part)}
        if part == "test" and "augmentor" in trained.params:
            learned = jax.device_get(trained.params["augmentor"])
            found |= _of_the_augmentor(learned, options.reach, data, taught)
        return found

    rows = {
        "kd": methods.shift_kd(reach=0.0),
        "random": methods.shift_kd(reach=options.reach),
        "unsteady": methods.hard(reach=options.reach, steady_weight=0.0),
        "hard": methods.hard(reach=options.reach),
    }
    few = data.parts.train[: options.images]
    columns = {"image": data.image, "label": data.label}
    found = bench.compare(
        rows, {"student": net, "teacher": teacher}, data.shape,
        {"labelled": study.stream(columns, options.batch, few)}, frozen=taught.frozen,
        measure=measured, score=lambda trained: measured(trained, "validation")["shifted"],
    )  # fmt: skip
    return {"teacher": {"shifted": moved.accuracy(taught.trained)}, **found}


def _of_the_augmentor(learned, reach, data, taught):
    """The mean length of its shifts in pixels, and the teacher's accuracy on images shifted by it."""
    numbers = data.parts.test[:500]
    noise = np.random.default_rng(2).normal(size=(len(numbers), 2))
    lengths, right = [], []
    for mean, log_scale in zip(learned["mean"], learned["log_scale"], strict=True):
        shifts = (reach * np.tanh(mean + np.exp(log_scale) * noise)).astype(np.float32)
        lengths.append(np.mean(np.linalg.norm(shifts, axis=1)))
        image = np.asarray(shifted(data.image[numbers], shifts))
        given = np.argmax(np.asarray(taught.logits(image)), -1)
        right.append(np.mean(given == data.label[numbers]))
    return {"shift": np.array(lengths), "teacher_shifted": np.array(right)}
