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
    return measured.chosen(arg, fac, msdcrd, wcord)


def fac() -> ConfigDict:
    """S088: segments in the foreground as anchors, against all segments and points anywhere."""
    rates = {"rate": (0.3, 1.0, 3.0)}
    return measured.study(
        "foreground_pretraining",
        rows=["points", "segments", "fac"],
        claims={"overlap": measured.claim("fac", ["points", "segments"], "overlap")},
        options={
            "size": 12, "digit_size": 8, "digits": 5, "contrast": 1.0, "images": 800, "held": 450,
            "segments": 6, "ahead": 2, "noise": 0.3, "points": 8, "labelled": 10,
            "widths": (8, 12, 16), "strides": (1, 2, 3), "steps": 250, "batch": 16, "rate": 2e-3,
        },
        data=measured.MNIST,
        grid={"points": rates, "segments": rates, "fac": rates},
    )  # fmt: skip


def msdcrd() -> ConfigDict:
    """S231: regions of several sizes in two categories, against one contrast of images and plain KD."""
    grid = {"rate": measured.RATES, "weight": (0.1, 1.0)}
    whole = {"method": "msdcrd", **measured.TOKENS, "windows": (4,), "channels": False}
    return measured.classification(
        rows={"msdcrd": {"method": "msdcrd", **measured.TOKENS, "weight": 1.0}, "global": whole},
        grid={"msdcrd": grid, "global": grid},
        claims={"msdcrd": measured.claim("msdcrd", over=["global", "kd"])},
        **measured.TRANSFORMERS,
    )


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
