"""Competitive distillation: how far a student is behind its teacher decides what is taught next.

Xinwei Li, Li Lin, Shuai Wang, Chen Qian, "Unlock the Power: Competitive Distillation for Multi-Modal
Large Language Models" (CoMD), 2023. A round trains on the teacher's answers, compares both answers by
an assessor's score, and asks the teacher about new instructions in the style of the difficult ones,
and of some easy ones. The scale, the threshold 1 and equal shares are a reconstruction.
"""

import numpy as np

from kdjax.losses._arrays import check_fraction

SCALE = 10.0  # an assessor gives from 0 to 10


def score_gaps(student_logits, teacher_logits, labels) -> np.ndarray:
    """By how much the teacher's answer scores above the student's: ten times the label's probability.

    Args:
        student_logits: `[..., N, C]`
        teacher_logits: `[N, C]`
        labels: `[N]`, what the assessor knows.

    Returns:
        `[..., N]` from -10 to 10.
    """
    own, taught = (_label_probability(x, labels) for x in (student_logits, teacher_logits))
    return SCALE * (taught - own)


def competitive_choice(rng, gaps, count: int, *, threshold: float = 1.0, share: float = 0.5):
    """The numbers `[count]` of items that are asked about next, with repetition.

    Args:
        rng: a NumPy generator.
        gaps: `[N]` from `score_gaps`; an item is difficult from `threshold` on.
        count: how many.
        threshold: of the gap.
        share: how many of them are difficult; where all or no items are, everything is drawn from all.
    """
    check_fraction(share=share)
    difficult = np.flatnonzero(np.asarray(gaps) >= threshold)
    easy = np.flatnonzero(np.asarray(gaps) < threshold)
    if not (len(difficult) and len(easy)):
        return rng.choice(len(gaps), count)
    of_difficult = round(share * count)
    parts = (rng.choice(difficult, of_difficult), rng.choice(easy, count - of_difficult))
    return np.concatenate(parts)


def _label_probability(logits, labels):
    logits = np.asarray(logits, np.float64)
    logits = np.exp(logits - logits.max(-1, keepdims=True))
    chosen = np.take_along_axis(
        logits, np.broadcast_to(labels[:, None], (*logits.shape[:-1], 1)), -1
    )
    return chosen[..., 0] / logits.sum(-1)
