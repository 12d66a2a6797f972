"""Rows of the catalogue that train no network: protocols of `experiments/studies/`.

    python -m tools.catalogue run multitask_gp_with_hierarchical_latent_interactions
    python -m experiments.study --config=configs/analyses.py:latent_interactions --workdir=runs/a

The measured results are in `configs/README.md`. A recipe takes less than a minute.
"""

from ml_collections import ConfigDict

from configs.measured import DIGITS, FIXED, chosen, claim, each, study


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, latent_interactions)


def latent_interactions() -> ConfigDict:
    """S094: columns of a digit as tasks, the third seen at three pixels; against LMC and no transfer."""
    better = {"metric": "error", "direction": "lower"}
    others = ("coregionalised", "independent")
    return study(
        "neighbouring_columns",
        rows=each(FIXED, "interaction", *others),
        claims={
            "interaction": claim("interaction", others, **better),
            "transfer": claim("coregionalised", ["independent"], **better),
        },
        options={"images": 40, "seen": 3, "latent": 2, "steps": 200, "rate": 0.05},
        data=DIGITS,
    )
