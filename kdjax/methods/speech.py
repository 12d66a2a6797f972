"""Speech: transcripts of frames with a language model's help, and frames told from those before.

`batch["sequence"]` holds `frames` `[B, T, F]`; for transcripts `labels` `[B, N]` from 1 (0 is the blank
of a CTC), `mask` `[B, N]`, which of them there are, and `states` `[B, N, D]`, what a language model makes
of them.
"""

from typing import Any

import jax.numpy as jnp
import optax

from kdjax import losses
from kdjax.losses import token_negative_log_likelihood
from kdjax.losses._arrays import check_at_least_one, check_fraction
from kdjax.train.method import Method, one_phase, term


def context_aware_ctc(*, weight: float = 0.3, transfer: bool = True) -> Method:
    r"""CTC of two heads, and the states of a language model, told from the frames.

    .. math:: (1 - a) \tfrac12 (\mathrm{CTC}_1 + \mathrm{CTC}_2)
        + a \tfrac1N \sum_n (-\log p(y_n | c_n) + 1 - \cos(W c_n, e_n))

    with c the places of a transcript that look over the frames and e the language model's states. The
    model and the places are dropped at the test; the strategy against independent frames, the first
    head's guesses fed back with some hidden, is `FrameLabeller`'s.

    Lu, Chen, "A Context-Aware Knowledge Transferring Strategy for CTC-Based ASR", 2022; the form of
    both parts is a reconstruction.

    Args:
        weight: a, 0.3 in the reconstruction.
        transfer: False is the two heads alone.
    """
    check_fraction(weight=weight)

    def objective(scope):
        rows = scope.batch["sequence"]
        outputs, model = scope.apply("student", rows["frames"])
        missing = 1.0 - rows["mask"]
        heads = [
            optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), rows["labels"], missing)
            for logits in (outputs.features["first"], outputs.logits)
        ]
        share = scope.hyper["weight"] if transfer else 0.0
        terms = {"ctc": term((heads[0] + heads[1]) / 2, weight=1 - share)}
        if transfer:
            where = rows["mask"]
            gathered = outputs.features
            terms["tokens"] = term(
                token_negative_log_likelihood(gathered["tokens"], rows["labels"], where=where),
                where=where, weight=share,
            )  # fmt: skip
            flat = (x.reshape(-1, x.shape[-1]) for x in (gathered["states"], rows["states"]))
            apart = losses.feature_cosine_distance(*flat, where=where.reshape(-1))
            terms["states"] = term(apart, where=where.reshape(-1), weight=share)
        return terms, {"model": {"student": model}}

    hyper: dict[str, Any] = {"weight": weight} if transfer else {}
    return one_phase(objective, **hyper)


def autoregressive_prediction(*, ahead: int = 3) -> Method:
    """Σ |x_{t+n} - y_t|: a recurrent network tells the frame n places on from those up to t.

    Chung, Hsu, Tang, Glass, "An Unsupervised Autoregressive Model for Speech Representation Learning"
    (APC), 2019, with n = 3 among others.
    """
    check_at_least_one(ahead=ahead)

    def objective(scope):
        frames = scope.batch["sequence"]["frames"]
        outputs, model = scope.apply("student", frames)
        told = outputs.features["predicted"][:, :-ahead]
        values = jnp.sum(jnp.abs(frames[:, ahead:] - told), axis=-1)
        return {"frames": term(values)}, {"model": {"student": model}}

    return one_phase(objective)
