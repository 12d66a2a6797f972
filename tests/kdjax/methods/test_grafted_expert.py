"""Private gradients, values read from text, and answers written into a frozen model."""

import jax
import jax.numpy as jnp
import numpy as np
from method_steps import LABELLED, NETS, assert_close, label_loss, outputs, prepared

from kdjax import networks
from kdjax.methods import grafted_expert
from kdjax.networks import from_function

STUDENT = {"student": NETS["student"]}


def gradients(**settings):
    """(the parameters before, the gradient that a step of SGD followed)."""
    method = grafted_expert.private_descent(**settings)
    state, step = prepared(method, nets=STUDENT)
    after, _ = step(state, {}, {"labelled": {**LABELLED, "index": np.arange(8)}})
    own = state.params["student"]
    change = jax.tree.map(lambda a, b: (a - b) / 0.1, own, after.params["student"])
    return own, change


def test_private_descent_clips_every_example_alone():
    own, found = gradients(clip=0.5, noise=1e-9, joins=1.0)
    each = [
        jax.jit(
            jax.grad(
                lambda p, i=i: label_loss(
                    outputs("student", p, LABELLED["image"][i : i + 1]).logits,
                    LABELLED["label"][i : i + 1],
                )
            )
        )(own)
        for i in range(8)
    ]
    norms = [np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(g))) for g in each]
    assert min(norms) > 0.5
    clipped = [
        jax.tree.map(lambda x, n=n: x * 0.5 / n, g) for g, n in zip(each, norms, strict=True)
    ]
    assert_close(found, jax.tree.map(lambda *x: sum(x) / 8, *clipped), atol=1e-5)


def test_private_descent_adds_noise_of_the_size_that_is_accounted_for():
    _, found = gradients(clip=1e-6, noise=4e6, joins=0.5)
    drawn = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])
    # noise · clip / (joins · N), and no signal to speak of.
    assert abs(drawn.std() - 4.0 / 4.0) < 0.15
    assert abs(drawn.mean()) < 0.25


def test_grafted_logits_take_the_pseudo_tokens_for_the_last_embeddings():
    model = networks.decoder_transformer(
        7, width=8, depth=1, heads=2, key_heads=2, hidden=16, scan=False
    )
    prompt = jnp.array([[0, 3, 5, 6], [2, 1, 5, 6]], jnp.int32)
    params = model.init(jax.random.key(0), prompt)["params"]
    pseudo = jax.random.normal(jax.random.key(1), (2, 2, 8))

    def answer(params, tokens):
        return model.apply({"params": params}, tokens, train=False, rngs={})[0].logits

    found = grafted_expert.grafted_logits(answer, params, prompt, pseudo, (1, 4))
    for row in range(2):
        changed = {**params, "embedding": params["embedding"].at[5:].set(pseudo[row])}
        np.testing.assert_allclose(
            found[row], answer(changed, prompt[row : row + 1])[0, -1, jnp.array([1, 4])], rtol=1e-5
        )


def test_write_answers_trains_the_decoder_alone_and_through_the_frozen_model():
    expert = from_function(
        lambda key, x: {"w": jnp.eye(2)},
        lambda params, x: 3 * x.reshape(len(x), -1)[:, :2] @ params["w"],
    )
    model = from_function(
        lambda key, x: {"embedding": jax.random.normal(key, (6, 3))},
        lambda params, x: (
            (params["embedding"][x.reshape(len(x), -1).astype(int)].sum(1, keepdims=True))
            @ params["embedding"].T
        ),
    )
    nets = {"expert": expert, "language_model": model}
    frozen = {
        "expert": {"w": jnp.eye(2)},
        "language_model": {"embedding": jax.random.normal(jax.random.key(2), (6, 3))},
    }
    method = grafted_expert.write_answers(width=3, count=2, classes=(0, 2))
    state, step = prepared(method, nets=nets)
    assert set(state.params) == {"decoder"}
    rng = np.random.default_rng(0)
    rows = {
        "features": rng.normal(size=(5, 2)).astype(np.float32),
        "prompt": np.tile(np.array([[1, 3, 4, 5]], np.int32), (5, 1)),
        "label": np.array([0, 1, 0, 1, 1], np.int32),
    }
    _, metrics = step(state, frozen, {"questions": rows})
    kernel, table = state.params["decoder"]["kernel"], frozen["language_model"]["embedding"]
    losses = []
    for x, label in zip(rows["features"], rows["label"], strict=True):
        pseudo = np.einsum("c,ckd->kd", jax.nn.softmax(3 * x), kernel)
        pseudo = pseudo - pseudo.mean(-1, keepdims=True)
        pseudo = pseudo / np.sqrt((pseudo**2).mean(-1, keepdims=True) + 1e-6)
        logits = (table[1] + table[3] + pseudo.sum(0)) @ table[np.array([0, 2])].T
        losses.append(-jax.nn.log_softmax(logits)[label])
    total, count = metrics["answers"]
    np.testing.assert_allclose(total / count, np.mean(losses), rtol=1e-4)


def test_read_features_gives_every_pad_its_own_map():
    encoder = from_function(
        lambda key, x: {"w": jnp.ones(())},
        lambda params, x: networks.Outputs(
            None, {"hidden": params["w"] * x.reshape(len(x), -1, 2)}
        ),
        features=("hidden",),
    )
    method = grafted_expert.read_features(features=2)
    state, step = prepared(method, nets={"encoder": encoder})
    text = np.random.default_rng(1).normal(size=(3, 4, 2)).astype(np.float32)
    wanted = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    _, metrics = step(state, {}, {"questions": {"text": text, "features": wanted}})
    readout = state.params["readout"]
    found = np.stack([text[:, 2 + f] @ readout["kernel"][f] for f in range(2)], axis=1)
    total, count = metrics["features"]
    np.testing.assert_allclose(total / count, np.mean((found - wanted) ** 2), rtol=1e-5)
