"""The built step beside the same step written by hand in plain JAX.

Both distil the same student with the same optimiser on the same batches, temperature and weight being
traced numbers in both: one step goes through `build_train_step` and `place`, the other is a `jax.grad`
in a `jax.jit`, with a KL divergence of its own. `flops_ratio` and `bytes_ratio` are of XLA's counts
for the two compiled steps, `difference` is the largest one between the parameters that the two end
with. `ratio` is the time of the built step over the other's where many run in one `lax.scan`, as the
loop of kdjax has it; `call_ratio` where every step is called from Python.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax.train import place
from tools.bench import _pairs, _timing

ROUNDS = 15
# Steps in one reading, for it to be well above the noise of clock and system.
CASES = {"mlp": (_pairs.demo, 100), "resnet8_from_resnet14": (lambda: _pairs.resnets(8, 14, 16), 2)}


def rows(only=""):
    """One row a pair of networks whose name contains `only`."""
    return [
        {"name": name, **measure(pair(), steps, ROUNDS), **costs(pair())}
        for name, (pair, steps) in CASES.items()
        if only in name
    ]


def measure(pair, steps, rounds):
    """The two in one scan and step by step, and how far apart they end."""
    scans = {"built": built(pair, steps), "by_hand": by_hand(pair, steps)}
    calls = {"built": built(pair), "by_hand": by_hand(pair)}
    seconds = _timing.interleaved(scans, rounds)
    left, right = scans["built"].state.params["student"], scans["by_hand"].state["params"]
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), left, right)
    several = {
        name: lambda run=run: [run() for _ in range(steps)][-1] for name, run in calls.items()
    }
    called = _timing.interleaved(several, rounds)
    return {
        **_timing.compared(seconds["built"], seconds["by_hand"]),
        "call_ratio": _timing.compared(called["built"], called["by_hand"])["ratio"],
        "difference": max(jax.tree.leaves(apart)),
    }


def costs(pair):
    """FLOPs and bytes of the built step over those of the other."""
    (flops, size), (flops_by_hand, size_by_hand) = built(pair).cost(), by_hand(pair).cost()
    return {"flops_ratio": flops / flops_by_hand, "bytes_ratio": size / size_by_hand}


def built(pair, steps=None):
    """The built step on one batch, or on `steps` of the same batch in one scan."""
    if steps is None:
        step = place(pair.build, _pairs.one_device())
        return _timing.Carried(step, pair.state(), pair.frozen(), pair.batches())
    chunk = place(lambda axis: _pairs.scan(pair.build(axis)), _pairs.one_device(), batch_axis=1)
    return _timing.Carried(chunk, pair.state(), pair.frozen(), _pairs.repeated(pair, steps))


def by_hand(pair, steps=None):
    """The same without anything of kdjax but its models."""
    start = pair.state()
    state = {
        "params": start.params["student"],
        "model": start.model["student"],
        "opt": start.opt["student"],
        "hyper": start.hyper,
    }
    step = _step_by_hand(pair.student, pair.teacher, pair.optimiser)
    step, batch = (
        (step, pair.batches())
        if steps is None
        else (_pairs.scan(step), _pairs.repeated(pair, steps))
    )
    return _timing.Carried(jax.jit(step, donate_argnums=0), state, pair.frozen(), batch)


def _step_by_hand(student, teacher, optimiser):
    def kl(logits, taught, temperature):
        log_p = jax.nn.log_softmax(taught / temperature)
        log_q = jax.nn.log_softmax(logits / temperature)
        return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

    def step(state, frozen, batch):
        temperature, weight = state["hyper"]["temperature"], state["hyper"]["weight"]
        labelled = batch["labelled"]
        images = batch.get("transfer", labelled)["image"]
        variables = {"params": frozen["teacher"], **frozen["teacher/model"]}
        taught = teacher.apply(variables, images, train=False).logits

        def loss(params):
            def forward(images):
                variables = {"params": params, **state["model"]}
                model = list(state["model"])
                return student.apply(variables, images, train=True, mutable=model)

            outputs, model = forward(images)
            kd = jnp.mean(kl(outputs.logits, taught, temperature))
            if "transfer" in batch:
                outputs, _ = forward(labelled["image"])
            labels = jnp.mean(
                optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labelled["label"])
            )
            return weight * kd + (1 - weight) * labels, ({"kd": kd, "labels": labels}, model)

        gradients, (metrics, model) = jax.grad(loss, has_aux=True)(state["params"])
        updates, opt = optimiser.update(gradients, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {**state, "params": params, "model": dict(model), "opt": opt}, metrics

    return step
