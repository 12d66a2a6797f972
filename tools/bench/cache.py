"""A cached teacher beside a live one: its logits are a column of the stream, by example index.

`ratio` is the time of a step with the live teacher over one with the cache, `flops_ratio` the same of
the products in the two steps, `expected` (F_t + 3 F_s) / (3 F_s) for forward passes of F_t and F_s
over what the student sees. A step costs less than three forward passes where the student's first
layer weighs much, since nothing asks for the gradient of the images: an MLP of one hidden layer.
"""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data import plans, streams
from kdjax.losses import softened_kl_divergence
from kdjax.methods import classification
from kdjax.metrics.cost import count_flops
from kdjax.train import Phase, build_train_step, place, scanned, term
from tools.bench import _pairs, _timing

ROUNDS = 15
EXAMPLES = 256
CASES = {"mlp": (_pairs.demo, 100), "resnet8_from_resnet20": (lambda: _pairs.resnets(8, 20, 16), 2)}


def rows(only=""):
    """One row a pair of networks whose name contains `only`."""
    return [
        {"name": name, **measure(make(), steps, ROUNDS), **flops(make())}
        for name, (make, steps) in CASES.items()
        if only in name
    ]


def measure(pair, steps, rounds):
    runs = {name: run(pair, steps, cached=name == "cached") for name in ("live", "cached")}
    seconds = _timing.interleaved(runs, rounds)
    return _timing.compared(seconds["live"], seconds["cached"])


def flops(pair):
    """The products of the two steps, and what forward passes alone predict of them."""
    live, cached = (
        count_flops(step(pair, cached=cached), pair.state(), pair.frozen(), batch(pair))
        for cached in (False, True)
    )
    (student, *_), (teacher, *_) = (
        (_forward_flops(pair, name), name) for name in ("student", "teacher")
    )
    student *= 1 + pair.transfer
    return {"flops_ratio": live / cached, "expected": (teacher + 3 * student) / (3 * student)}


def _forward_flops(pair, name):
    network, images = pair.networks[name], pair.batches()["labelled"]["image"]
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), pair.inputs))

    def forward(variables, x):
        return network.apply(variables, x, train=False, rngs={})[0].logits

    return count_flops(forward, variables, images)


def step(pair, *, cached, axis=None):
    if not cached:
        return pair.build(axis)

    def objective(scope):
        batch = scope.batch.get("transfer", scope.batch["labelled"])
        student, model = scope.apply("student", batch["image"])
        values = softened_kl_divergence(
            student.logits, batch["teacher"], temperature=scope.hyper["temperature"]
        )
        labels, _ = classification.label_term(scope, weight=1 - scope.hyper["weight"])
        terms = {**labels, "kd": term(values, weight=scope.hyper["weight"])}
        return terms, {"model": {"student": model}}

    phases = (Phase(objective, ("student",)),)
    return build_train_step(pair.networks, phases, pair.optimisers, axis=axis)


def run(pair, steps, *, cached):
    """A chunk of steps over streams of random examples, from the same state in the same order."""
    supply = data(pair, cached=cached)
    chunk = place(
        scanned(lambda axis: step(pair, cached=cached, axis=axis), supply),
        _pairs.one_device(),
        batch_axis=1,
    )
    resident = {name: dict(stream.resident) for name, stream in supply.items()}
    shared = _pairs.on_one_device({"frozen": pair.frozen(), "resident": resident})
    xs = {name: stream.xs(0, 0, steps) for name, stream in supply.items()}
    return _timing.Carried(chunk, pair.state(), shared, xs)


def data(pair, *, cached):
    """The streams of a pair; with the cache, the teacher's logits of every example beside it."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((EXAMPLES, *pair.image), np.float32)
    labels = rng.integers(0, pair.classes, EXAMPLES).astype(np.int32)
    plan = plans.IndexPlan(np.arange(EXAMPLES), pair.batch)
    columns = {"labelled": {"image": images, "label": labels}}
    if pair.transfer:
        columns["transfer"] = {"image": images[::-1]}
    if cached:
        seen = columns["transfer" if pair.transfer else "labelled"]
        seen["teacher"] = logits(pair, jnp.asarray(seen["image"]))
    return {name: streams.Stream(plan, held) for name, held in columns.items()}


def logits(pair, images):
    """The teacher's, of all examples."""
    frozen, network = pair.frozen(), pair.networks["teacher"]
    variables = {"params": frozen["teacher"], "frozen": {}, "model": frozen["teacher/model"]}
    apply = jax.jit(lambda x: network.apply(variables, x, train=False, rngs={})[0].logits)
    return jnp.concatenate([apply(part) for part in jnp.split(images, 4)])


def batch(pair):
    """One batch with the columns of both kinds."""
    batches = pair.batches()
    seen = batches["transfer" if pair.transfer else "labelled"]
    seen["teacher"] = jnp.zeros((pair.batch, pair.classes))
    return batches
