"""Two tasks on one image, with a teacher for each, in one student."""

import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods import several_tasks
from kdjax.networks.side_paths import side_paths

TASKS, TEACHERS = ("label", "turn"), ("classes", "turns")


def turned_tasks(bench):
    """The class of a turned digit and its quarter turn; few labels, many images, two teachers.

    The student has a path per teacher, or one wider trunk for the mean of both teachers, or learns
    what they say of their tasks: first from all images, then with labels from the labelled ones. Or it
    is alone with these. All have as many parameters, those aside that end with the distillation, and
    train for as many steps.
    """
    options = bench.options
    digits = images.prepare(bench, size=options.size)
    turn = np.random.default_rng(0).integers(4, size=len(digits.label)).astype(np.int32)
    turned = np.stack([np.rot90(image, k) for image, k in zip(digits.image, turn, strict=True)])
    digits = digits._replace(image=turned)
    wide = {"widths": (128, 128, 128), "features": ("hidden1", "hidden2", "hidden3")}
    nets = {
        name: networks.multilayer_perceptron(classes, **wide)
        for name, classes in zip(TEACHERS, (digits.classes, 4), strict=True)
    }
    found, frozen = {}, {}
    for name, column in (("classes", digits.label), ("turns", turn)):
        taught = digits._replace(label=column)
        learned = bench.fit(
            name, methods.supervised(), {"student": nets[name]}, digits.shape,
            {"labelled": taught.stream(64)}, steps=options.teacher_steps, batch=64, rate=1e-3, seeds=[0],
        )  # fmt: skip
        frozen[name] = study.first(learned.params["student"])
        found[name] = {"accuracy": taught.scored(nets[name])(learned, [0]).repeat(len(bench.seeds))}
    columns = {"turn": turn}
    few = {"labelled": digits.stream(options.batch, options.labelled, **columns)}
    many = {"labelled": digits.stream(options.batch, **columns)}
    sizes = {"tasks": (digits.classes, 4), "teacher_width": 128}
    paths = side_paths(**sizes, paths=2, hidden=options.hidden)
    trunk = side_paths(**sizes, paths=0, hidden=options.wide_hidden)
    own = {"teachers": TEACHERS, "levels": 3}
    rows = {
        "sak": (paths, own),
        "single": (trunk, {**own, "averaged": True}),
        "kd": (trunk, {**own, "distilled": 0.0, "soft": 1.0}),
        "alone": (trunk, {**own, "distilled": 0.0}),
    }
    for row, (network, settings) in rows.items():

        def accuracies(state, part, network=network):
            numbers = getattr(digits.parts, part)
            given = study.predict(network, state.params["student"], digits.image[numbers]).features
            return [
                study.right(given[f"task{t}"], column[numbers])
                for t, column in enumerate((digits.label, turn), 1)
            ]

        def score(state, seeds, accuracies=accuracies):
            del seeds
            return sum(accuracies(state, "validation")) / 2

        start, steps = None, options.steps + options.first_steps
        nets["student"] = network
        if row != "alone":
            steps = options.steps
            first = bench.fit(
                f"{row}/first", several_tasks.sak(**settings), nets, digits.shape, many,
                steps=options.first_steps, batch=options.batch, rate=3e-3, frozen=frozen,
            )  # fmt: skip
            start = study.carried(first.params)
        state = bench.fit(
            row, several_tasks.sak(**settings, labels=TASKS), nets, digits.shape, few,
            steps=steps, batch=options.batch, rate=3e-3, frozen=frozen, start=start, score=score,
        )  # fmt: skip
        classes, turns = accuracies(state, "test")
        found[row] = {"classes": classes, "turns": turns}
        if row == "sak":
            given = study.predict(network, state.params["student"], digits.image[digits.parts.test])
            gates = [np.asarray(given.features[f"gates{t}"]).mean(axis=1) for t in (1, 2)]
            found[row]["gates_apart"] = np.abs(gates[0] - gates[1]).sum(axis=-1).mean(axis=-1)
    return found
