"""What is looked up in a store, and what a student learns from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import CLASSES, LABELLED, NETS, outputs, prepared

from kdjax.methods import knowledge_store

RNG = np.random.default_rng(0)


def test_looked_up_is_the_mean_of_the_nearest_answers():
    queries, keys = RNG.normal(size=(3, 4)), RNG.normal(size=(9, 4))
    values = RNG.dirichlet(np.ones(CLASSES), 9)
    where = RNG.random((3, 9)) < 0.8
    found = knowledge_store.looked_up(
        jnp.asarray(queries), jnp.asarray(keys), jnp.asarray(values),
        neighbours=4, temperature=0.2, where=jnp.asarray(where),
    )  # fmt: skip
    for i, query in enumerate(queries):
        cosines = keys @ query / np.linalg.norm(keys, axis=1) / np.linalg.norm(query)
        allowed = [j for j in np.argsort(-cosines) if where[i, j]][:4]
        share = np.exp(cosines[allowed] / 0.2)
        expected = (share / share.sum()) @ values[allowed]
        np.testing.assert_allclose(np.exp(found[i]), expected, atol=2e-5)
    with pytest.raises(ValueError, match="no 10 neighbours"):
        knowledge_store.looked_up(queries, keys, values, neighbours=10, temperature=0.2)


def test_retrikt_without_retrieval_is_labels_and_distillation_on_the_store():
    p = RNG.dirichlet(np.ones(CLASSES), 8).astype(np.float32)
    whole = {**LABELLED, "probabilities": p, "index": np.arange(8)}
    frozen = {"store": {"image": LABELLED["image"], "probabilities": p}}

    def stepped(retrieval):
        method = knowledge_store.retrikt(
            feature="hidden1", neighbours=2, sampled=8, retrieval=retrieval
        )
        state, step = prepared(method, nets={"student": NETS["student"]})
        after, metrics = step(state, frozen, {"labelled": whole, "store": whole})
        return state, after, {name: float(t / c) for name, (t, c) in metrics.items()}

    before, after, found = stepped(0.0)
    log_q = jax.nn.log_softmax(outputs("student", before.params["student"]).logits)
    hard = -np.asarray(log_q)[np.arange(8), LABELLED["label"]].mean()
    np.testing.assert_allclose(found["labelled"], hard, rtol=1e-5)
    soft = np.mean(np.sum(p * (np.log(p) - log_q), axis=-1))
    np.testing.assert_allclose(found["store"], soft, rtol=1e-4)
    changed = stepped(1.0)[1]
    kernels = [x.params["student"]["dense1"]["kernel"] for x in (after, changed)]
    assert float(jnp.abs(kernels[0] - kernels[1]).max()) > 1e-5
    heads = [x.params["student"]["head"]["kernel"] for x in (after, changed)]
    np.testing.assert_allclose(*heads, atol=1e-7)
