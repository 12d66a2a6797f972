"""Rounds in which the student's failures steer what the teacher answers next."""

import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import warps
from kdjax.methods import feedback


def competitive_rounds(bench):
    """Difficult images come back distorted, with the teacher's answers, beside some easy ones.

    An image has a stock of distorted copies; what a round adds to a seed's pool are copies of images
    that the row chooses. All rows train equally long. The pools of `kd` and `single` stay as they
    are, those of the others grow equally.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    teacher = networks.multilayer_perceptron(data.classes, widths=options.teacher.widths)
    taught = images.teach(bench, teacher, data)
    base, kind = data.parts.train[: options.images], 1 + options.copies
    whole = np.repeat(data.image[base, None], kind, axis=1)
    rng = np.random.default_rng(0)
    whole[:, 1:] = warps.distorted(rng, whole[:, 1:], turn=0.4, scale=0.2, shift=1.5)
    stock = whole.reshape(-1, *data.image.shape[1:])
    answers = np.asarray(taught.logits(stock))
    truth = np.repeat(data.label[base], kind)
    columns = {
        "image": stock,
        "label": np.argmax(answers, -1).astype(np.int32),
        "teacher/logits": answers,
    }
    net = networks.multilayer_perceptron(data.classes, widths=options.widths)
    first = np.arange(len(base)) * kind
    rows = {
        "kd": None,
        "single": None,
        "random": {"threshold": np.inf},
        "difficult": {"share": 1.0},
        "shuffled": {},
        "comd": {},
    }
    found = {"teacher": taught.accuracy}
    for name, choice in rows.items():
        method = methods.kd(weight=1.0) if name == "kd" else methods.supervised()
        pools, start, rights = [first for _ in bench.seeds], None, []
        for number in range(options.rounds):
            trained = bench.fit(
                f"{name}/{number}", method, {"student": net}, data.shape,
                {"labelled": study.stream(columns, options.batch, pools.__getitem__)},
                steps=options.round_steps, start=start,
            )  # fmt: skip
            start = study.carried(trained.params)
            logits = np.asarray(trained.logits(stock))
            rights.append(np.argmax(logits[:, first], -1) == truth[first])
            if choice is not None:
                gaps = feedback.score_gaps(logits, answers, truth)
                pools = [
                    _grown((seed, number), pool, gaps[seed, pool], options, name, choice)
                    for seed, pool in enumerate(pools)
                ]
        known, wrong = rights[0], ~rights[-1]
        found[name] = {
            "accuracy": data.accuracy(trained),
            "forgotten": np.sum(known & wrong, axis=1) / known.sum(axis=1),
        }
    return found


def _grown(seed, pool, gaps, options, name, choice):
    """A pool with copies of images of its own, which are chosen by their gaps or by others'."""
    rng, kind = np.random.default_rng(seed), 1 + options.copies
    gaps = rng.permutation(gaps) if name == "shuffled" else gaps
    parents = feedback.competitive_choice(
        rng, gaps, options.added, **{"threshold": options.threshold, **choice}
    )
    copies = pool[parents] // kind * kind + rng.integers(1, kind, options.added)
    return np.concatenate([pool, copies])
