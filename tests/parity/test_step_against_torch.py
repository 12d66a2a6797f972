"""One step of distillation and five losses beside PyTorch; `tools/test.sh --full` runs this folder."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import losses, methods, networks
from kdjax.train import build_train_step, init_state
from tools.bench import _torch

torch = pytest.importorskip(
    "torch", reason="torch is not installed here: requirements-parity.txt names it"
)
F = torch.nn.functional

TEMPERATURE, WEIGHT, RATE = 4.0, 0.9, 0.1
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
PAIRS = {
    "mlp": (
        networks.multilayer_perceptron(10, widths=(24, 16)),
        networks.multilayer_perceptron(10, widths=(32,)),
        lambda w, x: _torch.mlp(w, x, 2),
        lambda w, x: _torch.mlp(w, x, 1),
    ),
    "cnn": (
        networks.small_cnn(10, widths=(6, 8), hidden=16),
        networks.small_cnn(10, widths=(8, 12), hidden=24),
        lambda w, x: _torch.cnn(w, x, 2),
        lambda w, x: _torch.cnn(w, x, 2),
    ),
}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_has_torchs_loss_gradients_and_weights(name):
    student, teacher, torch_student, torch_teacher = PAIRS[name]
    images, labels = normal(0, 32, 8, 8, 2), np.random.default_rng(1).integers(0, 10, 32)
    method, optimisers = methods.kd(temperature=TEMPERATURE, weight=WEIGHT), {"student": None}
    optimisers["student"] = optax.sgd(RATE)
    nets = {"student": student, "teacher": teacher}
    # Three times the usual weights: the teacher is sure of something.
    frozen = {
        "teacher": jax.tree.map(
            lambda x: 3 * x, teacher.init(jax.random.key(1), images[:1])["params"]
        )
    }
    state = init_state(
        jax.random.key(0), nets, {"student": images[:1]}, optimisers, hyper=method.hyper
    )
    weights = _torch.weights(state.params["student"], trained=True)
    taught = _torch.weights(frozen["teacher"])

    step = build_train_step(nets, method.phases, optimisers)
    batch = {"labelled": {"image": jnp.asarray(images), "label": jnp.asarray(labels)}}
    with jax.default_matmul_precision("highest"):
        after, metrics = jax.jit(step)(state, frozen, batch)

    optimiser = torch.optim.SGD(weights.values(), lr=RATE)
    x = _torch.images(images)
    with torch.no_grad():
        logits = torch_teacher(taught, x)
    loss = _torch.distillation_loss(
        torch_student(weights, x), logits, torch.tensor(labels),
        temperature=TEMPERATURE, weight=WEIGHT,
    )  # fmt: skip
    loss.backward()
    optimiser.step()

    means = {key: float(total / count) for key, (total, count) in metrics.items()}
    found = WEIGHT * means["kd"] + (1 - WEIGHT) * means["labels"]
    np.testing.assert_allclose(found, loss.item(), **TOLERANCE)
    moved = 0.0
    for path, before in jax.tree.leaves_with_path(state.params["student"]):
        names = [part.key for part in path]
        updated = after.params["student"]
        for part in names:
            updated = updated[part]
        tensor, what = weights["/".join(names)], "/".join(names)
        # A step of SGD is its gradient: what it moved by, over the learning rate.
        gradient = _torch.laid_out(names, (np.asarray(before) - np.asarray(updated)) / RATE)
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), err_msg=what, **TOLERANCE)
        mine = _torch.laid_out(names, np.asarray(updated))
        np.testing.assert_allclose(mine, tensor.detach().numpy(), err_msg=what, **TOLERANCE)
        moved = max(moved, float(np.abs(gradient).max()))
    assert moved > 0.1


def kl(student, teacher):
    p, q = (F.log_softmax(x / 4.0, -1) for x in (teacher, student))
    return 16.0 * (p.exp() * (p - q)).sum(-1)


def jensen_shannon(student, teacher):
    """beta · KL(teacher ‖ mixture) + (1 - beta) · KL(student ‖ mixture)."""
    p, q = F.softmax(teacher, -1), F.softmax(student, -1)
    mixture = 0.3 * p + 0.7 * q
    return (0.3 * p * (p / mixture).log() + 0.7 * q * (q / mixture).log()).sum(-1)


def attention(student, teacher):
    def flat(x):
        return F.normalize((x**2).mean(-1).flatten(1), dim=1)

    return (flat(student) - flat(teacher)).norm(dim=1)


def similarity(student, teacher):
    def rows(x):
        x = x.flatten(1)
        return F.normalize(x @ x.T, dim=1)

    return (rows(student) - rows(teacher)).pow(2).mean(dim=1)


def distances(student, teacher):
    def scaled(x):
        apart = (x[:, None] - x[None] + torch.eye(len(x))[..., None]).norm(dim=-1)
        apart = apart * (1 - torch.eye(len(x)))
        return apart / (apart.sum() / (len(x) * (len(x) - 1)))

    return F.smooth_l1_loss(scaled(student), scaled(teacher), reduction="none").mean(dim=1)


LOGITS, MAPS, EMBEDDINGS = ((16, 10), (16, 10)), ((6, 4, 4, 5), (6, 4, 4, 7)), ((12, 8), (12, 5))
LOSSES = {
    "softened_kl_divergence": (kl, LOGITS, {"temperature": 4.0}),
    "generalized_jensen_shannon_divergence": (jensen_shannon, LOGITS, {"beta": 0.3}),
    "attention_transfer": (attention, MAPS, {}),
    "similarity_preserving": (similarity, MAPS, {}),
    "relational_distance": (distances, EMBEDDINGS, {}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_torchs_value_and_gradient(name):
    restated, shapes, hyper = LOSSES[name]
    arrays = [normal(k, *shape) for k, shape in enumerate(shapes)]
    student = torch.tensor(arrays[0], requires_grad=True)
    expected = restated(student, torch.tensor(arrays[1])).sum()
    expected.backward()

    def total(student):
        return jnp.sum(getattr(losses, name)(student, jnp.asarray(arrays[1]), **hyper))

    with jax.default_matmul_precision("highest"):
        value, gradient = jax.value_and_grad(total)(jnp.asarray(arrays[0]))
    np.testing.assert_allclose(value, expected.item(), **TOLERANCE)
    np.testing.assert_allclose(gradient, student.grad.numpy(), **TOLERANCE)
