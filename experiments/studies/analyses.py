"""Closed forms of drawn tables and of kernel regression: nothing is trained."""

import numpy as np

from experiments.study import by_seed
from kdjax.methods import closed_forms


@by_seed
def finite_domains(rng, bench):
    """Distances to a teacher's table, and how fast they fall with the sample, by kind of access.

    The rates are worst cases, so each has a teacher of its own for every sample size: nearly uniform
    for hard labels, rare labels for the sampled probabilities, rare inputs for full ones.
    """
    options = bench.options
    inputs, labels, sizes = options.inputs, options.labels, np.asarray(options.sizes)

    def risk(teacher, weights, size, names):
        counts = rng.multinomial(size, (weights[:, None] * teacher).ravel()).reshape(teacher.shape)
        found = closed_forms.tabular_students(counts, teacher)
        return {n: weights @ (np.abs(found[n] - teacher).sum(1) / 2) for n in names}

    def slope(make, name):
        means = [
            np.mean([risk(*make(size), size, [name])[name] for _ in range(options.repeats)])
            for size in sizes
        ]
        return np.polyfit(np.log(sizes), np.log(means), 1)[0]

    even = np.full(inputs, 1 / inputs)

    def nearly_uniform(size):
        step = 0.5 * np.sqrt(inputs * labels / size)
        return (1 + step * rng.choice([-1, 1], (inputs, labels // 2, 1)) * [1, -1]).reshape(
            inputs, labels
        ) / labels, even

    def rare_labels(size):
        teacher = np.zeros((inputs, labels))
        teacher[:, 1 : labels // 2] = inputs / size
        teacher[:, 0] = 1 - teacher.sum(1)
        return teacher, even

    def rare_inputs(size):
        weights = np.full(inputs, 1 / size)
        weights[0] = 1 - weights[1:].sum()
        return np.eye(labels)[rng.integers(labels, size=inputs)], weights

    fixed = rng.dirichlet(np.ones(labels), inputs)
    names = ("hard", "weighted", "squared", "full")
    found = {n: {"distance": d} for n, d in risk(fixed, even, sizes[-1], names).items()}
    found["hard"]["slope"] = slope(nearly_uniform, "hard")
    found["squared"]["slope"] = slope(rare_labels, "squared")
    found["full"]["slope"] = slope(rare_inputs, "full")
    return {**found, "half": {"slope": -0.5}, "one": {"slope": -1.0}}


@by_seed
def repeated_self_distillation(rng, bench):
    """Kernel ridge regression of a noisy sine over generations, and the share of labels on digits."""
    options = bench.options
    x, grid = np.linspace(0, 1, options.points), np.linspace(0, 1, 200)
    truth = np.sin(2 * np.pi * x)
    y = truth + options.noise * rng.normal(size=options.points)

    def kernel(a, b):
        return np.exp(-options.gamma * (a[:, None] - b[None]) ** 2)

    def error(targets, strength=options.regularisation):
        fit = kernel(grid, x) @ closed_forms.ridge_weights(kernel(x, x), targets, strength)
        return np.mean((fit - np.sin(2 * np.pi * grid)) ** 2)

    def after(weight, generations):
        targets = closed_forms.repeated_ridge_fits(
            kernel(x, x), y, regularisation=options.regularisation,
            label_weight=weight, generations=generations,
        )  # fmt: skip
        return error(targets[-1])

    a = options.label_weight
    amplified = error(y, options.regularisation / a)
    estimated, best = _label_weights(rng, options, bench.source)
    return {
        "once": {"error": error(y)},
        "pure": {"error": after(0.0, options.generations)},
        "mixed": {"error": after(a, options.generations)},
        "mixed_limit": {"error": after(a, 400)},
        "amplified": {"error": amplified},
        "pure_limit": {"error": after(0.0, 10_000)},
        "estimated": {"label_weight": estimated},
        "searched": {"label_weight": best},
    }


def _label_weights(rng, options, source):
    """The best share of labels on noisy digits: from two fits, and from a grid of them."""
    image = source.columns["image"].reshape(len(source), -1) / 255.0
    order = rng.permutation(len(source))
    train, validation = np.split(order[: 2 * options.digits], 2)
    labels = np.eye(source.num_classes)[source.columns["label"]]
    wrong = rng.random(options.digits) < options.flipped
    noisy = labels[train].copy()
    noisy[wrong] = np.eye(source.num_classes)[rng.integers(source.num_classes, size=wrong.sum())]

    def kernel(rows):
        squared = np.square(image[rows][:, None] - image[train][None]).sum(-1)
        return np.exp(-options.digits_gamma * squared)

    inside, outside = kernel(train), kernel(validation)
    strength = options.digits_regularisation

    def predicted(targets):
        return outside @ closed_forms.ridge_weights(inside, targets, strength)

    taught = inside @ closed_forms.ridge_weights(inside, noisy, strength)
    u, v = predicted(noisy), predicted(taught)
    shares = np.linspace(0, 1, 21)
    errors = [
        np.square(labels[validation] - predicted(a * noisy + (1 - a) * taught)).mean()
        for a in shares
    ]
    return closed_forms.best_label_weight(labels[validation], u, v), shares[np.argmin(errors)]
