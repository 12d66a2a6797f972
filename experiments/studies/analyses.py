"""Closed forms of drawn tables and of kernel regression: nothing is trained."""

import functools

import numpy as np

from experiments.study import by_seed
from kdjax.data import tables
from kdjax.methods import closed_forms


@by_seed
def finite_domains(rng, bench):
    """Distances to a teacher's table, and how fast they fall with the sample, by kind of access.

    The rates are worst cases, so each has a teacher of its own for every sample size: nearly uniform
    for hard labels, rare labels for the sampled probabilities, rare inputs for full ones.
    """
    options = bench.options
    shape = options.inputs, options.labels

    def distances(teacher, weights, size):
        counts = rng.multinomial(size, (weights[:, None] * teacher).ravel()).reshape(shape)
        students = closed_forms.tabular_students(counts, teacher)
        return {name: weights @ (np.abs(x - teacher).sum(1) / 2) for name, x in students.items()}

    def slope(name, drawn):
        means = [
            np.mean([distances(*drawn(*shape, n), n)[name] for _ in range(options.repeats)])
            for n in options.sizes
        ]
        return np.polyfit(np.log(options.sizes), np.log(means), 1)[0]

    fixed = rng.dirichlet(np.ones(shape[1]), shape[0]), np.full(shape[0], 1 / shape[0])
    found = {name: {"distance": x} for name, x in distances(*fixed, options.sizes[-1]).items()}
    found["hard"]["slope"] = slope("hard", functools.partial(tables.nearly_uniform, rng))
    found["squared"]["slope"] = slope("squared", tables.rare_labels)
    found["full"]["slope"] = slope("full", functools.partial(tables.rare_inputs, rng))
    return {**found, "half": {"slope": -0.5}, "one": {"slope": -1.0}}


@by_seed
def repeated_self_distillation(rng, bench):
    """Kernel ridge regression of a noisy sine over generations, and the share of labels on digits."""
    options = bench.options
    x, grid = (np.linspace(0, 1, count)[:, None] for count in (options.points, 200))
    truth, wanted = (np.sin(2 * np.pi * points[:, 0]) for points in (x, grid))
    y = truth + options.noise * rng.normal(size=options.points)
    inside, outside = (_kernel(points, x, options.gamma) for points in (x, grid))

    def error(targets, strength=options.regularisation):
        fit = outside @ closed_forms.ridge_weights(inside, targets, strength)
        return {"error": np.mean((fit - wanted) ** 2)}

    def after(generations, label_weight=0.0):
        settings = {"label_weight": label_weight, "generations": generations}
        targets = closed_forms.repeated_ridge_fits(
            inside, y, regularisation=options.regularisation, **settings
        )
        return error(targets[-1])

    share = options.label_weight
    estimated, searched = _label_weights(rng, options, bench.source)
    return {
        "once": error(y),
        "pure": after(options.generations),
        "mixed": after(options.generations, share),
        "mixed_limit": after(400, share),
        "amplified": error(y, options.regularisation / share),
        "pure_limit": after(10_000),
        "estimated": {"label_weight": estimated},
        "searched": {"label_weight": searched},
    }


def _label_weights(rng, options, source):
    """The best share of labels on noisy digits: from two fits, and from a grid of them."""
    image = source.columns["image"].reshape(len(source), -1) / 255.0
    train, validation = np.split(rng.permutation(len(source))[: 2 * options.digits], 2)
    one_hot = np.eye(source.num_classes)
    noisy, labels = (one_hot[source.columns["label"][part]] for part in (train, validation))
    wrong = rng.random(options.digits) < options.flipped
    noisy[wrong] = one_hot[rng.integers(source.num_classes, size=wrong.sum())]
    inside, outside = (
        _kernel(image[part], image[train], options.digits_gamma) for part in (train, validation)
    )

    def weights(targets):
        return closed_forms.ridge_weights(inside, targets, options.digits_regularisation)

    taught = inside @ weights(noisy)
    shares = np.linspace(0, 1, 21)
    errors = [
        np.square(labels - outside @ weights(a * noisy + (1 - a) * taught)).mean() for a in shares
    ]
    both = (outside @ weights(targets) for targets in (noisy, taught))
    return closed_forms.best_label_weight(labels, *both), shares[np.argmin(errors)]


def _kernel(left, right, gamma):
    """The Gaussian kernel `[N, M]` of points `[N, D]` and `[M, D]`."""
    return np.exp(-gamma * np.square(left[:, None] - right[None]).sum(-1))
