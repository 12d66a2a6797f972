"""Methods that choose by bandits what a network takes from another one."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses._arrays import check_fraction, check_not_negative
from kdjax.networks.routed import OPERATORS
from kdjax.train.method import Method, Phase, term


def auto_transfer(
    *, layers: int, arms: int, explore: float = 0.1, eta: float = 0.05, matching: float = 1.0
) -> Method:
    """Each layer's adversarial bandits choose a source layer or none, and how it is taken in.

    A step draws a route, trains the student on it (cross-entropy + matching · its `matching`), and
    rewards what was drawn by how far the loss on the stream `held` is below its running mean, in
    [0, 1]: of the arm a, w_a grows by eta · reward / p_a with p = (1 - explore) softmax(w) + explore / A.
    The student is a `networks.routed_perceptron`; both streams hold `image`, `label`, and under
    `source/NAME` the frozen network's layers. `best_route` reads what was learnt from the memory.

    Murugesan, Sadashivaiah, Luss, Shanmugam, Chen, Dhurandhar, "Auto-Transfer: Learning to Route
    Transferrable Representations", 2022; the reward and the numbers are a reconstruction, the bandit is
    that of Auer, Cesa-Bianchi, Freund, Schapire, "The Nonstochastic Multiarmed Bandit Problem", 2002.

    Args:
        layers: of the student.
        arms: how many source layers there are; no layer is one more arm.
        eta: 0 leaves the weights as they begin.
    """
    check_fraction(explore=explore)
    check_not_negative(eta=eta, matching=matching)

    def network_inputs(batch, route):
        prefix = "source/"
        source = {k.removeprefix(prefix): x for k, x in batch.items() if k.startswith(prefix)}
        return {"image": batch["image"], "source": source, **route}

    def losses(scope, stream, route, **options):
        batch = scope.batch[stream]
        given, _ = scope.apply("student", network_inputs(batch, route), **options)
        values = optax.softmax_cross_entropy_with_integer_labels(given.logits, batch["label"])
        return values, given.features["matching"]

    def train(scope):
        route = {
            name: jax.random.categorical(scope.rng(name), jnp.log(probabilities(weights, explore)))
            for name, weights in scope.memory["weights"].items()
        }
        right, apart = losses(scope, "labelled", route)
        terms = {"labels": term(right), "matching": term(apart, weight=scope.hyper["matching"])}
        return terms, {"batch": {"route": route}}

    def reward(scope):
        route, mean = scope.batch["route"], scope.memory["mean"]
        loss = jnp.mean(scope.gather(losses(scope, "held", route, train=False)[0]))
        mean = jnp.where(scope.step == 0, loss, mean)
        gain = (jnp.clip((mean - loss) / (jnp.abs(mean) + 1e-8), -1, 1) + 1) / 2
        before = scope.memory["weights"]
        weights = {
            name: rewarded(held, route[name], gain, eta=scope.hyper["eta"], explore=explore)
            for name, held in before.items()
        }
        taken = (route["arms"] < arms)[:, None]  # where no layer is, no operator did anything
        weights["operators"] = jnp.where(taken, weights["operators"], before["operators"])
        return {}, {"memory": {"weights": weights, "mean": 0.9 * mean + 0.1 * loss}}

    weights = {
        "arms": jnp.zeros((layers, arms + 1)),
        "operators": jnp.zeros((layers, len(OPERATORS))),
    }
    return Method(
        players={},
        phases=(Phase(train, ("student",)), Phase(reward, ())),
        hyper={"eta": eta, "matching": matching},
        memory={"weights": weights, "mean": jnp.zeros(())},
    )


def probabilities(weights, explore):
    """(1 - explore) softmax(w) + explore / A over the last axis: `[..., A]`."""
    return (1 - explore) * jax.nn.softmax(weights, axis=-1) + explore / weights.shape[-1]


def rewarded(weights, drawn, reward, *, eta, explore):
    """The weights `[L, A]` after a reward in [0, 1] for what was `drawn` `[L]`, and for nothing else."""
    chosen = jax.nn.one_hot(drawn, weights.shape[-1], dtype=weights.dtype)
    chances = jnp.where(chosen > 0, probabilities(weights, explore), 1.0)
    return weights + eta * reward * chosen / chances


def best_route(memory):
    """{"arms", "operators"}: int `[..., L]`, of the largest weights."""
    return {name: jnp.argmax(weights, axis=-1) for name, weights in memory["weights"].items()}
