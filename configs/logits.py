"""The catalogue's methods on logits, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run dot
    python -m experiments.distill --config=configs/logits.py:dot --workdir=runs/catalogue/dot
    python -m experiments.study --config=configs/logits.py:cumulative_spatial --workdir=runs/cskd

The recipes are the functions below; the measured results are in `configs/README.md`. One takes one
to two minutes on two cores; `configs/logits.py:dot,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import digits
from configs.measured import (
    ALONE,
    DIGITS,
    FEW_LABELS,
    FIXED,
    KD,
    MNIST,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(
        arg, born_again, cumulative_spatial, dot, empsel, fantastic_gains, guided_self_distillation,
        map_k_self_distillation, robustify, stored_views,
    )  # fmt: skip


def dot() -> ConfigDict:
    """S208: two momenta against the same losses under one, both by SGD."""
    sgd = {"name": "sgd", "learning_rate": 0.05, "options": {}}
    return classification(
        rows={"dot": {"method": "dot", "difference": 0.075, "optimiser": sgd, "tried": KD}},
        claims={"dot": claim("dot", over=["kd"])},
        optimiser=digits.optimiser(**{**sgd, "options": {"momentum": 0.9}}),
        **FEW_LABELS,
    )


def born_again() -> ConfigDict:
    """S213: three generations of one architecture, against labels alone, and for as many steps."""
    generation = {"method": "born_again", "weight": 0.5, "tried": tried(weight=(0.5, 1.0))}
    return classification(
        rows={
            "generation1": {**generation, "after": "alone"},
            "generation2": {**generation, "after": "generation1"},
            "generation3": {**generation, "after": "generation2"},
            "longer": {"method": "supervised", "steps": 2400, "tried": ALONE},
        },
        claims={"born_again": claim("generation3", over=["alone", "longer"])},
        **FEW_LABELS,
    )


def empsel() -> ConfigDict:
    """S028: three kinds of access to a teacher over a finite domain; distances, and their rates."""
    better = {"metric": "distance", "direction": "lower"}
    rate = {"metric": "slope", "direction": "equal", "margin": 0.1}
    return study(
        "finite_domains",
        rows=each(FIXED, "hard", "weighted", "squared", "full", "half", "one"),
        claims={
            "squared": claim("squared", over=["weighted", "hard"], **better),
            "full": claim("full", over=["hard"], **better),
            "hard": claim("hard", over=["weighted"], **better),
            "hard_rate": claim("hard", over=["half"], **rate),
            "squared_rate": claim("squared", over=["one"], **rate),
            "full_rate": claim("full", over=["one"], **rate),
        },
        options={"inputs": 10, "labels": 20, "sizes": (1000, 3000, 10_000, 30_000), "repeats": 30},
    )


def guided_self_distillation() -> ConfigDict:
    """S236: generations with labels settle, without them they collapse; the best share of labels."""
    better, same = {"metric": "error", "direction": "lower"}, ("error", "equal")
    names = "once pure mixed mixed_limit amplified pure_limit estimated searched"
    return study(
        "repeated_self_distillation",
        rows=each(FIXED, *names.split()),
        claims={
            "collapse": claim("pure", over=["pure_limit"], **better),
            "guided": claim("mixed_limit", over=["pure_limit"], **better),
            "limit": claim("mixed_limit", ["amplified"], *same, margin=1e-6),
            "settled": claim("mixed", ["mixed_limit"], *same, margin=0.01),
            "share": claim("estimated", ["searched"], "label_weight", "equal", margin=0.05),
        },
        options={
            "points": 11, "noise": 0.5, "gamma": 80.0, "regularisation": 0.2, "label_weight": 0.35,
            "generations": 3, "digits": 400, "flipped": 0.3, "digits_gamma": 0.02, "digits_regularisation": 0.02,
        },
        data=DIGITS,
        seeds=30,  # a closed form costs nothing
    )  # fmt: skip


def fantastic_gains() -> ConfigDict:
    """S030: a trained student learns from a teacher of seven classes and keeps what it knew better."""
    goes_on = {"after": "alone", "carry": True, "tried": ALONE}
    config = classification(
        rows={
            "partitioned": {"method": "data_partition", **goes_on},
            "transferred": {"method": "kd", "temperature": 1.0, "weight": 1.0, **goes_on},
        },
        claims={"kept": claim("partitioned", over=["transferred", "alone"])},
        **FEW_LABELS,
    )
    with config.unlocked():
        config.run.teacher.classes = tuple(range(7))
    return config


def map_k_self_distillation() -> ConfigDict:
    """S058: a generation that trusts the one before by its average precision, against full trust."""
    reliable = {"method": "reliable_generation", "weight": 1.0, "tried": tried(weight=(0.3, 1.0))}
    trusting = {"method": "born_again", "weight": 0.5, "tried": tried(weight=(0.3, 0.5))}
    return classification(
        rows={
            "reliable": {**reliable, "after": "alone"},
            "trusting": {**trusting, "after": "alone"},
        },
        claims={"reliable": claim("reliable", over=["trusting", "alone"])},
        **FEW_LABELS,
    )


def cumulative_spatial() -> ConfigDict:
    """S056: what a convolutional teacher says at each place, for a transformer's patches."""
    distilled = tried((0.5, 1.0, 2.0), weight=(0.3, 0.7))
    return study(
        "spatial_logits",
        rows={
            "teacher": FIXED,
            "alone": tried((0.25, 0.5, 1.0, 2.0, 4.0, 8.0)),
            **each(distilled, "deit", "spatial", "cumulative"),
        },
        claims={
            "cumulative": claim("cumulative", over=["deit", "alone"]),
            "fusion": claim("cumulative", over=["spatial"]),
        },
        options={
            "size": 16, "patch": 4, "width": 32, "depth": 2, "heads": 2, "labelled": 500, "batch": 32,
            "rate": 2e-3, "teacher_steps": 400, "steps": 500,
        },
        data=MNIST,
    )  # fmt: skip


def robustify() -> ConfigDict:
    """S121: a small robust network teaches a large one's last layers, a clean and a robust head."""
    taught, rates = tried(weight=(0.3, 1.0)), tried((0.03, 0.1, 0.3, 1.0, 2.0, 3.0))
    return study(
        "robust_heads",
        rows={
            **each(FIXED, "teacher", "pretrained"), **each(rates, "linear", "full"), "single": taught,
            "untaught": rates, "three": taught, "oracle": FIXED,
        },
        claims={
            "taught": claim("three", ["untaught"], "corrupted"),
            "robust": claim("three", ["pretrained", "linear"], "corrupted"),
            "clean": claim("three", ["single"], "clean"),
            "kept": claim("three", ["pretrained"], "clean", "equal", margin=0.01),
        },
        options={
            "size": 16, "width": 256, "teacher": 64, "noise": 1.0, "shift": 3, "percentile": 90.0,
            "batch": 64, "rate": 1e-3, "teacher_steps": 1000, "steps": 300,
        },
        data=MNIST,
    )  # fmt: skip


def stored_views() -> ConfigDict:
    """S110: a teacher's best classes for ten views of every image, stored once, against the live one."""
    return study(
        "replayed_views",
        rows={"teacher": FIXED, **each(ALONE, "alone", "live", "sparse", "renormalised", "wrong")},
        claims={
            "same": claim("sparse", over=["live"], direction="equal", margin=0.01),
            "seed": claim("sparse", over=["wrong"]),
            "labels": claim("sparse", over=["alone"]),
        },
        options={
            "size": 16, "images": 1000, "views": 10, "kept": 3, "shift": 2, "mixed": 0.4,
            "student": 128, "teacher": 256, "batch": 64, "rate": 3e-3, "teacher_steps": 1500,
            "steps": 1500,
        },
        data=MNIST,
    )  # fmt: skip
