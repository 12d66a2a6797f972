import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import losses
from kdjax.losses import cross_tokenizer

RNG = np.random.default_rng(13)
S, T = 2 * RNG.standard_normal((4, 5)), 2 * RNG.standard_normal((4, 7))
STUDENT_IDS, TEACHER_IDS = np.array([0, 3]), np.array([2, 1])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def ranked_distance(q, p):
    q, p = sorted(q, reverse=True), sorted(p, reverse=True)
    q, p = (x + [0] * (max(len(q), len(p)) - len(x)) for x in (q, p))
    return sum(abs(a - b) for a, b in zip(q, p, strict=True))


def single(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def test_distance_is_l1_between_ranks_with_the_shorter_row_padded():
    q, p = softmax(S / 2), softmax(T / 3)
    wanted = [ranked_distance(list(a), list(b)) for a, b in zip(q, p, strict=True)]
    ours = losses.universal_logit_distance(
        *single(S, T), student_temperature=2.0, teacher_temperature=3.0
    )
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    other = losses.universal_logit_distance(
        *single(T, S), student_temperature=3.0, teacher_temperature=2.0
    )
    np.testing.assert_allclose(other, wanted, rtol=1e-5)


def test_distance_ignores_the_order_of_either_vocabulary():
    plain = losses.universal_logit_distance(*single(S, T))
    shuffled = losses.universal_logit_distance(*single(S[:, ::-1], T[:, [3, 1, 0, 6, 5, 2, 4]]))
    np.testing.assert_allclose(shuffled, plain, rtol=1e-5)
    assert np.all(losses.universal_logit_distance(*single(S, S[:, ::-1])) < 1e-6)


def test_forbidden_classes_only_pad():
    padded = np.concatenate([S, np.full((4, 2), -np.inf)], axis=1)
    ours, slope = jax.vjp(losses.universal_logit_distance, *single(padded, T))
    np.testing.assert_allclose(ours, losses.universal_logit_distance(*single(S, T)), rtol=1e-5)
    assert np.all(np.isfinite(slope(jnp.ones(4))[0]))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_hybrid_is_jensen_shannon_on_matched_ids_and_ranks_on_the_others(beta):
    q, p = softmax(S), softmax(T)
    wanted = []
    for b in range(4):
        a, c = q[b, STUDENT_IDS], p[b, TEACHER_IDS]
        m = beta * c + (1 - beta) * a
        of_teacher, of_student = (c * np.log(c / m)).sum(), (a * np.log(a / m)).sum()
        matched = {0.0: (c * np.log(c / a)).sum(), 1.0: (a * np.log(a / c)).sum()}.get(
            beta, beta * of_teacher + (1 - beta) * of_student
        )
        rest = ranked_distance(
            list(np.delete(q[b], STUDENT_IDS)), list(np.delete(p[b], TEACHER_IDS))
        )
        wanted.append(2 / 7 * matched + 5 / 7 * rest)
    ours = losses.hybrid_logit_distance(*single(S, T), STUDENT_IDS, TEACHER_IDS, beta=beta)
    np.testing.assert_allclose(ours, wanted, rtol=2e-5)
    parts = [
        losses.hybrid_logit_distance(
            *single(S, T),
            STUDENT_IDS,
            TEACHER_IDS,
            beta=beta,
            matched_weight=matched,
            unmatched_weight=unmatched,
        )
        for matched, unmatched in ((0.7, 0.0), (0.0, 0.3), (0.7, 0.3))
    ]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-5)


def test_hybrid_of_two_permuted_vocabularies_that_match_wholly_is_zero_at_the_teacher():
    ids = np.array([4, 0, 3, 1, 2])
    ours = losses.hybrid_logit_distance(*single(S[:, np.argsort(ids)], S), ids, np.arange(5))
    assert np.all(np.abs(ours) < 1e-6)


def walk(student_ends, teacher_ends):
    """The segments by walking both lists of ends, as one would with a pencil."""
    student, teacher, group = [], [], 0
    s = t = 0
    while s < len(student_ends) or t < len(teacher_ends):
        if t == len(teacher_ends) or (s < len(student_ends) and student_ends[s] < teacher_ends[t]):
            student.append(group)
            s += 1
        elif s == len(student_ends) or student_ends[s] > teacher_ends[t]:
            teacher.append(group)
            t += 1
        else:
            student.append(group)
            teacher.append(group)
            s, t, group = s + 1, t + 1, group + 1
    return student, teacher


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([2, 4, 6, 9, 12], [2, 6, 8, 9, 12]),
        ([3, 4, 8, 10], [3, 5, 7, 8, 10]),
        ([1, 2, 3], [3]),
        ([5], [1, 2, 7]),
        ([2, 2, 4], [2, 4]),
        ([2, 4, 4], [2, 4]),
        ([3, 3, 6], [3, 3, 6]),
    ],
)
def test_segments_are_those_of_a_walk_over_both_ends(student, teacher):
    # Two tokens before the text on one side, one after it on the other.
    ends = np.array([[0, 0, *student]]), np.array([[*teacher, teacher[-1]]])
    kept = (
        np.array([[False, False] + [True] * len(student)]),
        np.array([[True] * len(teacher) + [False]]),
    )
    ours = jax.jit(cross_tokenizer.byte_segments)(*ends, *kept)
    wanted = walk(student, teacher)
    assert ours[0].tolist() == [[-1, -1, *wanted[0]]]
    assert ours[1].tolist() == [[*wanted[1], -1]]


def test_segments_skip_tokens_that_are_not_kept_in_the_middle():
    kept = jnp.array([[True, False, True, True]])
    student, _ = cross_tokenizer.byte_segments(
        jnp.array([[2, 0, 4, 6]]), jnp.array([[2, 6]]), kept, jnp.ones((1, 2), bool)
    )
    assert student.tolist() == [[0, -1, 1, 1]]


def merged_case():
    tokens = np.array([[4, 0, 2, 1]]), np.array([[6, 2, 0]])
    segments = np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1]])
    s, t = 2 * RNG.standard_normal((1, 4, 5)), 2 * RNG.standard_normal((1, 3, 7))
    return s, t, tokens, segments


def test_merged_rows_are_joint_probabilities_of_the_earlier_tokens_and_any_last_one():
    s, t, tokens, segments = merged_case()
    ours = losses.merged_universal_logit_distance(*single(s, t), *tokens, *segments)
    q, p = softmax(s[0]), softmax(t[0])
    wanted = [
        ranked_distance(list(q[0, 4] * q[1]), list(p[0])),
        ranked_distance(list(q[2]), list(p[1, 2] * p[2])),
        0.0,  # segment 2 has no token of the teacher
    ]
    np.testing.assert_allclose(ours[0], wanted, rtol=1e-5)


def test_merged_row_at_the_text_is_the_probability_of_the_text():
    s, _, (tokens, _), (segments, _) = merged_case()
    log_q = jax.nn.log_softmax(jnp.asarray(s, jnp.float32))
    merged = cross_tokenizer.merged_log_probs(log_q, tokens, segments, 3)
    of_token = np.take_along_axis(np.asarray(log_q), tokens[..., None], -1)[0, :, 0]
    np.testing.assert_allclose(merged[0, 0, 0], of_token[0] + of_token[1], rtol=1e-5)
    np.testing.assert_allclose(merged[0, 1:, [2, 1]].diagonal(), of_token[2:], rtol=1e-5)


def test_tokens_without_a_segment_do_not_matter():
    s, t, tokens, segments = merged_case()
    spoilt = np.insert(s, 0, np.nan, axis=1)
    ids = np.insert(tokens[0], 0, 0, axis=1), tokens[1]
    numbers = np.insert(segments[0], 0, -1, axis=1), segments[1]

    def total(x):
        return jnp.sum(losses.merged_universal_logit_distance(x, *single(t), *ids, *numbers))

    value, slope = jax.value_and_grad(total)(*single(spoilt))
    plain = losses.merged_universal_logit_distance(*single(s, t), *tokens, *segments)
    np.testing.assert_allclose(value, jnp.sum(plain), rtol=1e-5)
    assert np.all(slope[0, 0] == 0) and np.all(np.isfinite(slope))


def test_one_token_a_segment_is_the_plain_distance():
    s, t = 2 * RNG.standard_normal((2, 3, 5)), 2 * RNG.standard_normal((2, 3, 7))
    tokens, segments = np.zeros((2, 3), int), np.tile(np.arange(3), (2, 1))
    ours = losses.merged_universal_logit_distance(*single(s, t), tokens, tokens, segments, segments)
    np.testing.assert_allclose(ours, losses.universal_logit_distance(*single(s, t)), rtol=1e-5)


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="may differ in their last axis only"):
        losses.universal_logit_distance(*single(S, T[:2]))
    with pytest.raises(ValueError, match="teacher_temperature must be above 0"):
        losses.universal_logit_distance(*single(S, T), teacher_temperature=0.0)
    with pytest.raises(TypeError, match="teacher_matched must be integers"):
        losses.hybrid_logit_distance(*single(S, T), STUDENT_IDS, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="beta must be between 0 and 1"):
        losses.hybrid_logit_distance(*single(S, T), STUDENT_IDS, TEACHER_IDS, beta=2.0)
