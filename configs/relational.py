"""The catalogue's methods on relations between examples, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run rkd
    python -m experiments.distill --config=configs/relational.py:rkd --workdir=runs/catalogue/rkd

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/relational.py:rkd,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs.measured import (
    FEATURES,
    FEW_LABELS,
    HINT_ROW,
    TOKENS,
    TRANSFORMERS,
    chosen,
    claim,
    classification,
    tried,
)  # fmt: skip

RKD = {
    "method": "rkd", "distance_weight": 25.0, "angle_weight": 50.0,
    "tried": tried(distance_weight=(2.5, 25.0)),
}  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, rkd, trg)


def rkd() -> ConfigDict:
    """S182: distances and angles, against labels alone, a hint and plain KD."""
    return classification(
        rows={"rkd": {**RKD, **FEATURES}, "hint": HINT_ROW},
        claims={"rkd": claim("rkd", over=["alone", "hint", "kd"])},
        **FEW_LABELS,
    )


def trg() -> ConfigDict:
    """S035: relations among the tokens of a batch, against relations of examples and plain KD."""
    own = {"method": "trg", **TOKENS, "weight": 1.0, "cooling_steps": 300}
    embedding = {"student_feature": "embedding", "teacher_feature": "embedding"}
    return classification(
        rows={"trg": {**own, "tried": tried(weight=(0.1, 1.0))}, "rkd": {**RKD, **embedding}},
        claims={"trg": claim("trg", over=["rkd", "kd"])},
        **TRANSFORMERS,
    )
