"""What the recipes of the catalogue share: one protocol for every family of classifiers.

The 10,000 MNIST test images, split 6,000 / 1,500 / 2,500; a teacher with 256 hidden units that learns
all training labels and is trained once for all recipes; students with 16 hidden units. For every row
the learning rate and one or two of its own numbers are chosen on validation, by the same number of
trials; the test split is read once, over ten seeds that pair the rows. MNIST comes from its raw files
(`--config.run.data.manual_dir=DIR`) and is kept prepared afterwards.

`tiny` in the argument of a recipe is the same in small on the digits inside scikit-learn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import digits

MNIST: dict[str, Any] = {"name": "mnist_t10k", "mean": (0.13,), "std": (0.31,)}
DIGITS: dict[str, Any] = {"name": "digits", "mean": (0.3,), "std": (0.38,)}
RATES = (0.3, 1.0, 3.0)  # factors of the learning rate


def tried(rate=RATES, **values: Sequence[float]) -> dict[str, Sequence[float]]:
    """What is chosen among for a row: every combination of the rates and of the values of its numbers."""
    return {"rate": rate, **values}


ALONE = tried((0.1, 0.3, 0.6, 1.0, 2.0, 4.0))
KD = tried(weight=(0.5, 0.9))
HINT = tried(weight=(0.1, 0.5))
FEATURES = {"student_feature": "hidden1", "teacher_feature": "hidden1"}
HINT_ROW = {"method": "hint", **FEATURES, "weight": 0.5, "tried": HINT}
# Where every training image has its label, plain KD itself gains nothing that ten seeds can tell.
FEW_LABELS = {"data": {"labelled": 500}, "steps": 600}

# For methods on maps or tokens: 4 x 4 patches of an image on either side, whose mean the head reads.
TOKENS = {"student_feature": "tokens", "teacher_feature": "tokens"}
VIT: dict[str, Any] = {"name": "vision_transformer", "patch": 7, "mean_pool": True}
TRANSFORMERS: dict[str, Any] = {
    "data": {"labelled": 500},
    "steps": 300,
    "batch": 32,
    "teacher": {"steps": 1000, "network": {**VIT, "width": 48, "depth": 2, "heads": 4}},
    "student": {"network": {**VIT, "width": 16, "depth": 2, "heads": 2}},
}


FIXED: dict[str, Any] = {}  # a study's row for which nothing is tried


def each(tried: Mapping, *rows: str) -> dict[str, Mapping]:
    """The same `tried` for several rows of a study."""
    return dict.fromkeys(rows, tried)


def claim(row: str, over: Sequence[str], metric="accuracy", direction="higher", margin=0.0):
    """That `row` is better than each of `over`, the paper's opponent first; stated before a run."""
    return {
        "row": row,
        "over": tuple(over),
        "metric": metric,
        "direction": direction,
        "margin": margin,
    }


def classification(
    rows: Mapping[str, Mapping],
    claims: Mapping[str, Mapping],
    optimiser: ConfigDict | None = None,
    **changes,
) -> ConfigDict:
    """The protocol with `alone`, plain `kd` and the given rows.

    Args:
        rows: each with what is `tried` for it: as many combinations as the six of `alone` and `kd`.
        claims: from `claim`, by name.
        optimiser: the students' in place of AdamW.
        changes: of `run`.
    """
    config = digits.get_config()
    run, place = config.run, config.place
    with config.unlocked():
        run.update({"seeds": 10, "steps": 1000, "batch": 64})
        run.data.update({**MNIST, "labelled": 0, "transfer": False})
        run.teacher.update({"cached": True, "steps": 1000})
        run.teacher.network = {"name": "multilayer_perceptron", "widths": (256,)}
        run.student.optimiser = optimiser or digits.optimiser(learning_rate=3e-3)
        everything: dict[str, Mapping] = {
            "alone": {"method": "supervised", "tried": ALONE},
            "kd": {"method": "kd", "temperature": 4.0, "weight": 0.9, "tried": KD},
            **rows,
        }
        run.rows = {
            name: {key: value for key, value in row.items() if key != "tried"}
            for name, row in everything.items()
        }
        grid = {name: dict(row["tried"]) for name, row in everything.items()}
        run.tune = {"trials": 6, "seeds": 3, "metric": "accuracy", "grid": grid}
        run.claims = {name: dict(each) for name, each in claims.items()}
        for side in ("teacher", "student"):
            if "network" in changes.get(side, {}):
                run[side].network = ConfigDict()  # another network has other options
        run.update(changes)
        place.update({"save_every": 10_000, "log_every": 250, "validate_every": 500})
        # Trained once for all recipes that ask for the same.
        place.update({"shared": "runs/shared", "shared_rows": ("alone", "kd")})
    return config


def study(
    name: str,
    rows: Mapping[str, Mapping],
    claims: Mapping[str, Mapping],
    options: Mapping,
    data: str | Mapping = "none: closed forms of drawn tables",
    seeds: int = 10,
) -> ConfigDict:
    """A study of `experiments/studies/`.

    Args:
        name: of its function.
        rows: what is tried for each of them by the study's score, equally many combinations; nothing
            (`FIXED`) for a row without a choice. "row/part" where that is for a part of a row's training.
        claims: from `claim`, by name.
        options: its sizes.
        data: a data set that it reads, `MNIST` or `DIGITS`, or in words what it makes itself.
    """
    config = ConfigDict()
    own: dict[str, Any] = {"name": data} if isinstance(data, str) else dict(data)
    if not isinstance(data, str):
        own |= {"data_dir": "", "manual_dir": ""}
    config.run = ConfigDict(
        {
            "seeds": seeds,
            "seeds_together": True,
            "study": name,
            "options": dict(options),
            "data": own,
            "rows": {row.partition("/")[0]: {} for row in rows},
            "claims": {name: dict(each) for name, each in claims.items()},
        }
    )
    grid = {row: dict(values) for row, values in rows.items() if values}
    if grid:
        trials = math.prod(len(values) for values in next(iter(grid.values())).values())
        config.run.tune = ConfigDict(
            {"trials": trials, "seeds": 3, "metric": "score", "grid": grid}
        )
    config.place = ConfigDict(
        {
            "mesh": "data=-1",
            "how": "pjit",
            "sharding": {},
            "save_every": 10_000,
            "log_every": 250,
            "validate_every": 10_000,
        }
    )
    return config


def chosen(arg: str, *recipes: Callable[[], ConfigDict], smaller=None) -> ConfigDict:
    """The recipe that `arg` names first, or its `tiny` form: by `smaller(config)`, where not as here."""
    there = {recipe.__name__: recipe for recipe in recipes}
    name, *others = [part for part in arg.split(",") if part] or [""]
    if name not in there or set(others) - {"tiny"}:
        raise ValueError(f"there is no recipe {arg!r}; there are {', '.join(there)}, and tiny")
    config = there[name]()
    if "tiny" in others:
        (smaller or shrink)(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Few steps on the digits, two seeds and the first trials of every row."""
    run = config.run
    if "study" in run:
        run.seeds = 2
        for key, value in run.options.items():
            if key == "steps" or key.endswith("_steps"):
                run.options[key] = min(value, 20)
        if "tune" in run:
            run.tune.seeds = 1
        if run.data.name == MNIST["name"]:
            run.data.update(DIGITS)
        return
    run.data.update(DIGITS)
    run.seeds, run.steps, run.teacher.steps, run.tune.seeds = 2, 40, 40, 1
    for network in (run.teacher.network, run.student.network):
        if "patch" in network:
            network.patch = 2
    for settings in (*run.rows.values(), *run.get("teachers", {}).values()):
        if "steps" in settings:
            settings.steps = 40
