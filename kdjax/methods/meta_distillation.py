"""Distillation that is learned: how a student changes when experts teach it unlabelled images."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses._arrays import check_at_least_one, check_not_negative
from kdjax.networks.token_mixer import token_mixer
from kdjax.train.method import Method, one_phase, term


def meta_dmoe(
    *, feature: str, support: int, experts: int, width: int = 32, inner_rate: float = 0.1
) -> Method:
    """A student that one step of distillation from mixed experts makes fit for a domain.

    `batch["domain"]` holds images of one domain, `support` of them first: the student moves by one
    gradient step of `inner_rate` on mean |f(x) - A(expert features)|², see `adapted`, with the expert
    of that domain hidden from A. What is minimised is its cross-entropy on the other images after that
    step, through the step, by student and A. `frozen["expert"]` are the experts' parameters with a
    leading axis; `feature` is f of the student and of the experts.

    Zhong, Chi, Gu, Wang, Yu, Tang, "Meta-DMoE: Adapting to Domain Shift by Meta-Distillation from
    Mixture-of-Experts", 2022: Adam of 1e-4, an inner rate of 1e-3 and less for sums over features.
    """
    check_at_least_one(support=support, experts=experts, width=width)
    check_not_negative(inner_rate=inner_rate)

    def aggregator(shapes):
        own, theirs = (shapes[name].features[feature].shape[-1] for name in ("student", "expert"))
        inputs = {
            "tokens": jax.ShapeDtypeStruct((1, experts, theirs), jnp.float32),
            "where": jax.ShapeDtypeStruct((experts,), jnp.bool_),
        }
        return token_mixer(own, width=width), inputs

    def objective(scope):
        batch = scope.batch["domain"]
        image, where = batch["image"][:support], jnp.arange(experts) != batch["domain"][0]
        tokens = expert_tokens(
            lambda params: scope.apply("expert", image, params=params)[0].features[feature],
            scope.frozen["expert"],
        )
        target = scope.apply("aggregator", {"tokens": tokens, "where": where})[0].features["mixed"]

        def features(params):
            return scope.apply("student", image, params=params)[0].features[feature]

        own = scope.params["student"]
        moved = adapted(features, own, target, rate=scope.hyper["inner_rate"])
        logits = scope.apply("student", batch["image"][support:], params=moved)[0].logits
        values = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"][support:])
        return {"labels": term(values, couples=True)}, {}

    return one_phase(objective, {"aggregator": aggregator}, inner_rate=inner_rate)


def adapted(features, params, target, *, rate):
    """`params` after one step down the mean squared distance of `features(params)` to `target`.

    Differentiable in `params` and in `target`; both features are `[B, D]`.
    """
    slope = jax.grad(lambda params: jnp.mean(jnp.square(features(params) - target)))(params)
    return jax.tree.map(lambda p, g: p - rate * g, params, slope)


def expert_tokens(features, experts):
    """`[B, M, D]`: `features(params) [B, D]` of every expert, whose trees lead with the axis M."""
    return jnp.moveaxis(jax.vmap(features)(experts), 0, 1)
