"""Studies of methods on features whose networks or order of training is their own."""

import jax
import jax.numpy as jnp

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import sources
from kdjax.methods.features import through_head
from kdjax.networks.side_by_side import JOINED


def class_of_students(bench):
    """Students that share a teacher's vector out, against one student of as many parameters.

    Only the second part of `tuned`, with labels, has its rate chosen; the first has the recipe's.
    """
    options = bench.options
    data = images.prepare(bench)
    vector, hidden = options.vector, options.hidden
    teacher = networks.multilayer_perceptron(
        data.classes, widths=(options.teacher, vector), features=("hidden2",)
    )
    student = networks.multilayer_perceptron(
        data.classes, widths=(hidden, vector), features=("hidden2",)
    )
    member = networks.multilayer_perceptron(
        vector // options.students, widths=(hidden // options.students,)
    )
    joined = networks.side_by_side(member, options.students)
    settings = {"batch": options.batch, "rate": options.rate}
    taught = images.teach(
        bench, teacher, data, features=["hidden2"], steps=options.teacher_steps, **settings
    )
    few = {"labelled": data.stream(options.batch, options.labelled, **taught.columns)}

    def fit(name, method, network, scored, **others):
        nets = {"student": network, "teacher": teacher}
        return bench.fit(
            name, method, nets, data.shape, few, frozen=taught.frozen,
            score=lambda state, seeds: scored(state, "validation"),
            **{"steps": options.steps, **settings, **others},
        )  # fmt: skip

    def of_single(state, part="test"):
        return data.scored(student, part)(state, None)

    def of_class(state, part="test"):
        def logits(image):
            given = study.predict(joined, state.params["student"], image)
            return through_head(given.features[JOINED], taught.frozen["teacher"]["head"])

        return data.accuracy(logits, part)

    pair = {"student_feature": "hidden2", "teacher_feature": "hidden2"}
    shared = methods.teacher_class(teacher_feature="hidden2")
    tuned = methods.teacher_class(teacher_feature="hidden2", labels=1.0)
    apart = fit("class", shared, joined, of_class)
    first = fit("tuned/apart", shared, joined, of_class, steps=options.apart_steps)
    together = fit(
        "tuned", tuned, joined, of_class,
        start=study.carried(first.params), steps=options.tuned_steps,
    )  # fmt: skip
    singles = {"alone": methods.supervised(), "kd": methods.kd(), "hint": methods.hint(**pair)}
    found = {
        name: of_single(fit(name, method, student, of_single)) for name, method in singles.items()
    }
    found |= {"class": of_class(apart), "tuned": of_class(together), "teacher": taught.accuracy}
    return {name: {"accuracy": values} for name, values in found.items()}


def interactive_communication(bench):
    """A small student of digits that talks with a network trained on other images of digits.

    `kd` has that network's answers by linear heads that learned the same labelled digits.
    """
    options = bench.options
    # The middle, where MNIST has its ink: the digits fill their images.
    before = images.prepare(bench, 8, centre=options.centre)
    data = images.prepare(bench, data=sources.load_tfds("digits"))
    pair = {"student_feature": "hidden3", "teacher_feature": "hidden3"}
    states = ("hidden1", "hidden3")
    teacher, student = (
        networks.multilayer_perceptron(data.classes, widths=(width,) * 3, features=states)
        for width in (options.teacher, options.student)
    )
    # The teacher's second and third layer, from the first one's state on.
    interpreter = networks.multilayer_perceptron(
        data.classes, widths=(options.teacher,) * 2, features={"hidden3": "hidden2"}
    )
    settings = {"batch": options.batch, "rate": options.rate}
    taught = images.teach(
        bench, teacher, before, data, features=states, steps=options.teacher_steps, **settings
    )
    own = taught.frozen["teacher"]
    upper = {"dense1": own["dense2"], "dense2": own["dense3"], "head": own["head"]}
    top = taught.columns["teacher/hidden3"]
    answered, of_heads = images.with_own_heads(
        bench, data, top, options.labelled, steps=options.steps, **settings
    )
    few = data.stream(options.batch, options.labelled, **taught.columns)
    nets = {"student": student, "teacher": teacher, "interpreter": interpreter}
    inputs = dict.fromkeys(nets, data.shape)
    inputs["interpreter"] = jax.ShapeDtypeStruct((1, options.teacher), jnp.float32)
    talks = {"low": states[0], "high": states[1], "message": options.message}
    rows = {
        "alone": methods.supervised(),
        "kd": methods.kd(),
        "hint": methods.hint(**pair),
        "consistency": methods.talking_models(**talks, interaction=0.0),
        "one_round": methods.talking_models(**talks),
        "two_rounds": methods.talking_models(**talks, rounds=2),
    }
    found = {"teacher": of_heads}
    for name, method in rows.items():
        state = bench.fit(
            name, method, nets, inputs, {"labelled": answered if name == "kd" else few},
            frozen={"teacher": own, "interpreter": upper},
            score=data.scored(student, "validation"), steps=options.steps, **settings,
        )  # fmt: skip
        found[name] = data.scored(student)(state, None)
    return {name: {"accuracy": values} for name, values in found.items()}
