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
    sizes = {"batch": options.batch, "rate": options.rate}
    taught = images.teach(bench, teacher, data, steps=options.teacher_steps, **sizes)

    def moved(part):
        rng, numbers = np.random.default_rng(1), getattr(data.parts, part)
        shifts = rng.uniform(-options.reach, options.reach, (len(numbers), 2)).astype(np.float32)
        return np.asarray(shifted(data.image[numbers], shifts)), data.label[numbers]

    def right(network, params, image, label):
        return study.right(study.predict(network, params, image).logits, label)

    validation, test = moved("validation"), moved("test")
    count = len(bench.seeds)
    frozen = taught.frozen
    own = study.repeated(frozen["teacher"], [0])
    found = {"teacher": {"shifted": np.repeat(right(teacher, own, *test), count)}}
    rows = {
        "kd": methods.shift_kd(reach=0.0),
        "random": methods.shift_kd(reach=options.reach),
        "unsteady": methods.hard(reach=options.reach, steady_weight=0.0),
        "hard": methods.hard(reach=options.reach),
    }
    few = data.parts.train[: options.images]
    columns = {"image": data.image, "label": data.label}
    for name, method in rows.items():

        def score(state, seeds):
            del seeds
            return right(net, state.params["student"], *validation)

        state = bench.fit(
            name, method, {"student": net, "teacher": teacher}, data.shape,
            {"labelled": study.stream(columns, options.batch, few)},
            steps=options.steps, frozen=frozen, score=score, **sizes,
        )  # fmt: skip
        params = state.params["student"]
        found[name] = {"shifted": right(net, params, *test), "accuracy": data.accuracy(
            lambda image, params=params: study.predict(net, params, image).logits
        )}  # fmt: skip
        if "augmentor" in state.params:
            found[name] |= _of_the_augmentor(
                jax.device_get(state.params["augmentor"]), options.reach, data, teacher, own
            )
    return found


def _of_the_augmentor(learned, reach, data, teacher, taught):
    """The mean length of its shifts in pixels, and the teacher's accuracy on images shifted by it."""
    numbers = data.parts.test[:500]
    noise = np.random.default_rng(2).normal(size=(len(numbers), 2))
    lengths, right = [], []
    for mean, log_scale in zip(learned["mean"], learned["log_scale"], strict=True):
        shifts = (reach * np.tanh(mean + np.exp(log_scale) * noise)).astype(np.float32)
        lengths.append(np.mean(np.linalg.norm(shifts, axis=1)))
        image = np.asarray(shifted(data.image[numbers], shifts))
        given = np.argmax(np.asarray(study.predict(teacher, taught, image).logits[0]), -1)
        right.append(np.mean(given == data.label[numbers]))
    return {"shift": np.array(lengths), "teacher_shifted": np.array(right)}
