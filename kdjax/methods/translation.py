"""Encoder-decoders, or encoders, that learn from a teacher's answers and from where it looks.

`batch["sequence"]` holds `tokens` `[B, L]` and their `mask`; for a decoder `targets` `[B, M]`, what it
reads; `labels` `[B, M]`, what is asked, with `target_mask`, where; and of the teacher `logits` `[B, M, V]`
and `attention` `[B, H, L, L]`, the maps of all heads of its encoder.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from kdjax import losses
from kdjax.losses._arrays import check_fraction, check_not_negative
from kdjax.networks import adapters
from kdjax.networks.projectors import PROJECTED, Projector
from kdjax.train.method import Method, one_phase, term

INPUTS = ("tokens", "mask", "targets", "target_mask")


def attention_map_divergence(student_attention, teacher_attention, mask):
    r"""Σ over heads of KL(teacher ‖ student) of whole attention maps. `[B]`.

    .. math:: \sum_h \mathrm{KL}(\operatorname{softmax}(\operatorname{vec} A^t_h) \|
        \operatorname{softmax}(\operatorname{vec} A^s_h))

    over the pairs of kept tokens.

    Args:
        student_attention: `[B, H, L, L]`, after the aligner: any numbers.
        teacher_attention: `[B, H, L, L]`
        mask: `[B, L]`, true for tokens.
    """
    pairs = (mask[:, :, None] & mask[:, None, :])[:, None]
    flat = [
        jnp.where(pairs, x, -jnp.inf).reshape(*x.shape[:2], -1)
        for x in (student_attention, teacher_attention)
    ]
    return jnp.sum(losses.softened_kl_divergence(*flat), axis=1)


def a2d(
    *,
    layers: Sequence[str],
    teacher_heads: int,
    weight: float = 0.5,
    attention_weight: float = 1.0,
    decay: float = 0.9,
    epoch: int = 100,
    smoothing: float = 0.1,
    aligner: str = "trained",
) -> Method:
    r"""Smoothed cross entropy, the teacher's answers, and its attention under a trained map of heads.

    .. math:: (1 - \alpha)\, \mathrm{CE}(y) + \alpha\, \mathrm{CE}(p^t) + \beta \delta^{e} \sum_h
        \mathrm{KL}(A^t_h \| (W A^s)_h), \quad e = \lfloor step / epoch \rfloor

    with W a matrix without bias from all heads of all the student's layers to all the teacher's.

    Jin, Son, Park, Kim, Noh, Lee, "Align-to-Distill: Trainable Attention Alignment for Knowledge
    Distillation in Neural Machine Translation", 2024, with α = 0.5, β = 1 on sums over a batch, and
    δ = 0.9.

    Args:
        layers: the student's features that are maps, `[B, heads, L, L]` each.
        teacher_heads: how many maps the teacher has.
        weight: α; at 0 the labels alone.
        attention_weight: β of the mean over examples; the authors' sum is β times the batch.
        decay: δ, once an epoch.
        epoch: its steps.
        smoothing: of the labels.
        aligner: "trained"; "last", without W: the last of the student's layers learns from the
            teacher's last by the mean squared error, as in TinyBERT (Jiao et al., 2020), as many heads
            on both sides; "" for no attention.

    Raises:
        ValueError: another aligner.
    """
    check_fraction(weight=weight, decay=decay, smoothing=smoothing)
    check_not_negative(attention_weight=attention_weight)
    if aligner not in ("trained", "last", ""):
        raise ValueError(f"aligner must be 'trained', 'last' or '', got {aligner!r}")

    def objective(scope):
        rows = scope.batch["sequence"]
        outputs, model = scope.apply("student", {k: rows[k] for k in INPUTS if k in rows})
        logits, where = outputs.logits, rows["target_mask"]
        classes = logits.shape[-1]
        smooth = (1 - smoothing) * jax.nn.one_hot(rows["labels"], classes) + smoothing / classes
        share = scope.hyper["weight"]
        log_q = jax.nn.log_softmax(logits)
        cross = functools.partial(jnp.einsum, "blv,blv->bl")
        terms = {
            "labels": term(-cross(smooth, log_q), where=where, weight=1 - share),
            "kd": term(-cross(jax.nn.softmax(rows["logits"]), log_q), where=where, weight=share),
        }
        if aligner:
            fades = decay ** (scope.step // epoch)
            values = _attention(scope, [outputs.features[name] for name in layers], rows)
            terms["attention"] = term(values, weight=scope.hyper["attention_weight"] * fades)
        return terms, {"model": {"student": model}}

    def _attention(scope, maps, rows):
        theirs, mask = rows["attention"], rows["mask"]
        if aligner == "last":
            last = theirs[:, -maps[-1].shape[1] :]
            values = losses.attention_mean_squared_error(maps[-1], last, where=mask)
            return jnp.sum(values, axis=1)
        own = jnp.moveaxis(jnp.concatenate(maps, axis=1), 1, -1)
        aligned, _ = scope.apply("aligner", own)
        aligned = jnp.moveaxis(aligned.features[PROJECTED], -1, 1)
        return attention_map_divergence(aligned, theirs, mask)

    def make(shapes):
        maps = [shapes["student"].features[name] for name in layers]
        length = maps[0].shape[2]
        heads = sum(each.shape[1] for each in maps)
        network = adapters.from_linen(
            Projector(teacher_heads, use_bias=False), features=(PROJECTED,)
        )
        return network, jax.ShapeDtypeStruct((1, length, length, heads), jnp.float32)

    trained = aligner == "trained"
    return one_phase(
        objective,
        trains=("student", "aligner") if trained else ("student",),
        players={"aligner": make} if trained else {},
        weight=weight,
        attention_weight=attention_weight,
    )
