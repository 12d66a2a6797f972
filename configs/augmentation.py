"""The catalogue's methods that make views of their own, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run sla
    python -m experiments.distill --config=configs/augmentation.py:sla --workdir=runs/catalogue/sla

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/augmentation.py:sla,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs.measured import (
    ALONE,
    FEW_LABELS,
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
    return chosen(arg, hard, sla)


def hard() -> ConfigDict:
    """S220: learned shifts under a shift-equivariant teacher, against no shifts and drawn ones."""
    weighed = tried(disagree_weight=(0.3, 1.0))
    return study(
        "learned_shifts",
        rows={**each(ALONE, "kd", "random"), "unsteady": weighed, "teacher": FIXED, "hard": weighed},
        claims={
            "shifted": claim("hard", ["kd", "random"], "shifted"),
            "steadiness": claim("hard", ["unsteady"], "teacher_shifted"),
        },
        options={
            "size": 8, "reach": 2.5, "images": 2000, "steps": 300, "batch": 32, "rate": 2e-3,
            "widths": (64,), "teacher": {"widths": (8, 12, 16), "strides": (1, 2, 2)}, "teacher_steps": 1000,
        },
        data=MNIST,
    )  # fmt: skip


def sla() -> ConfigDict:
    """S106: labels of class and rotation that teach the plain head, against rotated images."""
    own = {"method": "sla", "student_feature": "hidden1", "weight": 1.0}
    return classification(
        rows={
            "sla": {**own, "tried": tried(weight=(0.3, 1.0))},
            "rotated": {"method": "rotated_labels", "tried": ALONE},
        },
        claims={"sla": claim("sla", over=["alone", "rotated", "kd"])},
        **FEW_LABELS,
    )
