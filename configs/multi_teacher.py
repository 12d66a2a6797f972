"""The catalogue's methods with several teachers, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run dempster_fusion
    python -m experiments.distill --config=configs/multi_teacher.py:dempster_fusion --workdir=runs/a

Four teachers have each learned four of the ten classes and nothing of the others, and the student has
100 or 500 labels. The measured results are in `configs/README.md`. A quick look is
`configs/multi_teacher.py:dempster_fusion,tiny`.
"""

from ml_collections import ConfigDict

from configs import digits, measured

KNOWN = {
    "first": (0, 1, 2, 3),
    "second": (3, 4, 5, 6),
    "third": (6, 7, 8, 9),
    "fourth": (9, 0, 2, 5),
}
TEMPERATURES = (1.0, 2.0, 4.0)


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, dempster_fusion, meta_dmoe, recon, rl_kd, sak)


def partial_teachers(labelled: int, transfer: bool, rows, grid, claims) -> ConfigDict:
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
    config = measured.classification(rows, grid, claims, teachers=teachers)
    config.run.data.update({"labelled": labelled, "transfer": transfer})
    return config


def dempster_fusion() -> ConfigDict:
    """S046: evidence that leaves room for ignorance, against the mean and the product of teachers."""
    fused = {"method": "dempster_fusion", "teachers": tuple(KNOWN)}
    return partial_teachers(
        100,
        True,
        rows={
            "dempster_fusion": {**fused, "reliability": 0.9, "temperature": 1.0},
            "mean": {
                "method": "weighted_teachers",
                "weights": dict.fromkeys(KNOWN, 0.25),
                "temperature": 1.0,
            },
            "product": {**fused, "reliability": 1.0, "temperature": 1.0},
        },
        grid={
            "dempster_fusion": {"temperature": TEMPERATURES, "reliability": (0.5, 0.9)},
            "mean": {"temperature": TEMPERATURES, "rate": (0.3, 1.0)},
            "product": {"temperature": TEMPERATURES, "rate": (0.3, 1.0)},
        },
        claims={"dempster_fusion": measured.claim("dempster_fusion", ["mean", "product"])},
    )


def rl_kd() -> ConfigDict:
    """S204: a learned choice of teachers, against all of them and against a choice at random."""
    chosen = {"method": "rl_kd", "teachers": tuple(KNOWN), "student_feature": "hidden1"}
    grid = {"rate": measured.RATES, "weight": (0.3, 0.7)}
    return partial_teachers(
        500,
        False,
        rows={
            "rl_kd": {**chosen, "weight": 0.5},
            "average": {"method": "weighted_teachers", "weights": dict.fromkeys(KNOWN, 0.25)},
            "random": {**chosen, "weight": 0.5, "policy_weight": 0.0},
        },
        grid={"rl_kd": grid, "average": grid, "random": grid},
        claims={"rl_kd": measured.claim("rl_kd", over=["average", "random"])},
    )


def meta_dmoe() -> ConfigDict:
    """S129: a student that adapts to an unseen rotation, against one of all and one of mean experts."""
    plain = {"rate": (0.3, 1.0, 3.0, 10.0)}
    return measured.study(
        "turned_digits",
        rows=["meta_dmoe", "before", "erm", "kd", "experts"],
        claims={
            "meta_dmoe": measured.claim("meta_dmoe", ["erm", "kd"]),
            "adaptation": measured.claim("meta_dmoe", ["before"]),
        },
        options={
            "size": 14,
            "angles": (0, 15, 30, 45, 60),
            "validation_angle": -15,
            "test_angle": 75,
            "support": 24,
            "batch": 64,
            "expert_steps": 600,
            "steps": 600,
        },
        data=measured.MNIST,
        grid={
            "meta_dmoe": {"rate": (1.0, 3.0), "inner_rate": (0.1, 1.0)},
            "erm": plain,
            "kd": plain,
        },
    )


def sak() -> ConfigDict:
    """S038: a path per teacher and routers per task, against one trunk for the mean of both teachers."""
    grid = {"rate": (0.3, 1.0, 3.0)}
    over = ["single", "kd", "alone"]
    return measured.study(
        "turned_tasks",
        rows=["sak", "single", "kd", "alone", "classes", "turns"],
        claims={
            "classes": measured.claim("sak", over, "classes"),
            "turns": measured.claim("sak", over, "turns"),
        },
        options={
            "size": 14,
            "teacher_steps": 1500,
            "labelled": 300,
            "batch": 64,
            "hidden": 128,
            "wide_hidden": 173,
            "first_steps": 500,
            "steps": 300,
        },
        data=measured.MNIST,
        grid=dict.fromkeys(["sak", "single", "kd", "alone"], grid),
    )


def recon() -> ConfigDict:
    """S248: points rebuilt and taught at once without disturbing each other, against the teachers alone.

    `generative` sees no labels and is no opponent on them.
    """
    return measured.study(
        "points_of_digits",
        rows=["recon", "attached", "generative", "contrastive", "pixels"],
        claims={
            "recon": measured.claim("recon", ["contrastive"]),
            "detached": measured.claim("recon", ["attached"]),
        },
        options={
            "points": 64,
            "patches": 12,
            "size": 8,
            "teacher_steps": 1000,
            "batch": 32,
            "width": 32,
            "steps": 300,
            "labelled": 100,
            "strengths": (1.0, 10.0, 100.0, 1000.0),
        },
        data=measured.MNIST,
        grid={
            row: {"rate": (0.3, 1.0)} for row in ("recon", "attached", "generative", "contrastive")
        },
    )
