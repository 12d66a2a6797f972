"""The catalogue's methods of retrieval, each a study on the standard library's own sources.

    python -m tools.catalogue run lead
    python -m experiments.study --config=configs/retrieval.py:lead --workdir=runs/catalogue/lead

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/retrieval.py:lead,tiny` some seconds.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import measured

DATA = "first lines and signatures of the standard library's functions, as bags of trigrams"
STUDENT: dict[str, Any] = {"widths": (32, 32), "embedding": 16}
SIZES: dict[str, Any] = {"buckets": 1024, "batch": 32, "rate": 3e-3, "teacher_steps": 600}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, cross_encoder, lead, prod)


def cross_encoder() -> ConfigDict:
    """S193: logits of a joint scorer beside the labels, against labels alone and KL to its scores."""
    over, rates = ["alone", "kd"], measured.RATES
    return measured.study(
        "cross_to_bi_retrieval",
        rows=["alone", "kd", "teacher", "distilled"],
        claims={
            "recall": measured.claim("distilled", over, "recall"),
            "reciprocal_rank": measured.claim("distilled", over, "reciprocal_rank"),
        },
        options={
            **SIZES,
            "steps": 600,
            "student": {"widths": (), "embedding": 16},
            "teacher": {"width": 32, "hidden": 32},
        },
        data=DATA,
        grid={
            "alone": measured.ALONE,
            "kd": {"rate": rates, "weight": (0.5, 2.0)},
            "distilled": {"rate": rates, "share": (0.1, 0.5)},
        },
    )


def lead() -> ConfigDict:
    """S215: scores of matched layers, against final scores alone, a hint and labels alone."""
    rates = measured.RATES
    return measured.study(
        "layered_retrieval",
        rows=["alone", "kd", "hint", "teacher", "lead"],
        claims={
            "reciprocal_rank": measured.claim("lead", ["kd", "hint", "alone"], "reciprocal_rank")
        },
        options={
            **SIZES,
            "steps": 600,
            "student": STUDENT,
            "teacher": {"widths": (128, 128, 128), "embedding": 64},
        },
        data=DATA,
        grid={
            "alone": measured.ALONE,
            "kd": {"rate": rates, "weight": (0.5, 2.0)},
            "hint": {"rate": rates, "hint_weight": (0.1, 1.0)},
            "lead": {"rate": rates, "layer_weight": (0.1, 1.0)},
        },
    )


def prod() -> ConfigDict:
    """S216: teachers in turn, what was known kept, and chosen queries, against the largest teacher."""
    over = ["direct", "chain", "random"]
    return measured.study(
        "progressive_retrieval",
        rows=["alone", "direct", "chain", "kept", "random", "teacher", "prod"],
        claims={
            "reciprocal_rank": measured.claim("prod", over, "reciprocal_rank"),
            "kept": measured.claim("kept", ["chain"], "lost", "lower"),
        },
        options={
            **SIZES,
            "warm_steps": 300,
            "part_steps": 120,
            "mined": 40,
            "listed": 7,
            "student": STUDENT,
            "dual": {"widths": (128,), "embedding": 64},
            "small": {"width": 16, "hidden": 16},
            "large": {"width": 32, "hidden": 32},
        },
        data=DATA,
    )
