"""Methods on features: gates of channels, and chunks of a vector that students share out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from method_steps import (
    CLASSES,
    FROZEN,
    LABELLED,
    NETS,
    assert_close,
    descended,
    label_loss,
    outputs,
    stepped,
)

from kdjax import methods, networks
from kdjax.networks import Outputs


def test_aft_closes_the_gates_of_channels_that_the_task_does_not_need():
    rng = np.random.default_rng(1)
    labels = (np.arange(64) % CLASSES).astype(np.int32)
    image = rng.normal(size=(64, 4, 4, 1)).astype(np.float32)
    image[np.arange(64), labels % 4, 0, 0] += 4.0
    noise = jax.random.normal(jax.random.key(3), (16, CLASSES))

    def apply(params, x):
        x = x.reshape(len(x), -1)
        useful = 4 * x[:, :4]  # says the class
        # The rest of the image mixed: large, and of no use for the label.
        distractor = 4 * x[:, 4:] @ noise[4:]
        feature = jax.numpy.concatenate([useful, distractor], axis=1)
        return Outputs(feature[:, :CLASSES], {"hidden1": feature})

    teacher = networks.from_function(lambda key, x: {}, apply, features=("hidden1",))
    method = methods.aft(student_feature="hidden1", teacher_feature="hidden1", weight=3.0)
    _, metrics, after = stepped(
        method,
        steps=300,
        batch={"image": image, "label": labels},
        frozen={"teacher": {}},
        nets={"student": NETS["student"], "teacher": teacher},
        optimiser=optax.adam(2e-2),
    )
    gates = jax.nn.sigmoid(after.params["gates"]["openness"])
    assert metrics["kernel"] < 0.5
    assert float(gates[4:].mean()) < 0.7 * float(gates[:4].mean()), gates


def test_teacher_class_trains_each_student_on_its_own_chunk_of_the_teacher():
    member = networks.multilayer_perceptron(3, widths=(4,))
    nets = {**NETS, "student": networks.side_by_side(member, 4)}
    before, metrics, after = stepped(methods.teacher_class(teacher_feature="hidden1"), nets=nets)
    taught = outputs("teacher", FROZEN["teacher"]).features["hidden1"]

    def loss(params, k):
        given = member.apply({"params": params}, LABELLED["image"], train=False, rngs={})[0]
        return jnp.mean((given.logits - taught[:, 3 * k : 3 * k + 3]) ** 2)

    members = [jax.tree.map(lambda p, k=k: p[k], before.params["student"]) for k in range(4)]
    values, gradients = zip(
        *(jax.value_and_grad(loss)(p, k) for k, p in enumerate(members)), strict=True
    )
    np.testing.assert_allclose(metrics["chunks"], np.mean(values), rtol=1e-5)
    # A member's gradient is that of its own chunk, a quarter of the whole vector, and of no other.
    stacked = jax.tree.map(lambda *g: jnp.stack(g) / 4, *gradients)
    assert_close(after.params["student"], descended(before, {"student": stacked})["student"])


def test_teacher_class_fine_tunes_through_the_teachers_own_last_layer():
    member = networks.multilayer_perceptron(3, widths=(4,))
    nets = {**NETS, "student": networks.side_by_side(member, 4)}
    method = methods.teacher_class(teacher_feature="hidden1", labels=1.0)
    before, metrics, after = stepped(method, nets=nets)
    head = FROZEN["teacher"]["head"]

    def loss(params):
        joined = outputs("student", params, nets=nets).features["joined"]
        return label_loss(joined @ head["kernel"] + head["bias"][None])

    np.testing.assert_allclose(metrics["labels"], loss(before.params["student"]), rtol=1e-5)
    gradients = {"student": jax.jit(jax.grad(loss))(before.params["student"])}
    assert_close(after.params["student"], descended(before, gradients)["student"])


TWO_STATES = ("hidden1", "hidden2")
TALK = {"low": "hidden1", "high": "hidden2", "message": 3}
TALKERS = {
    "student": networks.multilayer_perceptron(CLASSES, widths=(6, 6), features=TWO_STATES),
    "teacher": networks.multilayer_perceptron(CLASSES, widths=(12, 12), features=TWO_STATES),
    "interpreter": networks.multilayer_perceptron(
        CLASSES, widths=(12,), features={"hidden2": "hidden1"}
    ),
}


def talked(**options):
    """(state before, metrics, state after, the frozen teacher and its upper layers) of a step."""
    own = TALKERS["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]
    frozen = {"teacher": own, "interpreter": {"dense1": own["dense2"], "head": own["head"]}}
    method = methods.talking_models(**TALK, **options)
    return *stepped(method, nets=TALKERS, frozen=frozen), jax.tree.map(np.asarray, own)


def dense_relu_dense(params, x):
    hidden = np.maximum(x @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def states(params):
    low = np.maximum(
        LABELLED["image"].reshape(8, -1) @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0
    )
    return low, np.maximum(low @ params["dense2"]["kernel"] + params["dense2"]["bias"], 0)


def apart(x, y):
    def normal(z):
        scale = z.std(1, keepdims=True)
        return (z - z.mean(1, keepdims=True)) / np.where(scale > 1e-6, scale, 1)

    x, y = normal(x), normal(y)
    return float(np.mean((x - y) ** 2))


def test_talking_models_answer_through_the_teachers_own_layers():
    before, metrics, _, own = talked(rounds=2)
    params = jax.tree.map(np.asarray, dict(before.params))
    (low, high), (low_t, high_t) = states(params["student"]), states(own)
    told = dense_relu_dense(params["teacher_encoder"], low_t)
    state = low
    for number in (1, 2):
        sent = dense_relu_dense(params["student_encoder"], state)
        heard = dense_relu_dense(params["teacher_decoder"], sent)
        upper = np.maximum(heard @ own["dense2"]["kernel"] + own["dense2"]["bias"], 0)
        answer = dense_relu_dense(params["teacher_encoder"], upper)
        state = dense_relu_dense(params["student_decoder"], answer)
        ideal = dense_relu_dense(
            params["student_decoder"], dense_relu_dense(params["teacher_encoder"], high_t)
        )
        same = apart(dense_relu_dense(params["student_encoder"], high), answer) + apart(sent, told)
        expected = {
            f"interaction{number}": apart(high, state),
            f"messages{number}": same,
            f"states{number}": apart(heard, low_t) + apart(state, ideal),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-3, err_msg=name)


def test_talking_models_without_weight_is_training_on_labels_alone():
    before, _, after, _ = talked(weight=0.0)
    _, _, plain = stepped(methods.supervised(), nets=TALKERS)
    assert_close(after.params["student"], plain.params["student"])
    for player in ("student_encoder", "teacher_decoder"):
        assert_close(after.params[player], before.params[player], atol=0)
    _, _, silent, _ = talked(interaction=0.0)
    _, _, spoken, _ = talked()
    differs = [
        float(jnp.abs(a - b).max())
        for a, b in zip(*map(jax.tree.leaves, (silent.params, spoken.params)), strict=True)
    ]
    assert max(differs) > 1e-4
