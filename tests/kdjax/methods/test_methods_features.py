"""Methods on features: which channels a gate leaves open."""

import jax
import numpy as np
import optax
from method_steps import CLASSES, NETS, stepped

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
