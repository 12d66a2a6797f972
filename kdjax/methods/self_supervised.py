"""Two networks of different kind that learn without labels, each from itself and from the other.

`batch["views"]` holds two views of every image, `first_view` and `second_view`. Both networks give
`embedding` `[B, D]` and `tokens` `[B, N, D]`, or a map `[B, H, W, D]`, of one width D.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kdjax.losses import centred_cross_entropy
from kdjax.losses._arrays import check_fraction, check_not_negative, check_positive
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.networks.search_head import search_head
from kdjax.train.method import Method, one_phase, term

VIEWS = ("first_view", "second_view")
NETWORKS = ("first", "second")
HEADS = ("head", "token_head")


def mokd(
    *,
    prototypes: int = 32,
    hidden: int = 64,
    weight: float = 1.0,
    student_temperature: float = 0.1,
    teacher_temperatures: tuple[float, float] = (0.04, 0.07),
    warm_steps: int = 100,
    decay: Callable = lambda step: 0.99,
    centre_decay: float = 0.9,
) -> Method:
    """DINO for two networks, + weight · (the other's teacher as target, directly and by search).

    Each network has a student and, by a moving average, a teacher; a dense head on its embedding and a
    head that lets a query attend to its tokens. A network's student on one view matches its teacher's
    centred prototypes on the other view, by both heads: this is DINO twice. Across networks its dense
    head matches the other's teacher; and the other teacher's token head, queried with this network's
    detached embedding of its own view, searches its tokens of the other view for what this network's
    token head has to say. With weight 0 both learn alone.

    Song, Xie, Zhang, Luo, "Multi-Mode Online Knowledge Distillation for Self-Supervised Visual
    Representation Learning", 2023; with global views only, and one width for both networks.
    """
    check_positive(
        student_temperature=student_temperature, teacher_temperatures=teacher_temperatures
    )
    check_not_negative(weight=weight)
    check_fraction(centre_decay=centre_decay)

    def head(name):
        def make(shapes):
            embedding = shapes[name].features["embedding"]
            return multilayer_perceptron(prototypes, widths=(hidden,)), embedding

        return make

    def token_head(name):
        def make(shapes):
            features = shapes[name].features
            inputs = {"query": features["embedding"], "tokens": features["tokens"]}
            return search_head(prototypes, hidden=hidden), inputs

        return make

    def prototypes_of(scope, name, features, query, averaged):
        def of(player):
            return {"params": scope.average[player], "train": False} if averaged else {}

        inputs = {"query": query, "tokens": features["tokens"]}
        dense, tokens = f"{name}_head", f"{name}_token_head"
        return {
            "head": scope.apply(dense, features["embedding"], **of(dense))[0].logits,
            "token_head": scope.apply(tokens, inputs, **of(tokens))[0].logits,
        }

    def objective(scope):
        batch = scope.batch["views"]
        start, end = teacher_temperatures
        past = jnp.minimum(scope.step / max(warm_steps, 1), 1.0)
        temperatures = {
            "student_temperature": student_temperature,
            "teacher_temperature": start + (end - start) * past,
        }
        features, own, taught, fixed = {}, {}, {}, {}
        for name in NETWORKS:
            for view in VIEWS:
                key, image = (name, view), batch[view]
                averaged = {"params": scope.average[name], "train": False}
                features[key] = scope.apply(name, image)[0].features
                fixed[key] = scope.apply(name, image, **averaged)[0].features
                queries = [f[key]["embedding"] for f in (features, fixed)]
                own[key] = prototypes_of(scope, name, features[key], queries[0], False)
                taught[key] = prototypes_of(scope, name, fixed[key], queries[1], True)

        def matched(student, teacher, centre):
            teacher = jax.lax.stop_gradient(teacher)
            return centred_cross_entropy(student, teacher, centre, **temperatures)

        terms, centres = {}, {}
        for name, other in zip(NETWORKS, reversed(NETWORKS), strict=True):
            alone, across = jnp.zeros(()), jnp.zeros(())
            for view, opposite in zip(VIEWS, reversed(VIEWS), strict=True):
                student = own[name, view]
                for kind in HEADS:
                    centre = scope.memory[f"{name}_{kind}_centre"]
                    alone += matched(student[kind], taught[name, opposite][kind], centre) / 2
                centre = scope.memory[f"{other}_head_centre"]
                across += matched(student["head"], taught[other, opposite]["head"], centre) / 2
                query = jax.lax.stop_gradient(features[name, view]["embedding"])
                found = prototypes_of(scope, other, fixed[other, opposite], query, True)
                centre = scope.memory[f"{other}_token_head_centre"]
                across += matched(student["token_head"], found["token_head"], centre) / 2
            terms[f"{name}_alone"] = term(alone)
            terms[f"{name}_across"] = term(across, weight=scope.hyper["weight"])
            for kind in HEADS:
                key = f"{name}_{kind}_centre"
                seen = scope.gather([taught[name, view][kind] for view in VIEWS])
                mean = jnp.mean(jnp.stack(seen), axis=(0, 1))
                centres[key] = centre_decay * scope.memory[key] + (1 - centre_decay) * mean
        return terms, {"memory": centres}

    players = {f"{name}_head": head(name) for name in NETWORKS}
    players |= {f"{name}_token_head": token_head(name) for name in NETWORKS}
    trained = (*NETWORKS, *players)
    return one_phase(
        objective,
        trains=trained,
        players=players,
        averages=dict.fromkeys(trained, decay),
        memory={
            f"{name}_{kind}_centre": jnp.zeros(prototypes) for name in NETWORKS for kind in HEADS
        },
        weight=weight,
    )
