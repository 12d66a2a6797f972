"""The catalogue's methods whose teacher learns too, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run bd_kd
    python -m experiments.distill --config=configs/online.py:bd_kd --workdir=runs/catalogue/bd_kd

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/online.py:bd_kd,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, bd_kd, pesf_kd)


def bd_kd() -> ConfigDict:
    """S039: both directions of KL, weighted by the entropy gap, against mutual learning and plain KD."""
    over = ["mutual_learning", "kd"]
    grid = {"rate": measured.RATES, "weight": (0.3, 1.0)}
    return measured.classification(
        rows={
            "bd_kd": {"method": "bd_kd", "weight": 1.0},
            "mutual_learning": {"method": "mutual_learning", "weight": 1.0},
        },
        grid={"bd_kd": grid, "mutual_learning": grid},
        claims={
            "accuracy": measured.claim("bd_kd", over),
            "calibration": measured.claim("bd_kd", over, "calibration_error", "lower"),
        },
    )


def pesf_kd() -> ConfigDict:
    """S040: an adapter that makes the teacher's targets easier, against plain KD."""
    return measured.classification(
        rows={"pesf_kd": {"method": "pesf_kd", "teacher_feature": "hidden1", "weight": 1.0}},
        grid={"pesf_kd": {"rate": measured.RATES, "weight": (1.0, 9.0)}},
        claims={"pesf_kd": measured.claim("pesf_kd", over=["kd", "alone"])},
    )
