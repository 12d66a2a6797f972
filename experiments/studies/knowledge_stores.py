"""What a large teacher knows of made images, kept in a store for a student of a hundredth its size."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods import knowledge_store


def made_digits(bench):
    """Digits drawn from a Gaussian per class, answered by a teacher; looked up, or learned from.

    The generator keeps the half of its draws that the teacher finds most like their class. The head
    and what is looked up have the same weight in an answer.
    """
    options = bench.options
    digits = images.prepare(bench, size=options.size)
    columns = {"image": digits.image, "label": digits.label}
    teacher = networks.multilayer_perceptron(digits.classes, widths=(256, 256))
    learned = bench.fit(
        "teacher", methods.supervised(), {"student": teacher}, digits.shape,
        {"labelled": study.stream(columns, 64, digits.parts.train)},
        steps=options.teacher_steps, batch=64, rate=1e-3, seeds=[0],
    )  # fmt: skip

    def answers(image):
        logits = study.predict(teacher, learned.params["student"], image).logits[0]
        return np.asarray(jax.nn.softmax(logits))

    rng = np.random.default_rng(0)
    image, label = _drawn(rng, digits, 2 * options.entries, options.components)
    said = answers(image)
    fit = np.sort(np.argsort(-said[np.arange(len(label)), label])[: options.entries])
    fit = rng.permutation(fit)
    whole = {"image": image[fit], "label": label[fit], "probabilities": said[fit]}
    network = networks.multilayer_perceptron(
        digits.classes, widths=(options.width,), features=("hidden1",)
    )
    own = digits.stream(options.batch, options.labelled, probabilities=answers(digits.image))

    def scored(store, share):
        def one(params, image):
            def outputs(x):
                return network.apply({"params": params}, x, train=False, rngs={})[0]

            keys, given = outputs(store["image"]).features["hidden1"], outputs(image)
            found = knowledge_store.looked_up(
                given.features["hidden1"], keys, store["probabilities"],
                neighbours=16, temperature=0.1,
            )  # fmt: skip
            return share * jax.nn.softmax(given.logits) + (1 - share) * jnp.exp(found)

        def score(state, seeds, part="validation"):
            del seeds
            of_seeds = jax.jit(lambda params, x: jax.lax.map(lambda p: one(p, x), params))
            return digits.accuracy(lambda x: of_seeds(state.params["student"], x), part)

        return score

    found = {"teacher": {"accuracy": digits.scored(teacher)(learned, [0]).repeat(len(bench.seeds))}}
    few = {name: column[: options.small] for name, column in whole.items()}
    rows = {
        "retrikt": (knowledge_store.retrikt(feature="hidden1"), whole, 0.5),
        "small_store": (knowledge_store.retrikt(feature="hidden1"), few, 0.5),
        "kd": (knowledge_store.retrikt(feature="hidden1", retrieval=0.0), whole, 1.0),
        "alone": (methods.supervised(), whole, 1.0),
    }
    for row, (method, store, share) in rows.items():
        score = scored(store, share)
        streams = {"labelled": own}
        if row != "alone":
            streams["store"] = study.stream(store, options.batch)
        state = bench.fit(
            row, method, {"student": network}, digits.shape, streams,
            steps=options.steps, batch=options.batch, rate=3e-3, score=score,
            frozen={} if row == "alone" else {"store": store},
        )  # fmt: skip
        found[row] = {"accuracy": score(state, bench.seeds, "test")}
    return found


def _drawn(rng, digits, count, components):
    """(images, labels): a Gaussian per class over the first principal components of its images."""
    train = digits.parts.train
    low, high = digits.image.min(), digits.image.max()
    made = []
    for each in range(digits.classes):
        rows = digits.image[train[digits.label[train] == each]].reshape(-1, digits.image[0].size)
        mean = rows.mean(axis=0)
        _, scale, axes = np.linalg.svd(rows - mean, full_matrices=False)
        scale = scale[:components] / np.sqrt(len(rows))
        noise = rng.normal(size=(count // digits.classes, len(scale)))
        made.append(np.clip(mean + (noise * scale) @ axes[:components], low, high))
    label = np.repeat(np.arange(digits.classes, dtype=np.int32), count // digits.classes)
    return np.concatenate(made).reshape(-1, *digits.image.shape[1:]).astype(np.float32), label
