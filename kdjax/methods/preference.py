"""Methods on answers that somebody has judged: weighted targets, and candidates in an order.

`batch["sequence"]` is that of `kdjax.methods.sequence`, with `weight` `[B]` where its rows weigh
differently. `batch["candidates"]` holds several answers to each prompt, best first: its columns are
`[B, K, L]`, and `reference` `[B, K]` are their log-likelihoods under the model that training began with.
"""

import dataclasses

import jax
import jax.numpy as jnp

from kdjax import signals
from kdjax.losses import (
    candidate_ranking,
    direct_preference,
    divergences,
    negative_calibrated_divergence,
    sequence,
)
from kdjax.losses._arrays import check_fraction, check_not_negative, check_positive
from kdjax.methods.sequence import inputs_of, signal_of
from kdjax.train.method import Method, Term, one_phase, term


def weighted_next_token() -> Method:
    r"""-log q of the answers' tokens, each row by its weight, over the weights.

    .. math:: \frac{\sum_b w_b \sum_l -\log q(y_{bl})}{\sum_b w_b n_b}

    with the n_b counted tokens of a row. Gabburo, Koncel-Kedziorski, Garg, Soldaini, Moschitti,
    "Knowledge Transfer from Answer Ranking to Answer Generation", 2022, take the ranker's score of
    the target; Gabburo, Garg, Koncel-Kedziorski, Moschitti, "Learning Answer Generation using
    Supervision from Automatic Question Answering Evaluators", 2023, a function of an evaluator's.
    """

    def objective(scope):
        rows = scope.batch["sequence"]
        outputs, model = scope.apply("student", inputs_of(rows))
        logits = signals.logits_of(signal_of(outputs))
        losses = sequence.weighted_negative_log_likelihood(
            logits, rows["targets"], rows["weight"], where=rows["mask"]
        )
        counted = rows["weight"] * jnp.sum(rows["mask"], axis=1)
        return {"labels": Term(jnp.sum(losses), jnp.sum(counted))}, {"model": {"student": model}}

    return one_phase(objective)


def dpo(*, scale: float = 0.1) -> Method:
    """`direct_preference` of the first of two candidates over the second.

    Rafailov, Sharma, Mitchell, Ermon, Manning, Finn, "Direct Preference Optimization: Your Language
    Model is Secretly a Reward Model", 2023, with scale 0.1.
    """
    check_positive(scale=scale)

    def objective(scope):
        rows = scope.batch["candidates"]
        likelihoods, _, model = _log_likelihoods(scope, rows)
        values = direct_preference(likelihoods, rows["reference"], scale=scope.hyper["scale"])
        return {"preference": term(values)}, {"model": {"student": model}}

    return one_phase(objective, scale=scale)


def brio(*, margin: float = 0.1, label_weight: float = 1.0) -> Method:
    """`candidate_ranking` of mean log-likelihoods of tokens, beside -log q of the taught answers.

    Liu, Liu, Radev, Neubig, "BRIO: Bringing Order to Abstractive Summarization", 2022; with `margin`
    one over an answer's mean length the better of two must be twice as likely (Ravi et al., "Small But
    Funny: A Feedback-Driven Approach to Humor Distillation", 2024).
    """
    check_not_negative(margin=margin, label_weight=label_weight)
    taught = weighted_next_token().phases[0].objective

    def objective(scope):
        rows = scope.batch["candidates"]
        likelihoods, lengths, _ = _log_likelihoods(scope, rows)
        order = jnp.broadcast_to(-jnp.arange(lengths.shape[1], dtype=jnp.float32), lengths.shape)
        values = candidate_ranking(likelihoods / lengths, order, margin=margin)
        terms, updates = taught(scope)
        labels = dataclasses.replace(terms["labels"], weight=scope.hyper["label_weight"])
        return {"ranking": term(values), "labels": labels}, updates

    return one_phase(objective, label_weight=label_weight)


def negative_calibrated(
    *, weight: float = 0.5, temperature: float = 1.0, calibrated: bool = True
) -> Method:
    r"""(1 - w) · -log q of the answers + w · `negative_calibrated_divergence`, as means over tokens.

    `memory` holds the parameters of both frozen models, networks like the student: `positive`, its
    teacher, and `negative`, which learned wrong answers. They begin as the student itself: set them.

    Li, Yuan, Feng, Pan, Sun, Wang, Wang, Li, "Turning Dust into Gold: Distilling Complex Reasoning
    Capabilities from LLMs by Leveraging Negative Data", 2024, with weight 0.5 and temperature 1.

    Args:
        calibrated: without, every answer weighs 1: plain distillation from the positive model.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)

    def objective(scope):
        rows, share = scope.batch["sequence"], scope.hyper["weight"]
        outputs, model = scope.apply("student", inputs_of(rows))
        student, where = signals.logits_of(signal_of(outputs)), rows["mask"]
        positive, negative = (_remembered(scope, name, rows) for name in ("positive", "negative"))
        if calibrated:
            values = negative_calibrated_divergence(
                student, positive, negative, temperature=temperature, where=where
            )
        else:
            log_q, log_p, _ = divergences.softened(student, positive, temperature, where)
            kl = divergences.kl_of_log_probs(log_q, log_p)
            values = temperature**2 * sequence.mean_over_tokens(kl, where=where)
        labels = sequence.token_negative_log_likelihood(student, rows["targets"], where=where)
        terms = {
            "kd": term(values, weight=share),
            "labels": term(labels, where=where, weight=1 - share),
        }
        return terms, {"model": {"student": model}}

    memory = dict.fromkeys(("positive", "negative"), lambda params: params["student"])
    return one_phase(objective, memory=memory, weight=weight)


def _remembered(scope, name, rows):
    outputs, _ = scope.apply("student", inputs_of(rows), params=scope.memory[name], train=False)
    return jax.lax.stop_gradient(signals.logits_of(signal_of(outputs)))


def _log_likelihoods(scope, rows):
    """(of whole answers `[B, K]`, their counted tokens `[B, K]`, the new model state)."""
    shape = rows["mask"].shape
    flat = {key: x.reshape(-1, shape[2]) for key, x in rows.items() if x.shape == shape}
    outputs, model = scope.apply("student", inputs_of(flat))
    logits = signals.logits_of(signal_of(outputs))
    losses = sequence.token_negative_log_likelihood(logits, flat["targets"], where=flat["mask"])
    likelihoods, lengths = -jnp.sum(losses, axis=1), jnp.sum(flat["mask"], axis=1)
    return likelihoods.reshape(shape[:2]), jnp.maximum(lengths, 1).reshape(shape[:2]), model
