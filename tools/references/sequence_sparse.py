"""Adapters for the recorded losses on a teacher's top classes and between two vocabularies."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses
from kdjax.losses import cross_tokenizer, divergences, sparse
from tools.references.registry import Example, covers
from tools.references.sequence import IGNORED, kept, token_mean


def top(x):
    return x["student_logits"], x["teacher_topk_logprobs"], x["teacher_topk_ids"]


# DistillKit: sums over the kept tokens, T² left to the caller; TRL's server, EasyDeL.


def _distillkit(kind):
    dense = [f"distillkit_dense_{kind}_T{t}" for t in (1.0, 2.0)]
    rules = ("zero", "zero_chunk3", "symmetric_uniform", "symmetric_uniform_chunk3")
    return *dense, *(f"distillkit_sparse8_{kind}_T{t}_{rule}" for t in (1.0, 2.0) for rule in rules)


def _token_sum(x, h, on_logits, on_top):
    where, heat = kept(x), h["temperature"]
    if "teacher_logits" in x:
        values = on_logits(x["student_logits"], x["teacher_logits"], temperature=heat, where=where)
    else:
        tail = h["missing"] == "symmetric_uniform"
        values = on_top(*top(x), temperature=heat, tail=tail, where=where)
    return jnp.sum(values) / heat**2


@covers(*_distillkit("kl"))
def distillkit_kl(x, h):
    return _token_sum(x, h, losses.softened_kl_divergence, losses.top_k_kl_divergence)


@covers(*_distillkit("jsd"))
def distillkit_jsd(x, h):
    return _token_sum(
        x,
        h,
        losses.generalized_jensen_shannon_divergence,
        losses.top_k_jensen_shannon_divergence,
    )


@covers(*_distillkit("tvd"))
def distillkit_tvd(x, h):
    return _token_sum(x, h, losses.total_variation_distance, losses.top_k_total_variation_distance)


@covers("distillkit_hinge_margin_auto", "distillkit_hinge_margin0.1")
def distillkit_hinge(x, h):
    values = losses.ranking_hinge(*top(x), margin=h["margin"], where=kept(x))
    return _mean_over_all_pairs(x, values)


@covers("distillkit_logistic_ranking")
def distillkit_logistic_ranking(x, h):
    return _mean_over_all_pairs(x, losses.logistic_ranking(*top(x), where=kept(x)))


def _mean_over_all_pairs(x, values):
    """One mean over the pairs of all kept tokens, from the means of each token."""
    pairs = jnp.sum(sparse.ordered_pairs(x["teacher_topk_logprobs"]), axis=(-2, -1))
    pairs = jnp.where(kept(x), pairs, 0)
    return jnp.sum(values * pairs) / jnp.sum(pairs)


@covers("trl_server_topk8_fkl_tail")
def trl_server_tail(x, h):
    return token_mean(losses.top_k_kl_divergence(*top(x), where=kept(x)), kept(x))


@covers("trl_server_topk8_fkl_notail")
def trl_server_without_tail(x, h):
    # Neither side is renormalised and nothing stands for the rest: the sum may be negative.
    s, log_p, classes = top(x)
    log_q = jnp.take_along_axis(jax.nn.log_softmax(s), classes, axis=-1)
    return token_mean(divergences.kl_of_log_probs(log_q, log_p), kept(x))


@covers("easydel_sparse8_T1.0", "easydel_sparse8_T4.0")
def easydel_sparse(x, h):
    heat, where = h["temperature"], kept(x)
    values = losses.top_k_kl_divergence(*top(x), temperature=heat, tail=False, where=where)
    # A cross entropy: the entropy of the renormalised teacher is not subtracted.
    entropy = divergences.entropy_of_log_probs(
        jax.nn.log_softmax(x["teacher_topk_logprobs"] / heat)
    )
    return h["alpha"] * token_mean(values + heat**2 * entropy, where)


# Universal logit distillation, its relatives, and the alignment of two token sequences.


def answer(labels, skipped=0):
    """(first position, number of tokens) `[B]` of the answers; `skipped` tokens at the end go."""
    valid = labels != IGNORED
    return jnp.argmax(valid, axis=1), jnp.sum(valid, axis=1) - skipped


def span(x, start, length):
    """`[B, length, ...]` from `start` on; what lies beyond the end repeats the last position."""
    places = jnp.clip(start[:, None] + jnp.arange(length)[None], 0, x.shape[1] - 1)
    return jnp.take_along_axis(x, places.reshape(places.shape + (1,) * (x.ndim - 2)), axis=1)


class Answers:
    """Both sides' answers, cut out and put at the front; `late` positions after the predictors."""

    def __init__(self, x, late=0, skip_student=0):
        starts = answer(x["labels"], skip_student), answer(x["teacher_labels_v60"])
        self.length = max(x["labels"].shape[1], x["teacher_labels_v60"].shape[1])
        self.sizes = [size for _, size in starts]
        sides = ("student_logits", "tokens"), ("teacher_logits_v60", "teacher_tokens_v60")
        self.logits, self.tokens = [], []
        for (first, _), (logits, tokens) in zip(starts, sides, strict=True):
            # The logits that predict a token stand one position before it.
            self.logits.append(span(x[logits], jnp.maximum(first - 1, 0) + late, self.length))
            self.tokens.append(span(x[tokens], first, self.length))
        self.first = [first for first, _ in starts]
        self.shared = self.within(jnp.minimum(*self.sizes))

    def within(self, size):
        """[B, length] boolean: the first `size` positions of each answer."""
        return jnp.arange(self.length)[None] < size[:, None]

    def mean(self, values, where):
        """The mean over the tokens of each answer, then over the answers."""
        total = jnp.sum(jnp.where(where, values, 0), axis=1)
        return jnp.mean(total / jnp.sum(where, axis=1))


@covers("uld_original", "uld_original_T_skip", "trl_uld_bayesian_positional")
def universal_logit(x, h):
    answers = Answers(x, skip_student=int(h.get("skip_student_eos", False)))
    values = losses.universal_logit_distance(
        *answers.logits,
        student_temperature=h.get("student_temperature", 1.0),
        teacher_temperature=h.get("teacher_temperature", 1.0),
        where=answers.shared,
    )
    return h.get("distillation_weight", 1.0) * answers.mean(values, answers.shared)


def _softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def _sorted_distance(q, p):
    q, p = -np.sort(-q), -np.sort(-p)
    width = max(len(q), len(p))
    return np.abs(np.pad(q, (0, width - len(q))) - np.pad(p, (0, width - len(p)))).sum()


def _positions(labels):
    return np.flatnonzero(labels != IGNORED)


def _positional_corrected(x, h):
    means = []
    for b in range(len(x["labels"])):
        student, teacher = _positions(x["labels"][b]), _positions(x["teacher_labels_v60"][b])
        values = [
            _sorted_distance(
                _softmax(x["student_logits"][b, i - 1] / h["student_temperature"]),
                _softmax(x["teacher_logits_v60"][b, j - 1] / h["teacher_temperature"]),
            )
            for i, j in zip(student, teacher, strict=False)
        ]
        means.append(np.mean(values))
    return np.mean(means)


LATE = "reads the logits at the answer's tokens instead of those that predict them"
covers(
    "trl_uld_sorted_Ts1.0_Tt1.0",
    "trl_uld_sorted_Ts2.0_Tt1.5",
    quirk=LATE,
    corrected=_positional_corrected,
)(universal_logit)


def _walk(student_ends, teacher_ends):
    """Groups of positions on both sides, closed where both sides reach one byte."""
    groups, s, t, first_s, first_t = [], 0, 0, 0, 0
    while s < len(student_ends) and t < len(teacher_ends):
        if student_ends[s] < teacher_ends[t]:
            s += 1
        elif student_ends[s] > teacher_ends[t]:
            t += 1
        else:
            s, t = s + 1, t + 1
            groups.append((range(first_s, s), range(first_t, t)))
            first_s, first_t = s, t
    rest = range(first_s, len(student_ends)), range(first_t, len(teacher_ends))
    return groups + [rest] * bool(len(rest[0]) and len(rest[1]))


def _merged_corrected(x, h):
    means = []
    for b in range(len(x["labels"])):
        sides = []
        for logits, tokens, labels, offsets in (
            ("student_logits", "tokens", "labels", "student_byte_offsets"),
            (
                "teacher_logits_v60",
                "teacher_tokens_v60",
                "teacher_labels_v60",
                "teacher_byte_offsets",
            ),
        ):
            places = _positions(x[labels][b])
            probabilities = _softmax(x[logits][b, places - 1])
            of_token = probabilities[np.arange(len(places)), x[tokens][b, places]]
            sides.append((probabilities, of_token, x[offsets][b, places, 1]))
        (q, q_token, student_ends), (p, p_token, teacher_ends) = sides
        values = [
            _sorted_distance(
                q[s[-1]] * np.prod([q_token[i] for i in s[:-1]]),
                p[t[-1]] * np.prod([p_token[i] for i in t[:-1]]),
            )
            for s, t in _walk(student_ends, teacher_ends)
        ]
        means.append(np.mean(values))
    return np.mean(means)


@covers(
    "trl_uld_extended_observed",
    quirk=f"{LATE}, and merges tokens as if those that follow the first did not depend on it",
    corrected=_merged_corrected,
)
@covers("trl_uld_extended_bayesian")
def merged_universal_logit(x, h):
    answers = Answers(x)
    ends = [
        span(x[name][..., 1], first, answers.length)
        for name, first in zip(
            ("student_byte_offsets", "teacher_byte_offsets"), answers.first, strict=True
        )
    ]
    within = [answers.within(size) for size in answers.sizes]
    segments = cross_tokenizer.byte_segments(*ends, *within)
    values = losses.merged_universal_logit_distance(*answers.logits, *answers.tokens, *segments)
    return answers.mean(values, cross_tokenizer.shared_segments(*segments))


@covers("trl_gold_hybrid_b0.5_auto", "trl_gold_hybrid_b1.0_fixed", "trl_gold_hybrid_b0.0_fixed")
def gold_hybrid(x, h):
    # GOLD reads the logits at the answer's tokens; at the predictors the call is the same.
    answers = Answers(x, late=1)
    matched = x["hybrid_student_vocab_match"]
    values = losses.hybrid_logit_distance(
        *answers.logits,
        matched[:, 1],
        matched[:, 0],
        beta=h["beta"],
        matched_weight=h["matched_weight"],
        unmatched_weight=h["unmatched_weight"],
        where=answers.shared,
    )
    return answers.mean(values, answers.shared)


@covers("dskd_uld_sum")
def dskd_universal_logit(x, h):
    def rolled(array, start):
        places = (start[:, None] + jnp.arange(array.shape[1])[None]) % array.shape[1]
        return jnp.take_along_axis(array, places.reshape(places.shape + (1,) * (array.ndim - 2)), 1)

    # Its labels are shifted already; both sides are rolled until the answer comes first.
    names = ("student_logits", "labels"), ("teacher_logits_v60", "teacher_labels_v60")
    logits, labels = [], []
    for of_logits, of_labels in names:
        start, _ = answer(x[of_labels])
        logits.append(rolled(x[of_logits], start))
        labels.append(rolled(x[of_labels], start))
    length = min(x.shape[1] for x in labels)
    logits, labels = ([x[:, :length] for x in pair] for pair in (logits, labels))
    where = (labels[0] != IGNORED) & (labels[1] != IGNORED)
    return jnp.sum(losses.universal_logit_distance(*logits, where=where))


# Examples: what the stress table and the property tests call each loss with.


def _top(classes=7, count=3):
    def build(rng, batch):
        s = 2 * rng.standard_normal((batch, classes)).astype(np.float32)
        t = 2 * rng.standard_normal((batch, classes))
        chosen = np.argsort(-t, axis=-1)[:, :count].astype(np.int32)
        log_p = np.take_along_axis(np.log(_softmax(t)), chosen, -1).astype(np.float32)
        return (s, log_p, chosen), {}

    return build


def _two_vocabularies(rng, batch):
    return tuple(2 * rng.standard_normal((batch, v)).astype(np.float32) for v in (5, 7)), {}


def _matched(rng, batch):
    logits, _ = _two_vocabularies(rng, batch)
    return (*logits, np.array([0, 3], np.int32), np.array([2, 1], np.int32)), {"beta": 0.3}


def _merged(rng, batch):
    s = 2 * rng.standard_normal((batch, 4, 5)).astype(np.float32)
    t = 2 * rng.standard_normal((batch, 3, 7)).astype(np.float32)
    tokens = rng.integers(0, 5, (batch, 4)), rng.integers(0, 7, (batch, 3))
    segments = np.tile([0, 0, 1, 2], (batch, 1)), np.tile([0, 1, 1], (batch, 1))
    return (s, t, *(x.astype(np.int32) for x in (*tokens, *segments))), {}


def _sparse(**more):
    return Example(_top(), same=False, zero_at_teacher=False, **more)


EXAMPLES = {
    "top_k_kl_divergence": _sparse(),
    "top_k_jensen_shannon_divergence": _sparse(),
    "top_k_total_variation_distance": _sparse(),
    "renormalized_top_k_kl_divergence": _sparse(),
    "ranking_hinge": _sparse(),
    "logistic_ranking": _sparse(),
    "universal_logit_distance": Example(
        _two_vocabularies, classes=(0, 1), same=False, zero_at_teacher=False
    ),
    "hybrid_logit_distance": Example(
        _matched,
        classes=(0, 1),
        same=False,
        zero_at_teacher=False,
        skip={"one_class": "two vocabularies of one class have no two ids to match"},
    ),
    "merged_universal_logit_distance": Example(
        _merged, classes=(0, 1), same=False, zero_at_teacher=False, where=lambda batch: (batch, 3)
    ),
}
