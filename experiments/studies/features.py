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
    taught = images.teach(bench, teacher, data, features=["hidden2"])
    given = {
        "inputs": data.shape, "frozen": taught.frozen,
        "data": {"labelled": data.stream(options.batch, options.labelled, **taught.columns)},
    }  # fmt: skip

    def of_class(trained, part):
        def logits(image):
            own = trained.outputs(image).features[JOINED]
            return through_head(own, taught.frozen["teacher"]["head"])

        return data.right(logits, part)

    shared = methods.teacher_class(teacher_feature="hidden2")
    tuned = methods.teacher_class(teacher_feature="hidden2", labels=1.0)
    several = {"student": joined, "teacher": teacher}
    first = bench.fit("tuned/apart", shared, several, **given)
    start = study.carried(first.params)
    pair = {"student_feature": "hidden2", "teacher_feature": "hidden2"}
    singles = {"alone": methods.supervised(), "kd": methods.kd(), "hint": methods.hint(**pair)}
    classes = {"class": shared, "tuned": {"method": tuned, "start": start}}
    one = {"student": student, "teacher": teacher}
    return {
        "teacher": taught.accuracy,
        **bench.compare(singles, one, measure=data.accuracy, **given),
        **bench.compare(classes, several, measure=of_class, **given),
    }


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
    taught = images.teach(bench, teacher, before, data, features=states)
    own = taught.frozen["teacher"]
    upper = {"dense1": own["dense2"], "dense2": own["dense3"], "head": own["head"]}
    top = taught.columns["teacher/hidden3"]
    answered, of_heads = images.with_own_heads(bench, data, top, options.labelled)
    few = data.stream(options.batch, options.labelled, **taught.columns)
    nets = {"student": student, "teacher": teacher, "interpreter": interpreter}
    inputs = dict.fromkeys(nets, data.shape)
    inputs["interpreter"] = jax.ShapeDtypeStruct((1, options.teacher), jnp.float32)
    talks = {"low": states[0], "high": states[1], "message": options.message}
    rows = {
        "alone": methods.supervised(),
        "kd": {"method": methods.kd(), "data": {"labelled": answered}},
        "hint": methods.hint(**pair),
        "consistency": methods.talking_models(**talks, interaction=0.0),
        "one_round": methods.talking_models(**talks),
        "two_rounds": methods.talking_models(**talks, rounds=2),
    }
    found = bench.compare(
        rows, nets, inputs, {"labelled": few}, frozen={"teacher": own, "interpreter": upper},
        measure=data.accuracy,
    )  # fmt: skip
    return {"teacher": of_heads, **found}
