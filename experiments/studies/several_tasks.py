"""Two tasks on one image, with a teacher for each, in one student."""

import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import networks
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
    labels, nets, found, frozen = (digits.label, turn), {}, {}, {}
    for name, column, classes in zip(TEACHERS, labels, (digits.classes, 4), strict=True):
        nets[name] = networks.multilayer_perceptron(classes, **wide)
        own = digits._replace(label=column)
        taught = images.teach(
            bench, nets[name], own, row=name, steps=options.teacher_steps, batch=64, rate=1e-3
        )
        found[name], frozen[name] = taught.accuracy, taught.frozen["teacher"]
    few = {"labelled": digits.stream(options.batch, options.labelled, turn=turn)}
    many = {"labelled": digits.stream(options.batch, turn=turn)}
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

    def measured(trained, part):
        numbers = getattr(digits.parts, part)
        given = trained.outputs(digits.image[numbers]).features
        right = [study.right(given[f"task{t + 1}"], labels[t][numbers]) for t in (0, 1)]
        return dict(zip(TEACHERS, right, strict=True))

    def score(trained):
        right = measured(trained, "validation")
        return (right["classes"] + right["turns"]) / 2

    for row, (network, settings) in rows.items():
        nets["student"], start, steps = network, None, options.steps + options.first_steps
        given = {"rate": 3e-3, "frozen": frozen}
        if row != "alone":
            first = bench.fit(
                f"{row}/first", several_tasks.sak(**settings), nets, digits.shape, many, **given
            )
            start, steps = study.carried(first.params), options.steps
        method = several_tasks.sak(**settings, labels=TASKS)
        trained = bench.fit(
            row, method, nets, digits.shape, few, steps=steps, start=start, score=score, **given
        )
        found[row] = measured(trained, "test")
        if row == "sak":
            given = trained.outputs(digits.image[digits.parts.test]).features
            gates = [np.asarray(given[f"gates{t}"]).mean(axis=1) for t in (1, 2)]
            found[row]["gates_apart"] = np.abs(gates[0] - gates[1]).sum(-1).mean(-1)
    return found
