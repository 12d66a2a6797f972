"""The built step beside an eager PyTorch loop on the same networks, weights and batch.

Needs torch, which `requirements-parity.txt` names; both run on the CPU with their own threads, in
turn in one process. `ratio` is kdjax's time over PyTorch's, `difference` the largest one between the
students' parameters after three steps of SGD. The models in PyTorch are functional, which is the
least that an eager loop can cost.
"""

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from kdjax.networks.vit import VisionTransformer
from kdjax.train import place
from tools.bench import _pairs, _timing, _torch

ROUNDS = 9


class Case(NamedTuple):
    """A pair, the same two models in PyTorch, and the steps in one reading."""

    pair: Callable[[], _pairs.Pair]
    student: Callable[..., Any]
    teacher: Callable[..., Any]
    steps: int


def mlps():
    """The demo's networks under plain SGD and on one stream of images."""
    return _pairs.demo()._replace(optimiser=optax.sgd(0.05), transfer=False)


def resnets():
    return _pairs.resnets(20, 56, 32)._replace(optimiser=optax.sgd(0.05))


def transformers():
    """6 layers of width 512 teach 3 of width 256, over 65 tokens."""
    return _pairs.Pair(
        student=VisionTransformer(100, 256, 3, 4, 4),
        teacher=VisionTransformer(100, 512, 6, 8, 4),
        image=(32, 32, 3),
        classes=100,
        batch=16,
        optimiser=optax.sgd(0.05),
    )


def _vit(depth, heads):
    return lambda w, x, statistics: _torch.vit(w, x, depth, heads, patch=4)


def _resnet(depth):
    return lambda w, x, statistics: _torch.resnet(w, x, depth, statistics=statistics)


CASES = {
    "cnn_to_mlp": Case(
        mlps, lambda w, x, _: _torch.mlp(w, x, 1), lambda w, x, _: _torch.cnn(w, x, 2), 100
    ),
    "transformer_6x512_to_3x256": Case(transformers, _vit(3, 4), _vit(6, 8), 1),
    "resnet56_to_resnet20": Case(resnets, _resnet(20), _resnet(56), 1),
}


def rows(only=""):
    """One row a pair whose name contains `only`."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("torch is not installed here: requirements-parity.txt names it")
    return [{"name": name, **measure(case, ROUNDS)} for name, case in CASES.items() if only in name]


def measure(case, rounds):
    ours, theirs = Ours(case.pair(), case.steps), Theirs(case, case.steps)
    difference = _apart(case)
    seconds = _timing.interleaved({"ours": ours, "theirs": theirs}, rounds)
    return {**_timing.compared(seconds["ours"], seconds["theirs"]), "difference": difference}


def Ours(pair, steps):
    """`steps` steps of kdjax in one chunk, as its loop runs them."""
    chunk = place(lambda axis: _pairs.scan(pair.build(axis)), _pairs.one_device(), batch_axis=1)
    return _timing.Carried(chunk, pair.state(), pair.frozen(), _pairs.repeated(pair, steps))


class Theirs:
    """`steps` steps of an eager loop with torch's own optimiser, on one batch."""

    def __init__(self, case, steps):
        import torch

        pair = case.pair()
        batch, frozen = pair.batches()["labelled"], pair.frozen()
        self._case, self._pair, self._steps = case, pair, steps
        self._images = _torch.images(batch["image"])
        self._labels = torch.tensor(np.asarray(batch["label"]), dtype=torch.long)
        self._teacher = _torch.weights(frozen["teacher"])
        statistics = frozen["teacher/model"].get("batch_stats")
        self._statistics = None if statistics is None else _torch.weights(statistics)
        self.weights = _torch.weights(pair.state().params["student"], trained=True)
        self._optimiser = torch.optim.SGD(self.weights.values(), lr=0.05)

    def __call__(self):
        import torch

        for _ in range(self._steps):
            with torch.no_grad():
                taught = self._case.teacher(self._teacher, self._images, self._statistics)
            loss = _torch.distillation_loss(
                self._case.student(self.weights, self._images, None), taught, self._labels,
                temperature=self._pair.temperature, weight=self._pair.weight,
            )  # fmt: skip
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()


def _apart(case):
    ours, theirs = Ours(case.pair(), 3), Theirs(case, 3)
    state, _ = ours()
    theirs()
    differences = [
        np.abs(_torch.laid_out(names, np.asarray(leaf)) - _tensor(theirs, names)).max()
        for names, leaf in (
            ([part.key for part in path], leaf)
            for path, leaf in jax.tree.leaves_with_path(state.params["student"])
        )
    ]
    return float(max(differences))


def _tensor(theirs, names):
    return theirs.weights["/".join(names)].detach().numpy()
