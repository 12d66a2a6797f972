"""Images of several domains, and a domain that nobody trained on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import plans, streams, warps
from kdjax.methods import meta_distillation


def turned_digits(bench):
    """Five rotations have an expert each; students meet a sixth, with 24 unlabelled images of it.

    Settings are chosen on a seventh rotation. The training images are dealt to the five domains. The
    unlabelled images are among those that are scored; `experts` is the best of the five on these.
    """
    options = bench.options
    digits = images.prepare(bench, size=options.size)
    train, validation, test = digits.parts.train, digits.parts.validation, digits.parts.test
    dealt = np.array_split(np.random.default_rng(0).permutation(train), len(options.angles))
    angles = (*options.angles, options.validation_angle, options.test_angle)
    image, domain = digits.image.copy(), np.zeros(len(digits.label), np.int32)
    for number, own in enumerate((*dealt, validation, test)):
        image[own], domain[own] = warps.rotated(digits.image[own], angles[number]), number
    turned, few = digits._replace(image=image), np.concatenate(dealt)
    columns = {"image": image, "label": digits.label, "domain": domain}
    network = networks.multilayer_perceptron(digits.classes, widths=(64,), features=("hidden1",))
    experts = bench.fit(
        "experts", methods.supervised(), {"student": network}, digits.shape,
        {"labelled": study.stream(columns, 64, dealt.__getitem__)},
        steps=options.expert_steps, rate=2e-3, seeds=range(len(dealt)),
    )  # fmt: skip
    said = jnp.log(jax.nn.softmax(experts.logits(image)).mean(axis=0))
    plain = bench.compare(
        {"erm": methods.supervised(), "kd": methods.kd(temperature=2.0, weight=0.5)},
        {"student": network}, digits.shape,
        {"labelled": study.stream(
            {**columns, "teacher/logits": np.asarray(said)}, options.batch, few
        )},
        rate=2e-3, measure=turned.accuracy,
    )  # fmt: skip
    method = meta_distillation.meta_dmoe(
        feature="hidden1", support=options.support, experts=len(dealt)
    )
    frozen = {"expert": experts.params["student"]}
    adapted = functools.partial(_adapted, network, method, frozen["expert"], options, turned)
    plan = plans.IndexPlan(few, options.batch, plans.one_group(domain))
    trained = bench.fit(
        "meta_dmoe", method, {"student": network, "expert": network}, digits.shape,
        {"domain": streams.Stream(plan, columns)}, rate=2e-3, frozen=frozen,
        score=lambda trained: adapted(trained, "validation"),
    )  # fmt: skip
    return {
        "experts": turned.accuracy(experts).max(),
        "before": turned.accuracy(trained),
        "meta_dmoe": adapted(trained, "test"),
        **plain,
    }


def _adapted(network, method, experts, options, turned, trained, part):
    """Accuracy on a domain after a step on a few of its images, the mean over draws of these. `[S]`."""
    numbers = getattr(turned.parts, part)
    image, label = turned.image[numbers], turned.label[numbers]
    shapes = dict.fromkeys(("student", "expert"), networks.output_shapes(network, image[:1]))
    mixer, _ = method.players["aggregator"](shapes)
    draws = np.random.default_rng(0).permutation(len(image))[: 10 * options.support]
    supports = image[draws].reshape(10, options.support, *image.shape[1:])

    def outputs(params, image):
        return network.apply({"params": params}, image, train=False, rngs={})[0]

    def one(params, rate):
        def accuracy(support):
            def features(params):
                return outputs(params, support).features["hidden1"]

            tokens = meta_distillation.expert_tokens(features, experts)
            inputs = {"tokens": tokens, "where": jnp.ones(len(options.angles), bool)}
            target, _ = mixer.apply({"params": params["aggregator"]}, inputs, train=False, rngs={})
            moved = meta_distillation.adapted(
                features, params["student"], target.features["mixed"], rate=rate
            )
            return jnp.mean(jnp.argmax(outputs(moved, image).logits, axis=-1) == label)

        return jnp.mean(jax.lax.map(accuracy, supports))

    state = trained.state
    return np.asarray(jax.jit(jax.vmap(one))(dict(state.params), state.hyper["inner_rate"]))
