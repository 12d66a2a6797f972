"""The catalogue's methods that contrast examples, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run wcord
    python -m experiments.distill --config=configs/contrastive.py:wcord --workdir=runs/catalogue/wcord

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/contrastive.py:wcord,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, wcord)


def wcord() -> ConfigDict:
    """S076: both Wasserstein forms, against CRD (the first without its spectral norm) and plain KD."""
    crd = {"method": "wcord", **measured.FEATURES, "spectral": False, "local_weight": 0.0}
    grid = {"rate": measured.RATES, "global_weight": (0.2, 0.8)}
    return measured.classification(
        rows={"wcord": {"method": "wcord", **measured.FEATURES, "global_weight": 0.8}, "crd": crd},
        grid={"wcord": grid, "crd": grid},
        claims={"wcord": measured.claim("wcord", over=["crd", "kd"])},
        **measured.FEW_LABELS,
    )
