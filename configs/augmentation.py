"""The catalogue's methods that make views of their own, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run sla
    python -m experiments.distill --config=configs/augmentation.py:sla --workdir=runs/catalogue/sla

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/augmentation.py:sla,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, sla)


def sla() -> ConfigDict:
    """S106: labels of class and rotation that teach the plain head, against rotated images."""
    return measured.classification(
        rows={
            "sla": {"method": "sla", "student_feature": "hidden1", "weight": 1.0},
            "rotated": {"method": "rotated_labels"},
        },
        grid={"sla": {"rate": measured.RATES, "weight": (0.3, 1.0)}, "rotated": measured.ALONE},
        claims={"sla": measured.claim("sla", over=["alone", "rotated", "kd"])},
        **measured.FEW_LABELS,
    )
