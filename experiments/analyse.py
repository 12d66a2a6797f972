"""Reproduces the protocol of an analysis over seeds: closed forms, nothing is trained.

    python -m experiments.analyse --config=configs/logits.py:empsel --workdir=runs/catalogue/empsel

Prints the rows and writes `config.json` and `results.json` into the workdir.
"""

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import setup, tuning
from kdjax.data import sources
from kdjax.methods import closed_forms, gaussian_process
from kdjax.report.results import write_results


def finite_domains(rng, options):
    """Distances to a teacher's table, and how fast they fall with the sample, by kind of access.

    The rates are worst cases, so each has a teacher of its own for every sample size: nearly uniform
    for hard labels, rare labels for the sampled probabilities, rare inputs for full ones.
    """
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


def repeated_self_distillation(rng, options):
    """Kernel ridge regression of a noisy sine over generations, and the share of labels on digits."""
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
    estimated, best = _label_weights(rng, options)
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


def _label_weights(rng, options):
    """The best share of labels on noisy digits: from two fits, and from a grid of them."""
    source = sources.load_tfds("digits")
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


def neighbouring_columns(rng, options):
    """Errors at the unseen pixels of a digit's column, from a few of its own and two beside it."""
    source = sources.load_tfds("digits")
    image = source.columns["image"][rng.choice(len(source), options.images, replace=False), ..., 0]
    height, width = image.shape[1:]
    first = rng.integers(1, width - 3, options.images)
    columns = np.stack([image[i, :, c : c + 3].T for i, c in enumerate(first)]) / 255.0
    order = np.stack([rng.permutation(height) for _ in first])
    seen, unseen = order[:, : options.seen], order[:, options.seen :]
    x = np.linspace(0, 1, height, dtype=np.float32)
    whole = np.tile(x, (len(first), 2))
    points = np.concatenate([whole, x[seen]], axis=1)
    tasks = np.repeat([0, 1, 2], [height, height, options.seen])
    third = [np.take_along_axis(columns[:, 2], rows, axis=1) for rows in (seen, unseen)]
    values = np.concatenate([columns[:, :2].reshape(len(first), -1), third[0]], axis=1)
    mean = values.mean(1, keepdims=True)

    def error(transfer, interaction):
        means = _predicted_column(
            jax.random.key(0), points.astype(np.float32), (values - mean).astype(np.float32), x[unseen], tasks,
            options.rate, transfer, interaction, latent=options.latent, steps=options.steps,
        )  # fmt: skip
        return np.sqrt(np.mean((means + mean - third[1]) ** 2))

    return {
        "interaction": {"error": error(1.0, 1.0)},
        "coregionalised": {"error": error(1.0, 0.0)},
        "independent": {"error": error(0.0, 0.0)},
    }


@functools.partial(jax.jit, static_argnames=("latent", "steps"))
def _predicted_column(
    key, points, values, targets, tasks, rate, transfer, interaction, *, latent, steps
):
    """The third task at `targets` of every image, with parameters that all images share."""
    settings = {"transfer": transfer, "interaction": interaction}
    seen = (points, jnp.broadcast_to(tasks, points.shape))
    parameters = gaussian_process.fit(
        key, seen, values, tasks=3, latent=latent, steps=steps, rate=rate, **settings
    )
    third = np.full(targets.shape, 2)
    one = functools.partial(gaussian_process.predict, parameters, **settings)
    return jax.vmap(one)(seen, values, (targets, third))


PROTOCOLS = {
    "finite_domains": finite_domains,
    "neighbouring_columns": neighbouring_columns,
    "repeated_self_distillation": repeated_self_distillation,
}


def main(config, workdir: Path) -> None:
    protocol = setup.choose("run.protocol", config.run.protocol, PROTOCOLS)
    tuning.check_measurement(config)
    digest = config.run.data.name
    if digest == "digits":
        with setup.reading("run.data"):
            digest = sources.load_tfds("digits").fingerprint
    setup.open_run(config, workdir, digest)
    began = time.perf_counter()
    seeds = list(range(config.run.seeds))
    found = [protocol(np.random.default_rng(seed), config.run.options) for seed in seeds]
    seconds = [(time.perf_counter() - began) / len(seeds)] * len(seeds)
    rows = []
    for name in config.run.rows:
        metrics = {key: [float(each[name][key]) for each in found] for key in found[0][name]}
        rows.append({"name": name, "seeds": seeds, "metrics": {**metrics, "seconds": seconds}})
        means = "  ".join(f"{key} {np.mean(values):.4g}" for key, values in metrics.items())
        print(f"{name:<12} {means}")
    write_results(workdir / "results.json", rows)


if __name__ == "__main__":
    setup.launch(main)
