"""The catalogue's methods of retrieval, each a study on the standard library's own sources.

    python -m tools.catalogue run lead
    python -m experiments.study --config=configs/retrieval.py:lead --workdir=runs/catalogue/lead

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/retrieval.py:lead,tiny` some seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.measured import ALONE, FIXED, chosen, claim, each, study, tried

DATA = "first lines and signatures of the standard library's functions, as bags of trigrams"
STUDENT: dict[str, Any] = {"widths": (32, 32), "embedding": 16}
SIZES: dict[str, Any] = {"buckets": 1024, "batch": 32, "rate": 3e-3, "teacher_steps": 600}
TAUGHT = {"alone": ALONE, "kd": tried(weight=(0.5, 2.0))}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, cross_encoder, lead, prod)


def cross_encoder() -> ConfigDict:
    """S193: logits of a joint scorer beside the labels, against labels alone and KL to its scores."""
    sizes = {"student": {"widths": (), "embedding": 16}, "teacher": {"width": 32, "hidden": 32}}
    return study(
        "cross_to_bi_retrieval",
        rows={**TAUGHT, "teacher": FIXED, "distilled": tried(share=(0.1, 0.5))},
        claims={
            metric: claim("distilled", ["alone", "kd"], metric)
            for metric in ("recall", "reciprocal_rank")
        },
        options={**SIZES, **sizes, "steps": 600},
        data=DATA,
    )


def lead() -> ConfigDict:
    """S215: scores of matched layers, against final scores alone, a hint and labels alone."""
    teacher = {"widths": (128, 128, 128), "embedding": 64}
    over, metric = ["kd", "hint", "alone"], "reciprocal_rank"
    return study(
        "layered_retrieval",
        rows={
            **TAUGHT, "hint": tried(hint_weight=(0.1, 1.0)), "teacher": FIXED,
            "lead": tried(layer_weight=(0.1, 1.0)),
        },
        claims={metric: claim("lead", over, metric)},
        options={**SIZES, "steps": 600, "student": STUDENT, "teacher": teacher},
        data=DATA,
    )  # fmt: skip


def prod() -> ConfigDict:
    """S216: teachers in turn, what was known kept, and chosen queries, against the largest teacher."""
    return study(
        "progressive_retrieval",
        rows=each(FIXED, "alone", "direct", "chain", "kept", "random", "teacher", "prod"),
        claims={
            "reciprocal_rank": claim("prod", ["direct", "chain", "random"], "reciprocal_rank"),
            "kept": claim("kept", ["chain"], "lost", "lower"),
        },
        options={
            **SIZES, "warm_steps": 300, "part_steps": 120, "mined": 40, "listed": 7, "student": STUDENT,
            "dual": {"widths": (128,), "embedding": 64}, "small": {"width": 16, "hidden": 16},
            "large": {"width": 32, "hidden": 32},
        },
        data=DATA,
    )  # fmt: skip
