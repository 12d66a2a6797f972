"""The catalogue's methods with several teachers, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run dempster_fusion
    python -m experiments.distill --config=configs/multi_teacher.py:dempster_fusion --workdir=runs/a

Four teachers have each learned four of the ten classes and nothing of the others, and the student has
100 or 500 labels. The measured results are in `configs/README.md`. A quick look is
`configs/multi_teacher.py:dempster_fusion,tiny`.
"""

from ml_collections import ConfigDict

from configs import digits
from configs.measured import (
    FIXED,
    MNIST,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip

KNOWN = {
    "first": (0, 1, 2, 3),
    "second": (3, 4, 5, 6),
    "third": (6, 7, 8, 9),
    "fourth": (9, 0, 2, 5),
}
MEAN = {"method": "weighted_teachers", "weights": dict.fromkeys(KNOWN, 0.25)}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, dempster_fusion, meta_dmoe, recon, rl_kd, sak)


def partial_teachers(rows, claims, **data) -> ConfigDict:
    """The protocol with a teacher for each of `KNOWN`, of its classes only."""
    teachers = {
        name: {
            "workdir": "",
            "steps": 1000,
            "network": {"name": "multilayer_perceptron", "widths": (128,)},
            "optimiser": digits.optimiser(learning_rate=2e-3),
            "classes": classes,
        }
        for name, classes in KNOWN.items()
    }
    config = classification(rows, claims, teachers=teachers)
    config.run.data.update(data)
    return config


def dempster_fusion() -> ConfigDict:
    """S046: evidence that leaves room for ignorance, against the mean and the product of teachers."""
    fused = {"method": "dempster_fusion", "teachers": tuple(KNOWN), "temperature": 1.0}
    temperatures = (1.0, 2.0, 4.0)
    sure = {"reliability": 1.0, "tried": tried((0.3, 1.0), temperature=temperatures)}
    unsure = {"temperature": temperatures, "reliability": (0.5, 0.9)}
    return partial_teachers(
        rows={
            "dempster_fusion": {**fused, "reliability": 0.9, "tried": unsure},
            "mean": {**MEAN, "temperature": 1.0, "tried": sure["tried"]},
            "product": {**fused, **sure},
        },
        claims={"dempster_fusion": claim("dempster_fusion", ["mean", "product"])},
        labelled=100,
        transfer=True,
    )


def rl_kd() -> ConfigDict:
    """S204: a learned choice of teachers, against all of them and against a choice at random."""
    grid = {"tried": tried(weight=(0.3, 0.7))}
    own = {"method": "rl_kd", "teachers": tuple(KNOWN), "student_feature": "hidden1", "weight": 0.5}
    return partial_teachers(
        rows={
            "rl_kd": {**own, **grid},
            "average": {**MEAN, **grid},
            "random": {**own, "policy_weight": 0.0, **grid},
        },
        claims={"rl_kd": claim("rl_kd", over=["average", "random"])},
        labelled=500,
        transfer=False,
    )


def meta_dmoe() -> ConfigDict:
    """S129: a student that adapts to an unseen rotation, against one of all and one of mean experts."""
    return study(
        "turned_digits",
        rows={
            "meta_dmoe": tried((1.0, 3.0), inner_rate=(0.1, 1.0)), "before": FIXED,
            **each(tried((0.3, 1.0, 3.0, 10.0)), "erm", "kd"), "experts": FIXED,
        },
        claims={
            "meta_dmoe": claim("meta_dmoe", ["erm", "kd"]),
            "adaptation": claim("meta_dmoe", ["before"]),
        },
        options={
            "size": 14, "angles": (0, 15, 30, 45, 60), "validation_angle": -15, "test_angle": 75,
            "support": 24, "batch": 64, "expert_steps": 600, "steps": 600,
        },
        data=MNIST,
    )  # fmt: skip


def sak() -> ConfigDict:
    """S038: a path per teacher and routers per task, against one trunk for the mean of both teachers."""
    over = ["single", "kd", "alone"]
    return study(
        "turned_tasks",
        rows={**each(tried(), "sak", *over), **each(FIXED, "classes", "turns")},
        claims={name: claim("sak", over, name) for name in ("classes", "turns")},
        options={
            "size": 14, "teacher_steps": 1500, "labelled": 300, "batch": 64, "hidden": 128,
            "wide_hidden": 173, "first_steps": 500, "steps": 300,
        },
        data=MNIST,
    )  # fmt: skip


def recon() -> ConfigDict:
    """S248: points rebuilt and taught at once without disturbing each other, against the teachers alone.

    `generative` sees no labels and is no opponent on them.
    """
    rows = ("recon", "attached", "generative", "contrastive")
    return study(
        "points_of_digits",
        rows={**each(tried((0.3, 1.0)), *rows), "pixels": FIXED},
        claims={
            "recon": claim("recon", ["contrastive"]),
            "detached": claim("recon", ["attached"]),
        },
        options={
            "points": 64, "patches": 12, "size": 8, "teacher_steps": 1000, "batch": 32, "width": 32,
            "steps": 300, "labelled": 100, "strengths": (1.0, 10.0, 100.0, 1000.0),
        },
        data=MNIST,
    )  # fmt: skip
