"""Transcripts with a language model's help, frames told ahead: against their formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import methods
from kdjax.networks.speech import frame_labeller, frame_predictor
from kdjax.train import build_train_step, init_state

RNG = np.random.default_rng(0)
B, T, F, N, V, D = 2, 4, 3, 2, 4, 5
ROWS = {
    "frames": RNG.normal(size=(B, T, F)).astype(np.float32),
    "labels": np.array([[1, 3], [2, 0]], np.int32),
    "mask": np.array([[True, True], [True, False]]),
    "states": RNG.normal(size=(B, N, D)).astype(np.float32),
}
OPTIONS = {"width": 8, "heads": 2, "queries": N, "state_width": D}


def stepped(method, network, rate=0.0):
    """(parameters before, metrics as means, the outputs before)."""
    optimisers = {"student": optax.sgd(rate)}
    nets, shape = {"student": network}, {"student": ROWS["frames"]}
    state = jax.jit(
        lambda: init_state(jax.random.key(0), nets, shape, optimisers, hyper=method.hyper)
    )()
    params = jax.tree.map(jnp.copy, state.params["student"])
    step = jax.jit(build_train_step(nets, method.phases, optimisers))
    _, metrics = step(state, {}, {"sequence": ROWS})
    outputs, _ = network.apply({"params": params}, ROWS["frames"], train=False, rngs={})
    return params, {name: float(t / c) for name, (t, c) in metrics.items()}, outputs


def paths_loss(logits, labels):
    """-log of the summed probability of all paths that collapse to the labels, one by one."""
    p, total = np.asarray(jax.nn.softmax(logits), float), 0.0
    for path in itertools.product(range(V), repeat=T):
        said = [x for x, before in zip(path, (0, *path), strict=False) if x and x != before]
        if said == [x for x in labels if x]:
            total += np.prod([p[t, x] for t, x in enumerate(path)])
    return -np.log(total)


def test_transcribed_strips_learn_from_two_heads_and_from_the_language_models_states():
    _, found, outputs = stepped(methods.context_aware_ctc(), frame_labeller(V, **OPTIONS))
    both = [
        paths_loss(logits[b], ROWS["labels"][b])
        for logits in (outputs.features["first"], outputs.logits)
        for b in range(B)
    ]
    np.testing.assert_allclose(found["ctc"], np.mean(both), rtol=1e-4)
    log_q = np.asarray(jax.nn.log_softmax(outputs.features["tokens"]))
    told = -np.take_along_axis(log_q, ROWS["labels"][..., None], -1)[..., 0][ROWS["mask"]]
    np.testing.assert_allclose(found["tokens"], told.mean(), rtol=1e-4)
    a, b = (np.asarray(x)[ROWS["mask"]] for x in (outputs.features["states"], ROWS["states"]))
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(found["states"], (1 - cosine).mean(), rtol=1e-4)


def test_transcribed_strips_feed_back_the_first_heads_guesses_and_hide_some_in_training():
    network = frame_labeller(V, **OPTIONS, feedback=True, hidden_guesses=0.5)
    params = network.init(jax.random.key(0), ROWS["frames"])["params"]

    def last(params, train=False, key=0):
        rngs = {"dropout": jax.random.key(key)} if train else {}
        return network.apply({"params": params}, ROWS["frames"], train=train, rngs=rngs)[0].logits

    slope = jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(last(params)))))(params)
    assert np.abs(np.asarray(slope["head1"]["kernel"])).max() > 0
    assert np.abs(np.asarray(last(params, True, 0)) - np.asarray(last(params, True, 1))).max() > 0
    alone = frame_labeller(V, **OPTIONS)
    params = alone.init(jax.random.key(0), ROWS["frames"])["params"]
    outputs = alone.apply({"params": params}, ROWS["frames"], train=True, rngs={})[0]
    again = alone.apply({"params": params}, ROWS["frames"], train=False, rngs={})[0]
    np.testing.assert_allclose(outputs.logits, again.logits, atol=1e-6)


def test_perturbed_frames_are_told_from_those_before_alone():
    network = frame_predictor(width=6)
    _, found, outputs = stepped(methods.autoregressive_prediction(ahead=2), network)
    told = np.asarray(outputs.features["predicted"])[:, :-2]
    wanted = np.abs(ROWS["frames"][:, 2:] - told).sum(-1).mean()
    np.testing.assert_allclose(found["frames"], wanted, rtol=1e-5)
    params = network.init(jax.random.key(0), ROWS["frames"])["params"]

    def states(frames):
        return network.apply({"params": params}, frames, train=False, rngs={})[0].features["states"]

    slope = np.asarray(
        jax.jit(jax.grad(lambda x: states(x)[0, 1].sum()))(jnp.asarray(ROWS["frames"]))
    )[0]
    assert (np.abs(slope).sum(-1) > 0).tolist() == [True, True, False, False]
