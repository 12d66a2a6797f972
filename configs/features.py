"""The catalogue's methods on features, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run aft
    python -m experiments.distill --config=configs/features.py:aft --workdir=runs/catalogue/aft

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/features.py:aft,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, aft)


def aft() -> ConfigDict:
    """S177: a gated kernel of the teacher's features, against regressing them and plain KD."""
    own = {"method": "aft", **measured.FEATURES, "weight": 1.0}
    grid = {"rate": measured.RATES, "weight": (1.0, 10.0)}
    return measured.classification(
        rows={"aft": own, "hint": measured.HINT},
        grid={"aft": grid, "hint": measured.HINT_GRID},
        claims={"aft": measured.claim("aft", over=["hint", "kd"])},
        **measured.FEW_LABELS,
    )
