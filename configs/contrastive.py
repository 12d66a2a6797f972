"""The catalogue's methods that contrast examples, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run wcord
    python -m experiments.distill --config=configs/contrastive.py:wcord --workdir=runs/catalogue/wcord

The measured results are in `configs/README.md`. A recipe takes one to two minutes on two cores;
`configs/contrastive.py:wcord,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs.measured import (
    FEATURES,
    FEW_LABELS,
    MNIST,
    TOKENS,
    TRANSFORMERS,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, fac, msdcrd, wcord)


def fac() -> ConfigDict:
    """S088: segments in the foreground as anchors, against all segments and points anywhere."""
    return study(
        "foreground_pretraining",
        rows=each(tried(), "points", "segments", "fac"),
        claims={"overlap": claim("fac", ["points", "segments"], "overlap")},
        options={
            "size": 12, "digit_size": 8, "digits": 5, "contrast": 1.0, "images": 800, "held": 450,
            "segments": 6, "ahead": 2, "noise": 0.3, "points": 8, "labelled": 10,
            "widths": (8, 12, 16), "strides": (1, 2, 3), "steps": 250, "batch": 16, "rate": 2e-3,
        },
        data=MNIST,
    )  # fmt: skip


def msdcrd() -> ConfigDict:
    """S231: regions of several sizes in two categories, against one contrast of images and plain KD."""
    own = {"method": "msdcrd", **TOKENS, "tried": tried(weight=(0.1, 1.0))}
    return classification(
        rows={
            "msdcrd": {**own, "weight": 1.0},
            "global": {**own, "windows": (4,), "channels": False},
        },
        claims={"msdcrd": claim("msdcrd", over=["global", "kd"])},
        **TRANSFORMERS,
    )


def wcord() -> ConfigDict:
    """S076: both Wasserstein forms, against CRD (the first without its spectral norm) and plain KD."""
    own = {"method": "wcord", **FEATURES, "tried": tried(global_weight=(0.2, 0.8))}
    return classification(
        rows={
            "wcord": {**own, "global_weight": 0.8},
            "crd": {**own, "spectral": False, "local_weight": 0.0},
        },
        claims={"wcord": claim("wcord", over=["crd", "kd"])},
        **FEW_LABELS,
    )
