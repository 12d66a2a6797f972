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
    taught = images.teach(
        bench, networks.multilayer_perceptron(digits.classes, widths=(256, 256)), digits,
        batch=64, rate=1e-3,
    )  # fmt: skip

    def answers(image):
        return np.asarray(jax.nn.softmax(taught.logits(image)))

    rng = np.random.default_rng(0)
    image, label = images.gaussians(rng, digits, 2 * options.entries, options.components)
    said = answers(image)
    fit = np.sort(np.argsort(-said[np.arange(len(label)), label])[: options.entries])
    fit = rng.permutation(fit)
    whole = {"image": image[fit], "label": label[fit], "probabilities": said[fit]}
    few = {name: column[: options.small] for name, column in whole.items()}
    network = networks.multilayer_perceptron(
        digits.classes, widths=(options.width,), features=("hidden1",)
    )
    own = digits.stream(options.batch, options.labelled, probabilities=answers(digits.image))

    def measured(store, share):
        """A `measure` of the head's answers, of weight `share`, and of what is looked up."""

        def answered(params, image):
            keys, given = (
                network.apply({"params": params}, x, train=False, rngs={})[0]
                for x in (store["image"], image)
            )
            found = knowledge_store.looked_up(
                given.features["hidden1"], keys.features["hidden1"], store["probabilities"],
                neighbours=16, temperature=0.1,
            )  # fmt: skip
            return share * jax.nn.softmax(given.logits) + (1 - share) * jnp.exp(found)

        of_seeds = jax.jit(lambda params, x: jax.lax.map(lambda p: answered(p, x), params))
        return lambda trained, part: digits.right(
            lambda x: of_seeds(trained.params["student"], x), part
        )

    found = {"teacher": taught.accuracy}
    for row, method, store, share in (
        ("retrikt", knowledge_store.retrikt(feature="hidden1"), whole, 0.5),
        ("small_store", knowledge_store.retrikt(feature="hidden1"), few, 0.5),
        ("kd", knowledge_store.retrikt(feature="hidden1", retrieval=0.0), whole, 1.0),
        ("alone", methods.supervised(), whole, 1.0),
    ):
        found |= bench.compare(
            {row: method}, {"student": network}, digits.shape,
            {"labelled": own, "store": study.stream(store, options.batch)}, rate=3e-3,
            frozen={"store": store}, measure=measured(store, share),
        )  # fmt: skip
    return found
