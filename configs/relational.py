"""The catalogue's methods on relations between examples, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run rkd
    python -m experiments.distill --config=configs/relational.py:rkd --workdir=runs/catalogue/rkd

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/relational.py:rkd,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, rkd, trg)


def rkd() -> ConfigDict:
    """S182: distances and angles, against labels alone, a hint and plain KD."""
    own = {"method": "rkd", **measured.FEATURES, "distance_weight": 25.0, "angle_weight": 50.0}
    grid = {"rate": measured.RATES, "distance_weight": (2.5, 25.0)}
    return measured.classification(
        rows={"rkd": own, "hint": measured.HINT},
        grid={"rkd": grid, "hint": measured.HINT_GRID},
        claims={"rkd": measured.claim("rkd", over=["alone", "hint", "kd"])},
        **measured.FEW_LABELS,
    )


def trg() -> ConfigDict:
    """S035: relations among the tokens of a batch, against relations of examples and plain KD."""
    grid = {"rate": measured.RATES, "weight": (0.1, 1.0)}
    own = {"method": "trg", **measured.TOKENS, "weight": 1.0, "cooling_steps": 300}
    embedding = {"student_feature": "embedding", "teacher_feature": "embedding"}
    return measured.classification(
        rows={
            "trg": own,
            "rkd": {"method": "rkd", **embedding, "distance_weight": 25.0, "angle_weight": 50.0},
        },
        grid={"trg": grid, "rkd": {"rate": measured.RATES, "distance_weight": (2.5, 25.0)}},
        claims={"trg": measured.claim("trg", over=["rkd", "kd"])},
        **measured.TRANSFORMERS,
    )
