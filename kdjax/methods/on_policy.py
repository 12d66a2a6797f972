"""Methods on texts that the student wrote itself, as `batch["generated"]` brings them.

It holds what `batch["sequence"]` does (see `kdjax.methods.sequence`), `where` `[n]`, false as long as
nothing was written, and `log_probs` `[n, L]`: of each target, under what it was drawn from. The
divergences of GKD on such texts are `token_kd` itself.
"""

import jax
import jax.numpy as jnp

from kdjax import signals
from kdjax.losses import _arrays, clipped_policy_gradient, divergences, sequence, total_and_count
from kdjax.losses._arrays import check_not_negative
from kdjax.methods.sequence import inputs_of, label_totals, signal_of
from kdjax.train.method import Method, Term, one_phase


def minillm(
    *,
    clip: float = 0.2,
    label_weight: float = 1.0,
    discount: float = 1.0,
    vocabulary: int | None = None,
    chunk: int = 512,
) -> Method:
    r"""Reverse KL of whole answers by policy gradient, beside the cross entropy on the data.

    .. math:: \sum_l \rho_l \operatorname{KL}(q_l \Vert p_l)
        + \max(-A_l \rho_l, -A_l \operatorname{clip}(\rho_l)), \quad
        A_l = \frac{1}{n_l} \sum_{i > l} \gamma^{i - l - 1} \log \frac{p_i}{q_i}

    The first, in closed form over the vocabulary, is what a token gains at its own place; the second
    what it does for the n_l tokens behind it, per token of them, so that short answers are not the
    better ones. ρ = q / b is held against what the text was drawn from; it and A pass no gradient
    but for ρ in the second.

    Gu, Dong, Wei, Huang, "MiniLLM: Knowledge Distillation of Large Language Models", 2024, who drew
    from 0.8 student + 0.2 teacher with clip 0.2. The rewards here are those of the student as it is
    in this step, where the authors kept those of the drawing.

    Args:
        clip: ε ≥ 0.
        label_weight: of the cross entropy on `batch["sequence"]`.
        discount: γ in [0, 1].
        vocabulary, chunk: as in `next_token`; the answers' logits are formed whole.
    """
    check_not_negative(clip=clip, label_weight=label_weight)
    _arrays.check_fraction(discount=discount)

    def objective(scope):
        rows, written = scope.batch["sequence"], scope.batch["generated"]
        outputs, model = scope.apply("student", inputs_of(rows))
        labels = label_totals(
            signal_of(outputs, vocabulary), rows["targets"], rows.get("mask"), chunk
        )
        single, long, where = _answer_losses(scope, written, vocabulary, clip, discount)
        terms = {
            "labels": Term(*labels, weight=scope.hyper["label_weight"]),
            "single": Term(*total_and_count(single, where)),
            "long": Term(*total_and_count(long, where)),
        }
        return terms, {"model": {"student": model}}

    return one_phase(objective, label_weight=label_weight)


def _answer_losses(scope, written, vocabulary, clip, discount):
    """(single-step values, long-term values, which count), `[n, L]` each."""
    inputs, targets = inputs_of(written), written["targets"]
    where = written["mask"] & written["where"][:, None]
    student, teacher = (
        signals.logits_of(signal_of(scope.apply(name, inputs)[0], vocabulary))
        for name in ("student", "teacher")
    )
    log_q, log_p, _ = divergences.softened(student, jax.lax.stop_gradient(teacher), 1.0, where)
    of_student, of_teacher = (
        jnp.take_along_axis(x, targets[..., None], axis=-1)[..., 0] for x in (log_q, log_p)
    )
    drawn = written["log_probs"].astype(of_student.dtype)
    now = jax.lax.stop_gradient(of_student)
    returns = sequence.reverse_kl_returns(now, of_teacher, discount=discount, where=where)
    behind = jnp.pad(returns[:, 1:], ((0, 0), (0, 1)))
    kept = _arrays.select(where, jnp.ones_like(behind))
    left = sequence.discounted_returns(kept, discount=1.0) - kept
    advantages = jnp.where(left > 0, behind / jnp.maximum(left, 1), 0)
    long = clipped_policy_gradient(of_student, drawn, advantages, clip=clip, where=where)
    ratio = jnp.exp(jnp.clip(_arrays.select(where, now - drawn), -20.0, 20.0))
    single = _arrays.select(where, ratio * divergences.reverse_kl_of_log_probs(log_q, log_p))
    return single, long, where
