"""The teachers and students that the suites share: the demo's, and residual networks for images."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from configs import digits
from experiments import setup
from kdjax import methods
from kdjax.networks import adapters
from kdjax.networks.cifar_resnet import ResNet
from kdjax.networks.cnn import CNN
from kdjax.networks.mlp import MLP
from kdjax.train import build_train_step, init_state, make_mesh, put, replicated


class Pair(NamedTuple):
    """A student's and a teacher's Linen modules, what they see, and how the student is trained."""

    student: Any
    teacher: Any
    image: tuple[int, ...]
    classes: int
    batch: int
    optimiser: optax.GradientTransformation
    transfer: bool = False  # a second stream of unlabelled images, as the demo has it
    temperature: float = 4.0
    weight: float = 0.9

    @property
    def networks(self):
        return {
            "student": adapters.from_linen(self.student),
            "teacher": adapters.from_linen(self.teacher),
        }

    @property
    def optimisers(self):
        return {"student": self.optimiser}

    def method(self):
        return methods.kd(temperature=self.temperature, weight=self.weight)

    def build(self, axis=None):
        """The builder of the pair's distillation step, for `place` and `scanned`."""
        phases = self.method().phases
        return build_train_step(self.networks, phases, self.optimisers, axis=axis)

    def state(self, seed=0, method=None):
        """The student's state before the first step; one axis of replicas for several seeds."""
        hyper = (method or self.method()).hyper

        def fresh(seed):
            key = jax.random.key(seed)
            inputs = {"student": self.inputs}
            return init_state(key, self.networks, inputs, self.optimisers, hyper=hyper)

        made = jax.jit(fresh if isinstance(seed, int) else jax.vmap(fresh))
        return on_one_device(made(seed if isinstance(seed, int) else jnp.asarray(seed)))

    def frozen(self):
        """The teacher's arrays, untrained: a bench needs their shapes, not what they know."""
        made = jax.jit(lambda: self.networks["teacher"].init(jax.random.key(9), self.inputs))()
        frozen = {"teacher": made["params"], "teacher/model": made["model"]}
        return on_one_device(frozen)

    @property
    def inputs(self):
        return jax.ShapeDtypeStruct((1, *self.image), jnp.float32)

    def batches(self):
        """One batch of random images and labels."""
        rng = np.random.default_rng(0)

        def images():
            return jnp.asarray(rng.standard_normal((self.batch, *self.image), np.float32))

        labels = jnp.asarray(rng.integers(0, self.classes, self.batch), jnp.int32)
        batch = {"labelled": {"image": images(), "label": labels}}
        if self.transfer:
            batch["transfer"] = {"image": images()}
        return on_one_device(batch)


def scan(step):
    """Many steps in one program: `batch` leads with the steps."""

    def chunk(state, frozen, batches):
        return jax.lax.scan(lambda state, batch: step(state, frozen, batch), state, batches)

    return chunk


def repeated(pair: Pair, *counts: int):
    """The pair's batch over and over: `[*counts, B, ...]`."""
    return on_one_device(
        jax.tree.map(lambda x: jnp.broadcast_to(x, (*counts, *x.shape)), pair.batches())
    )


def one_device():
    """A mesh of the first device: ratios are of programs, not of placements."""
    return make_mesh("data=1", jax.devices()[:1])


def on_one_device(tree):
    return put(tree, replicated(one_device()))


@functools.cache
def demo() -> Pair:
    """The networks, the batch and the optimiser of `configs/digits.py`."""
    run = digits.get_config().run
    teacher, student, row = run.teacher.network, run.student.network, run.rows.kd
    return Pair(
        student=MLP(10, tuple(student.widths)),
        teacher=CNN(10, tuple(teacher.widths), teacher.hidden),
        image=(8, 8, 1),
        classes=10,
        batch=run.batch,
        optimiser=setup.build_optimiser("student.optimiser", run.student.optimiser, run.steps),
        transfer=True,
        temperature=row.temperature,
        weight=row.weight,
    )


def resnets(student_depth: int, teacher_depth: int, batch: int) -> Pair:
    """Residual networks for 32x32 images in 100 classes, trained by SGD with momentum."""
    return Pair(
        student=ResNet(100, student_depth),
        teacher=ResNet(100, teacher_depth),
        image=(32, 32, 3),
        classes=100,
        batch=batch,
        optimiser=optax.sgd(0.05, momentum=0.9),
    )
