"""Methods without data: nothing real is read, and what each term and each step is."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import (
    CLASSES,
    LABELLED,
    assert_close,
    divergence,
    prepared,
)

from kdjax import methods, networks
from kdjax.methods import data_free

MADE = {"image_shape": (4, 4, 1), "image_range": (-1.0, 2.0)}
PLAIN = {**MADE, "teacher_feature": "hidden1", "hidden": 8, "student_steps": 1}
NETS = {
    "student": networks.multilayer_perceptron(CLASSES, widths=(6,)),
    "teacher": networks.multilayer_perceptron(CLASSES, widths=(12, 8), features=("hidden1",)),
}
FROZEN = {"teacher": NETS["teacher"].init(jax.random.key(9), LABELLED["image"])["params"]}
BATCH = {"labelled": {**LABELLED, "index": np.arange(8)}}


def watched(method, number):
    """The method, which also remembers the images that its phase `number` made."""
    phase = method.phases[number]

    def objective(scope):
        terms, updates = phase.objective(scope)
        seen = data_free._images(scope, **MADE)
        return terms, {**updates, "memory": {**updates.get("memory", {}), "seen": seen}}

    phases = list(method.phases)
    phases[number] = phase._replace(objective=objective)
    memory = {**method.memory, "seen": jnp.zeros((8, 4, 4, 1))}
    return method._replace(phases=tuple(phases), memory=memory)


def stepped(method, change=lambda state: state, batch=BATCH):
    state, step = prepared(method, nets=NETS)
    before = change(state)
    after, metrics = step(before, FROZEN, batch)
    return before, {name: float(t / jnp.maximum(c, 1)) for name, (t, c) in metrics.items()}, after


def logits(name, params, image):
    return NETS[name].apply({"params": params}, image, train=False, rngs={})[0].logits


def error(params, image):
    gaps = logits("student", params, image) - logits("teacher", FROZEN["teacher"], image)
    return jnp.mean(jnp.abs(gaps), axis=-1)


def test_adversarial_data_free_reads_no_image_and_no_label():
    method = methods.adversarial_data_free(**{**PLAIN, "student_steps": 3})
    other = {"image": np.zeros_like(LABELLED["image"]), "label": LABELLED["label"][::-1]}
    ends = [
        stepped(method, batch={"labelled": {**BATCH["labelled"], **change}})[2]
        for change in ({}, other)
    ]
    assert_close(ends[0].params, ends[1].params, atol=0)


def test_adversarial_data_free_rewards_sure_even_and_disputed_images():
    method = watched(methods.adversarial_data_free(**PLAIN), 0)
    before, values, after = stepped(method)
    image = after.memory["seen"]
    assert -1.0 < float(image.min()) < float(image.max()) < 2.0
    taught = logits("teacher", FROZEN["teacher"], image)
    p = jax.nn.softmax(taught)
    mean = p.mean(0)
    cooler = [
        jax.nn.softmax(x / 3.0)
        for x in (taught, logits("student", before.params["student"], image))
    ]
    middle = sum(cooler) / 2
    distance = sum(jnp.sum(x * jnp.log(x / middle), axis=-1) for x in cooler) / 2
    hidden = NETS["teacher"].apply({"params": FROZEN["teacher"]}, image, train=False, rngs={})
    expected = {
        "confidence": -jnp.mean(jnp.log(p.max(-1))),
        "balance": jnp.sum(mean * jnp.log10(mean)),
        "activation": -jnp.mean(hidden[0].features["hidden1"]),
        "difference": -jnp.mean(distance),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-4, err_msg=name)


def test_learning_to_retain_descends_through_its_inner_step():
    old = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 4, 1)), jnp.float32)
    method = methods.learning_to_retain(
        **PLAIN, inner_rate=0.5, retention=2.0, stored=3, stored_size=2, store_every=5
    )

    def remember(state):
        images = state.memory["images"].at[0].set(old)
        return state.replace(memory={**state.memory, "images": images, "count": jnp.int32(1)})

    before, _, after = stepped(watched(method, 1), remember)
    new = after.memory["seen"]

    def loss(params, inner=lambda g: g):
        slope = jax.jit(jax.grad(lambda p: jnp.mean(error(p, new))))(params)
        moved = jax.tree.map(lambda p, g: p - 0.5 * inner(g), params, slope)
        return jnp.mean(error(params, jnp.concatenate([new, old]))) + 2 * jnp.mean(
            error(moved, old)
        )

    def ends(gradient):
        own = before.params["student"]
        return jax.tree.map(lambda p, g: p - 0.1 * g, own, gradient(own))

    assert_close(after.params["student"], ends(jax.grad(loss)), atol=1e-5)
    first_order = ends(jax.grad(functools.partial(loss, inner=jax.lax.stop_gradient)))
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), first_order, after.params["student"])
    assert max(jax.tree.leaves(gap)) > 1e-5


def test_learning_to_retain_stores_in_a_ring_and_begins_without_a_memory():
    method = methods.learning_to_retain(**PLAIN, stored=2, stored_size=2, store_every=2)
    state, step = prepared(method, nets=NETS)
    images = []
    for number in range(6):
        state, metrics = step(state, FROZEN, BATCH)
        images.append(state.memory["images"])
        assert int(state.memory["count"]) == (number + 1) // 2
        assert float(metrics["retention"][1]) == (0 if number < 2 else 2)
        assert float(metrics["acquisition"][1]) == (8 if number < 2 else 10)
    changed = [np.abs(a - b).max(axis=(1, 2, 3, 4)) > 0 for a, b in itertools.pairwise(images)]
    assert [list(c) for c in changed[2:]] == [[False, True], [False, False], [True, False]]
    assert changed[0].tolist() == [True, False]


def test_anti_backdoor_permutes_the_inputs_of_the_later_layers():
    teacher = FROZEN["teacher"]
    shuffled = data_free.permuted_inputs(jax.random.key(0), teacher)
    assert_close(shuffled["dense1"], teacher["dense1"], atol=0)
    for name in ("dense2", "head"):
        rows = {tuple(row) for row in np.asarray(teacher[name]["kernel"]).tolist()}
        assert rows == {tuple(row) for row in np.asarray(shuffled[name]["kernel"]).tolist()}
        assert (shuffled[name]["kernel"] != teacher[name]["kernel"]).any()
        assert_close(shuffled[name]["bias"], teacher[name]["bias"], atol=0)


def test_anti_backdoor_seeks_images_on_which_permuted_teachers_differ():
    method = watched(methods.anti_backdoor(**PLAIN, copies=2, start=10), 0)

    def varied(state):
        generator = jax.tree.map(lambda x: 4 * x, state.params["generator"])
        return state.replace(params={**state.params, "generator": generator})

    _, values, after = stepped(method, varied)
    image, keys = after.memory["seen"], jax.random.wrap_key_data(after.memory["permutation"])
    taught = logits("teacher", FROZEN["teacher"], image)
    each = [
        logits("teacher", data_free.permuted_inputs(key, FROZEN["teacher"]), image)
        for key in jax.random.split(keys, 2)
    ]
    shuffled = (each[0] + each[1]) / 2
    alike = np.asarray(shuffled.argmax(-1) == taught.argmax(-1))
    assert 0 < alike.sum() < len(alike)  # both cases are in the batch
    expected = np.asarray(divergence(taught, shuffled))[alike].mean() / CLASSES
    np.testing.assert_allclose(values["vaccine"], -expected, rtol=1e-4)


def test_anti_backdoor_looks_back_late_at_what_changes_the_student_most():
    options = {**PLAIN, "vaccine": 0.0, "copies": 1, "radius": 1.5, "inner_steps": 8}
    _, _, plain = stepped(methods.adversarial_data_free(**PLAIN))
    _, _, early = stepped(methods.anti_backdoor(**options, start=1))
    assert_close(early.params["student"], plain.params["student"])
    before, values, late = stepped(watched(methods.anti_backdoor(**options, start=0), 1))
    image, own = late.memory["seen"], before.params["student"]

    def change(shift):
        moved = logits("student", own, image + 1.5 * shift[None] / jnp.linalg.norm(shift))
        return float(jnp.mean(divergence(logits("student", own, image), moved)))

    drawn = [change(x) for x in np.random.default_rng(0).normal(size=(20, 4, 4, 1))]
    assert values["retrospection"] > max(drawn)
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), late.params, plain.params)
    assert max(jax.tree.leaves(gap["student"])) > 1e-5


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_range": (1.0, 1.0)}, "image_range must rise"),
        ({"student_steps": 0}, "student_steps must be at least 1"),
        ({"balance": -1.0}, "balance must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        methods.adversarial_data_free(**{**PLAIN, **change})
