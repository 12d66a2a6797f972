"""Retrieval: what each method minimises, from its definition, on scores of a small encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from method_steps import RNG

from kdjax import methods, networks
from kdjax.train import build_train_step, init_state

B, N, V = 4, 6, 5
LAYERS = ("hidden1", "hidden2")
PAIRS = {side: RNG.normal(size=(B, V)).astype(np.float32) for side in ("query", "document")}
PAIRS["index"] = np.array([4, 0, 2, 5], np.int32)
NETS = {
    "student": networks.multilayer_perceptron(3, widths=(4, 4), features=LAYERS),
    "teacher": networks.multilayer_perceptron(6, widths=(8, 8), features=LAYERS),
}
SHAPE = jax.ShapeDtypeStruct((1, V), jnp.float32)
TABLE = RNG.normal(size=(N, N)).astype(np.float32)
FROZEN = {
    "teacher": NETS["teacher"].init(jax.random.key(9), PAIRS["query"])["params"],
    "scores": {"teacher": TABLE},
    "documents": {"bags": RNG.normal(size=(N, V)).astype(np.float32)},
}
OWN = TABLE[PAIRS["index"][:, None], PAIRS["index"][None]]


def stepped(method, memory=None):
    """(parameters before, metrics of one step as means, state after)."""
    state = jax.jit(lambda: init_state(
        jax.random.key(0), NETS, {"student": SHAPE}, {"student": optax.sgd(0.1)},
        hyper=method.hyper, memory={**method.memory, **(memory or {})},
    ))()  # fmt: skip
    step = jax.jit(build_train_step(NETS, method.phases, {"student": optax.sgd(0.1)}))
    after, terms = step(state, FROZEN, {"pairs": PAIRS})
    return state.params["student"], {k: float(t / c) for k, (t, c) in terms.items()}, after


def encoded(name, params, x):
    return NETS[name].apply({"params": params}, x, train=False, rngs={})[0]


def scored(name, params, layer=None):
    q, d = (encoded(name, params, PAIRS[side]) for side in ("query", "document"))
    if layer is None:
        return np.asarray(q.logits @ d.logits.T, float)
    return np.asarray(q.features[layer] @ d.features[layer].T, float)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(p, q):
    p, q = log_softmax(p), log_softmax(q)
    return np.sum(np.exp(p) * (p - q), axis=-1)


def test_cross_to_bi_encoder_weighs_pairs_and_looks_its_teacher_up_by_index():
    params, metrics_, _ = stepped(methods.cross_to_bi_encoder(share=0.5))
    s, own = scored("student", params), np.eye(B, dtype=bool)
    entropy = np.where(own, np.log1p(np.exp(-s)) * (B - 1), np.log1p(np.exp(s)))
    np.testing.assert_allclose(metrics_["labels"], entropy.sum(axis=1).mean(), rtol=1e-5)
    gaps = (s - OWN) ** 2
    expected = np.mean(np.diag(gaps) + (gaps * ~own).sum(1) / B)
    np.testing.assert_allclose(metrics_["scores"], expected, rtol=1e-5)


def test_cross_to_bi_encoder_of_share_one_is_labels_alone():
    alone, taught = (
        stepped(method)[2].params["student"]
        for method in (methods.retrieval(binary=True), methods.cross_to_bi_encoder(share=1.0))
    )
    jax.tree.map(np.testing.assert_array_equal, alone, taught)


def test_retrieval_kd_softens_scores_of_the_batch():
    params, terms, _ = stepped(methods.retrieval_kd(temperature=2.0))
    s = scored("student", params)
    np.testing.assert_allclose(terms["labels"], -np.diag(log_softmax(s)).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["kd"], 4 * divergence(OWN / 2, s / 2).mean(), rtol=1e-4)


def test_lead_weighs_its_layers_by_how_well_the_teachers_find_the_document():
    method = methods.lead(student_layers=LAYERS, teacher_layers=LAYERS, temperature=2.0)
    params, terms, state = stepped(method)
    np.testing.assert_array_equal(state.memory["layers"], [0, 1])
    s = np.stack([scored("student", params, layer) for layer in LAYERS])
    t = np.stack([scored("teacher", FROZEN["teacher"], layer) for layer in LAYERS])
    quality = np.array([np.diag(log_softmax(x)).mean() for x in t])
    shares = np.exp(quality) / np.exp(quality).sum()
    assert abs(shares[0] - shares[1]) > 1e-3
    expected = shares @ [divergence(a / 2, b).mean() for a, b in zip(t, s, strict=True)]
    np.testing.assert_allclose(terms["layers"], expected, rtol=1e-4)


def test_lead_draws_teacher_layers_in_order_and_keeps_them_for_a_while():
    method = methods.lead(student_layers=LAYERS[:1], teacher_layers=LAYERS, redrawn=2)
    kept = [stepped(method, {"layers": jnp.array([n], jnp.int32)})[2] for n in (0, 1)]
    assert kept[0].memory["layers"] == kept[1].memory["layers"], "step 0 draws anew"
    with pytest.raises(ValueError, match="student_layers"):
        methods.lead(student_layers=LAYERS, teacher_layers=LAYERS[:1])


def test_prod_lists_the_own_document_first_and_keeps_what_was_known():
    mined = np.array([[(i + 1) % N, (i + 2) % N] for i in range(N)], np.int32)
    method = methods.prod(candidates=2, temperature=2.0)
    params, terms, _ = stepped(method, {"candidates": mined})
    listed = np.concatenate([PAIRS["index"][:, None], mined[PAIRS["index"]]], axis=1)
    q = np.asarray(encoded("student", params, PAIRS["query"]).logits, float)
    d = np.asarray(encoded("student", params, FROZEN["documents"]["bags"]).logits, float)
    s = np.einsum("bd,bkd->bk", q, d[listed])
    t = TABLE[PAIRS["index"][:, None], listed]
    np.testing.assert_allclose(terms["labels"], -log_softmax(s)[:, 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["kd"], 4 * divergence(t / 2, s / 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(terms["kept"], 0, atol=1e-6)
    other = jax.tree.map(lambda x: x + 0.3, params)
    before = stepped(method, {"candidates": mined, "initial": other})[1]["kept"]
    assert before > 1e-3, "another encoder at the start of the step is something to keep"


def test_pair_scorer_scores_every_query_with_every_document():
    scorer = networks.pair_scorer(width=3, hidden=4)
    shapes = dict.fromkeys(("query", "document"), SHAPE)
    params = scorer.init(jax.random.key(1), shapes)["params"]

    def scores(q, d):
        given = {"query": q, "document": d}
        return scorer.apply({"params": params}, given, train=False, rngs={})[0].logits

    whole = scores(PAIRS["query"], PAIRS["document"])
    assert whole.shape == (B, B)
    one = scores(PAIRS["query"][1:2], PAIRS["document"][2:3])
    np.testing.assert_allclose(one[0, 0], whole[1, 2], rtol=1e-5)
