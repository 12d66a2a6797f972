"""A store of made examples with a teacher's answers, which a very small student learns to look up in."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import softened_kl_divergence
from kdjax.losses._arrays import check_at_least_one, check_not_negative, check_positive
from kdjax.train.method import Method, one_phase, term


def retrikt(
    *, feature: str, neighbours: int = 16, temperature: float = 0.1, sampled: int = 1000,
    retrieval: float = 1.0,
) -> Method:  # fmt: skip
    """A student's head learns labels and a teacher's answers, its embedding to find answers in a store.

    Cross-entropy on `batch["labelled"]` and KL(teacher ‖ student) on `batch["store"]`, made examples, for
    the head; retrieval · (cross-entropy + KL(teacher ‖ p_R)) on both for `looked_up` p_R among `sampled`
    entries of the store, drawn each step, keys without gradient, an example itself not among them.
    Both streams have `image`, `label` and the teacher's `probabilities`; `frozen["store"]` has `image`
    and `probabilities` of all entries. `retrieval` 0 is distillation on the store.

    After Liu, Liu, Wang, Wang, Cai, Zhao, Wang, Yan, "Retrieval-based Knowledge Transfer: An Effective
    Approach for Extreme Large Language Model Compression", 2023, whose store a language model writes
    under prompts tuned by reinforcement; losses and numbers are a reconstruction.
    """
    check_at_least_one(neighbours=neighbours, sampled=sampled)
    check_positive(temperature=temperature)
    check_not_negative(retrieval=retrieval)

    def objective(scope):
        own, made, store = scope.batch["labelled"], scope.batch["store"], scope.frozen["store"]
        weight = scope.hyper["retrieval"]
        entries = jax.random.randint(
            scope.rng("entries"), (sampled,), 0, len(store["probabilities"])
        )
        keys = scope.apply("student", store["image"][entries])[0].features[feature]
        keys, values = jax.lax.stop_gradient(keys), store["probabilities"][entries]
        terms = {}
        for name, batch in (("labelled", own), ("store", made)):
            student, model = scope.apply("student", batch["image"])
            where = jnp.ones((len(batch["label"]), sampled), bool)
            if name == "store":
                where = batch["index"][:, None] != entries[None]
            found = looked_up(
                student.features[feature], keys, values,
                neighbours=neighbours, temperature=temperature, where=where,
            )  # fmt: skip
            hard = optax.softmax_cross_entropy_with_integer_labels(found, batch["label"])
            taught = jnp.log(jnp.maximum(batch["probabilities"], 1e-12))
            soft = softened_kl_divergence(found, taught)
            terms[f"{name}_retrieval"] = term(hard + soft, weight=weight)
            terms[name] = term(
                optax.softmax_cross_entropy_with_integer_labels(student.logits, batch["label"])
                if name == "labelled"
                else softened_kl_divergence(student.logits, taught)
            )
        return terms, {"model": {"student": model}}

    return one_phase(objective, retrieval=retrieval)


def looked_up(queries, keys, values, *, neighbours, temperature, where=None):
    r"""log p_R `[B, C]`: what the nearest entries of a store say.

    .. math:: p_R = \sum_{j \in N} \operatorname{softmax}_j(\cos(q, k_j) / \tau) \, v_j

    over the `neighbours` entries N of largest cosine; 1e-6 of the mass is spread evenly.

    Args:
        queries: `[B, D]`
        keys: `[M, D]`
        values: `[M, C]`, probabilities.
        neighbours: how many of the M are read.
        temperature: τ.
        where: `[B, M]`, which entries a query may read.

    Raises:
        ValueError: fewer entries than neighbours.
    """
    if len(keys) < neighbours:
        raise ValueError(f"a store of {len(keys)} entries has no {neighbours} neighbours")
    near = _unit(queries) @ _unit(keys).T
    near = near if where is None else jnp.where(where, near, -2.0)
    similarity, chosen = jax.lax.top_k(near, neighbours)
    share = jax.nn.softmax(similarity / temperature, axis=-1)
    p = jnp.einsum("bk,bkc->bc", share, jnp.asarray(values)[chosen])
    return jnp.log((1 - 1e-6) * p + 1e-6 / values.shape[-1])


def _unit(x):
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-8)
