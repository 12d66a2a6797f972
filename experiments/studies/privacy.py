"""Knowledge that leaves private data: votes of many teachers, a noisy expert, planted secrets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import networks
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
    learned = images.teach(bench, source, public, row="source", batch=64, rate=1e-3)
    canvas = public.shape.shape[1:]
    digits = images.prepare(bench, data=sources.load_tfds("digits"))
    half = (len(digits.image), canvas[0] // 2, canvas[1] // 2, canvas[2])
    digits = digits._replace(image=np.asarray(jax.image.resize(digits.image, half, "linear")))
    order = np.random.default_rng(0).permutation(digits.parts.train)
    private, asked = np.split(order, [options.teachers * options.images])
    student = networks.multilayer_perceptron(10, widths=tuple(options.student))
    rows = {
        "prompt_pate": prompted.visual_prompt(source, 10, canvas=canvas),
        "map": prompted.visual_prompt(source, 10, canvas=canvas, prompted=False),
        "scratch": networks.multilayer_perceptron(10, widths=tuple(options.scratch)),
    }
    limits = {
        "threshold": options.threshold * options.teachers, "target": options.epsilon,
        **{key: options[key] for key in ("sigma_threshold", "sigma", "delta")},
    }  # fmt: skip
    found = {"source": learned.accuracy}
    for row, network in rows.items():
        given = {} if row == "scratch" else {"source": learned.frozen["teacher"]}
        votes = functools.partial(_votes, network, given)
        teachers = bench.fit(
            f"{row}/teachers",
            private_methods.private_teachers(
                network, copies=options.teachers, image=digits.shape, radius=options.radius
            ),
            {}, {}, {"labelled": _parts(digits, private)}, steps=options.teacher_steps, rate=0.01,
            frozen={"teachers": given},
            score=lambda trained, votes=votes: digits.right(
                functools.partial(votes, trained), "validation"
            ),
        )  # fmt: skip
        counts = votes(teachers, digits.image[asked])
        answers = [
            privacy.answers_within(np.random.default_rng(seed), counts[seed], **limits)
            for seed in bench.seeds
        ]
        answered, answer, spent = map(np.array, zip(*answers, strict=True))
        taught = bench.fit(
            f"{row}/student", private_methods.answered_queries(queries=len(asked)),
            {"student": student}, digits.shape, {"public": {"image": digits.image[asked]}},
            batch=64, rate=1e-3, start=study.carried({}, answered=answered, answer=answer),
            score=lambda trained: digits.accuracy(trained, "validation"),
        )  # fmt: skip
        right = (answer == digits.label[asked]) & answered
        found[row] = {
            "accuracy": digits.accuracy(taught),
            "votes_accuracy": study.right(counts, digits.label[asked]),
            "answered": answered.mean(axis=1),
            "answers_accuracy": right.sum(axis=1) / np.maximum(answered.sum(axis=1), 1),
            "epsilon": spent,
        }
    return found


def _parts(digits, private):
    """All private images in every step, in another order for every seed: one part after the other."""

    def whole(examples, size, seed, steps):
        del seed
        return np.broadcast_to(examples, (len(steps), size))

    def shuffled(seed):
        return np.random.default_rng(seed).permutation(private)

    columns = {"image": digits.image, "label": digits.label}
    return streams.Stream(plans.IndexPlan(shuffled, len(private), whole), columns)


def _votes(network, frozen, teachers, image):
    """`[S, Q, C]`, how many of a seed's ensemble of copies choose a class for an image."""

    def chosen(params):
        variables = {"params": params, "frozen": frozen}
        logits = network.apply(variables, image, train=False, rngs={})[0].logits
        return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])

    def counted(params):
        return jnp.sum(jax.lax.map(chosen, params), axis=0)

    counts = jax.jit(lambda params: jax.lax.map(counted, params))
    return np.asarray(counts(teachers.params["teachers"]))
