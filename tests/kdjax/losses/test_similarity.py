"""`neighbour_similarity` and `cross_modal_affinity` are held with the other losses of a batch's own
candidates, in test_contrastive.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from embedded import RNG, SIZE, S, T, U, cos, double, kl, softmax, unit

from kdjax import losses
from kdjax.losses import similarity


def test_queue_similarity_is_the_definitions():
    queue = U[:4]
    values = []
    for a, b in zip(S, T, strict=True):
        rows = [b, *queue]
        q = softmax(np.array([cos(a, d) for d in rows]) / 0.3)
        p = softmax(np.array([cos(b, d) for d in rows]) / 0.2)
        values.append(kl(p, q))
    ours = double(
        losses.queue_similarity, S, T, queue, student_temperature=0.3, teacher_temperature=0.2
    )
    np.testing.assert_allclose(ours, values)


def test_anchor_similarity_is_the_definitions():
    student, anchors = RNG.standard_normal((SIZE, 3)), RNG.standard_normal((5, 3))
    q = softmax(unit(student) @ unit(anchors).T / 0.3)
    p = softmax(unit(T) @ unit(U[:5]).T / 0.2)
    ours = double(
        losses.anchor_similarity,
        student,
        T,
        anchors,
        U[:5],
        student_temperature=0.3,
        teacher_temperature=0.2,
    )
    np.testing.assert_allclose(ours, kl(p, q))


def test_self_supervised_similarity_is_the_definitions():
    student, originals = RNG.standard_normal((SIZE, 3)), RNG.standard_normal((2, 3))
    q = softmax(unit(student) @ unit(originals).T / 0.5)
    p = softmax(unit(T) @ unit(U[:2]).T / 0.5)
    ours = double(losses.self_supervised_similarity, student, T, originals, U[:2])
    np.testing.assert_allclose(ours, 0.25 * kl(p, q))


def test_least_wrong_keeps_the_right_and_the_best_of_the_wrong():
    scores = jnp.array(
        [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]
    )
    labels = jnp.array([0, 2, 1, 0, 1])
    # Ranks of the right class: 0, 2, 1, 2, 0; of the three wrong rows the third is best.
    for fraction, wanted in [(0.0, [0, 4]), (0.5, [0, 2, 4]), (0.7, [0, 1, 2, 4])]:
        kept = similarity.least_wrong(scores, labels, fraction=fraction)
        np.testing.assert_array_equal(np.flatnonzero(kept), wanted)
    assert np.all(similarity.least_wrong(scores, labels, fraction=1.0))


def test_widths_that_differ_are_refused_by_name():
    with pytest.raises(ValueError, match="student_embeddings .* and queue .* one width"):
        losses.queue_similarity(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((4, 2)))
