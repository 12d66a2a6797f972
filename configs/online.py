"""The catalogue's methods whose teachers learn too, or answer to what the student fails on.

    python -m tools.catalogue run bd_kd
    python -m experiments.distill --config=configs/online.py:bd_kd --workdir=runs/catalogue/bd_kd

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/online.py:bd_kd,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs.measured import (
    ALONE,
    FIXED,
    MNIST,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    recipes = (bd_kd, cnn_vit_collaborative_segmentation, comd, mokd, pesf_kd, shike)
    return chosen(arg, *recipes)


def bd_kd() -> ConfigDict:
    """S039: both directions of KL, weighted by the entropy gap, against mutual learning and plain KD."""
    over = ["mutual_learning", "kd"]
    weighed = {"weight": 1.0, "tried": tried(weight=(0.3, 1.0))}
    return classification(
        rows={name: {"method": name, **weighed} for name in ("bd_kd", "mutual_learning")},
        claims={
            "accuracy": claim("bd_kd", over),
            "calibration": claim("bd_kd", over, "calibration_error", "lower"),
        },
    )


def pesf_kd() -> ConfigDict:
    """S040: an adapter that makes the teacher's targets easier, against plain KD."""
    own = {"method": "pesf_kd", "teacher_feature": "hidden1", "weight": 1.0}
    return classification(
        rows={"pesf_kd": {**own, "tried": tried(weight=(1.0, 9.0))}},
        claims={"pesf_kd": claim("pesf_kd", over=["kd", "alone"])},
    )


def shike() -> ConfigDict:
    """S048: experts that teach each other about wrong classes, on a long-tailed subset of MNIST."""
    over = ["alone", "balanced", "mutual"]
    return study(
        "long_tailed_experts",
        rows={
            **each(ALONE, "alone", "balanced"),
            "mutual": tried(peer_weight=(0.3, 1.0)),
            "shike": tried(negative_weight=(1.0, 10.0)),
        },
        claims={"few": claim("shike", over, "few"), "accuracy": claim("shike", over)},
        options={
            "size": 14, "width": 32, "imbalance": 100.0, "most": 500,
            "first_steps": 500, "last_steps": 100, "batch": 64, "rate": 1e-3, "head_rate": 3e-2,
        },
        data=MNIST,
    )  # fmt: skip


def comd() -> ConfigDict:
    """S074: the teacher answers about what the student fails on, against drawn images and one shot."""
    others = ["random", "single", "kd"]
    return study(
        "competitive_rounds",
        rows=each(FIXED, *others, "difficult", "shuffled", "teacher", "comd"),
        claims={
            "accuracy": claim("comd", others),
            "gaps": claim("comd", ["shuffled"]),
            "forgotten": claim("comd", ["difficult"], "forgotten", "lower"),
        },
        options={
            "size": 14, "images": 400, "copies": 12, "added": 300, "threshold": 1.0,
            "rounds": 4, "round_steps": 150, "batch": 64, "rate": 3e-3, "widths": (16,),
            "teacher": {"widths": (256,)}, "teacher_steps": 600,
        },
        data=MNIST,
    )  # fmt: skip


def mokd() -> ConfigDict:
    """S186: two networks that learn without labels together, against each by itself."""
    return study(
        "online_views",
        rows={"untrained": FIXED, **each(tried(), "alone", "mokd")},
        claims={name: claim("mokd", ["alone"], name) for name in ("first", "second")},
        options={
            "size": 8, "width": 24, "patch": 4, "reach": 1.0, "hidden_share": 0.2, "noise": 0.2,
            "steps": 250, "batch": 32, "rate": 1e-3, "probed": 500,
        },
        data=MNIST,
    )  # fmt: skip


def cnn_vit_collaborative_segmentation() -> ConfigDict:
    """S109: peers that label pixels, each taught where the other is reliable, against mutual learning."""
    weighed = tried((1.0, 3.0), pixel_weight=(0.3, 1.0))
    return study(
        "collaborative_pixels",
        rows={
            "independent": tried((0.5, 1.0, 2.0, 3.0)),
            **each(weighed, "mutual", "pixels", "collaborative"),
        },
        claims={
            "both": claim("collaborative", ["mutual", "independent"], "both"),
            "selective": claim("pixels", ["mutual"], "both"),
        },
        options={
            "size": 12, "digit_size": 8, "digits": 5, "images": 500, "held": 450,
            "widths": (12, 16, 16), "strides": (1, 2, 2), "patch": 3, "width": 24, "regions": 4,
            "steps": 300, "batch": 16, "rate": 2e-3,
        },
        data=MNIST,
    )  # fmt: skip
