"""Knowledge that leaves private data: votes of many teachers, a noisy expert, planted secrets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import plans, sources, streams
from kdjax.methods import privacy as private_methods
from kdjax.metrics import privacy
from kdjax.networks import prompted


def prompted_teachers(bench):
    """Teachers of private small digits, prompts on a public network of MNIST; votes, then a student.

    Every row may spend the same ε: queries are answered one by one until the accountant, which sees
    the votes, says that the next one would cost more. The choice of rates is not counted.
    """
    options = bench.options
    public = images.prepare(bench)
    source = networks.multilayer_perceptron(public.classes, widths=tuple(options.source))
    learned = bench.fit(
        "source", methods.supervised(), {"student": source}, public.shape,
        {"labelled": public.stream(64)}, steps=options.source_steps, batch=64, rate=1e-3, seeds=[0],
    )  # fmt: skip
    source_params = study.first(learned.params["student"])
    canvas = public.shape.shape[1:]
    digits = images.prepare(bench, data=sources.load_tfds("digits"))
    half = (len(digits.image), canvas[0] // 2, canvas[1] // 2, canvas[2])
    digits = digits._replace(image=np.asarray(jax.image.resize(digits.image, half, "linear")))
    order = np.random.default_rng(0).permutation(digits.parts.train)
    private, asked = np.split(order, [options.teachers * options.images])
    rows = {
        "prompt_pate": prompted.visual_prompt(source, 10, canvas=canvas),
        "map": prompted.visual_prompt(source, 10, canvas=canvas, prompted=False),
        "scratch": networks.multilayer_perceptron(10, widths=tuple(options.scratch)),
    }
    found = {"source": {"accuracy": public.scored(source)(learned, [0]).repeat(len(bench.seeds))}}
    for row, network in rows.items():
        given = {} if row == "scratch" else {"source": source_params}
        votes = functools.partial(_votes, network, given)
        state = bench.fit(
            f"{row}/teachers",
            private_methods.private_teachers(
                network, copies=options.teachers, image=digits.shape, radius=options.radius
            ),
            {}, {}, {"labelled": _parts(digits, private)},
            steps=options.teacher_steps, batch=64, rate=0.01, frozen={"teachers": given},
            score=lambda state, seeds, votes=votes: digits.accuracy(
                lambda image: votes(state.params["teachers"], image), "validation"
            ),
        )  # fmt: skip
        counts = votes(state.params["teachers"], digits.image[asked])
        answered, answer, spent = _answers(bench, counts)
        student = networks.multilayer_perceptron(10, widths=tuple(options.student))
        taught = bench.fit(
            f"{row}/student", private_methods.answered_queries(queries=len(asked)),
            {"student": student}, digits.shape, {"public": {"image": digits.image[asked]}},
            steps=options.student_steps, batch=64, rate=1e-3,
            score=digits.scored(student, "validation"),
            start=study.carried({}, answered=answered, answer=answer),
        )  # fmt: skip
        right = answer == digits.label[asked]
        found[row] = {
            "accuracy": digits.scored(student)(taught, bench.seeds),
            "votes_accuracy": np.mean(counts.argmax(-1) == digits.label[asked], axis=1),
            "answered": answered.mean(axis=1),
            "answers_accuracy": (right & answered).sum(axis=1)
            / np.maximum(answered.sum(axis=1), 1),
            "epsilon": spent,
        }
    return found


def _parts(digits, private):
    """All private images in every step, in another order for every seed: one part after the other."""

    def whole(examples, size, seed, steps):
        del size, seed
        return np.broadcast_to(examples, (len(steps), len(examples)))

    def shuffled(seed):
        return np.random.default_rng(seed).permutation(private)

    columns = {"image": digits.image, "label": digits.label}
    return streams.Stream(plans.IndexPlan(shuffled, len(private), whole), columns)


def _votes(network, frozen, params, image):
    """`[S, Q, C]`, how many of an ensemble's copies `[S, K, ...]` choose a class for an image."""

    def chosen(params):
        variables = {"params": params, "frozen": frozen}
        logits = network.apply(variables, image, train=False, rngs={})[0].logits
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])

    def counted(params):
        return jnp.sum(jax.lax.map(chosen, params), axis=0)

    return np.asarray(jax.jit(lambda params: jax.lax.map(counted, params))(params))


def _answers(bench, counts):
    """(answered `[S, Q]`, labels `[S, Q]`, ε `[S]`) of Confident-GNMax within the run's ε."""
    options, orders = bench.options, privacy.ORDERS
    limit = {"threshold": options.threshold * options.teachers}
    found = []
    for seed in bench.seeds:
        answered, labels = privacy.confident_noisy_max(
            np.random.default_rng(seed), counts[seed], **limit,
            sigma_threshold=options.sigma_threshold, sigma=options.sigma,
        )  # fmt: skip
        cost = privacy.threshold_rdp(counts[seed], orders, **limit, sigma=options.sigma_threshold)
        cost += answered[:, None] * privacy.noisy_max_rdp(counts[seed], orders, sigma=options.sigma)
        total = np.cumsum(cost, axis=0)
        spent = np.array([privacy.epsilon(rdp, orders, options.delta) for rdp in total])
        within = spent <= options.epsilon
        found.append((answered & within, labels, spent[within].max(initial=0.0)))
    return tuple(np.array(each) for each in zip(*found, strict=True))
