"""The catalogue's methods on features, each on a protocol of `configs/measured.py`.

    python -m tools.catalogue run aft
    python -m experiments.distill --config=configs/features.py:aft --workdir=runs/catalogue/aft
    python -m experiments.study --config=configs/features.py:teacher_class --workdir=runs/classes

The measured results are in `configs/README.md`. A recipe takes one to three minutes on two cores;
`configs/features.py:aft,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs.measured import (
    ALONE,
    FEATURES,
    FEW_LABELS,
    FIXED,
    HINT,
    HINT_ROW,
    KD,
    MNIST,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip

SOURCES = "text of the standard library's sources, its characters"


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(
        arg, aft, auto_transfer, implicit_autoencoder, llm_modules, mobilebert, path_ensemble,
        talking_models, teacher_class,
    )  # fmt: skip


def aft() -> ConfigDict:
    """S177: a gated kernel of the teacher's features, against regressing them and plain KD."""
    own = {"method": "aft", **FEATURES, "weight": 1.0, "tried": tried(weight=(1.0, 10.0))}
    return classification(
        rows={"aft": own, "hint": HINT_ROW},
        claims={"aft": claim("aft", over=["hint", "kd"])},
        **FEW_LABELS,
    )


def teacher_class() -> ConfigDict:
    """S219: four students with a quarter of the teacher's vector each, against one of their size."""
    return study(
        "class_of_students",
        rows={"teacher": FIXED, "alone": ALONE, "kd": KD, "hint": HINT, "class": ALONE, "tuned": ALONE},
        claims={name: claim(name, over=["hint", "kd"]) for name in ("class", "tuned")},
        options={
            "teacher": 256, "vector": 64, "hidden": 32, "students": 4, "labelled": 0, "batch": 64,
            "rate": 3e-3, "teacher_steps": 1000, "steps": 1000, "apart_steps": 700,
            "tuned_steps": 300,
        },
        data=MNIST,
    )  # fmt: skip


def talking_models() -> ConfigDict:
    """S053: messages between a network of MNIST and a student of the digits, against one-way transfer."""
    talk = tried(weight=(0.1, 1.0))
    return study(
        "interactive_communication",
        rows={
            "teacher": FIXED, "alone": ALONE, "kd": KD, "hint": HINT,
            **each(talk, "consistency", "one_round", "two_rounds"),
        },
        claims={
            "talk": claim("one_round", over=["hint", "kd"]),
            "interaction": claim("one_round", over=["consistency"]),
        },
        options={
            "centre": 20, "teacher": 128, "student": 32, "message": 32, "labelled": 200, "batch": 64,
            "rate": 3e-3, "teacher_steps": 1000, "steps": 600,
        },
        data=MNIST,
    )  # fmt: skip


def mobilebert() -> ConfigDict:
    """S092: layer after layer, then words, against all layers at once, words alone and plain KD."""
    lower = {"metric": "loss", "direction": "lower"}
    distilled = tried((1.0, 3.0), labels=(0.3, 0.7))
    return study(
        "layer_by_layer",
        rows={
            "teacher": FIXED, "alone": tried((0.3, 1.0, 2.0, 3.0)),
            **each(distilled, "kd", "joint", "progressive"),
        },
        claims={
            "progressive": claim("progressive", over=["alone", "kd"], **lower),
            "order": claim("progressive", over=["joint"], **lower),
        },
        options={
            "length": 32, "masked": 0.2, "windows": 20_000, "held": 400, "width": 48, "layers": 3,
            "heads": 2, "bottleneck": 16, "hidden": 64, "batch": 16, "teacher_rate": 1e-3,
            "rate": 1e-3, "teacher_steps": 3000, "steps": 500, "transfer": 0.4,
        },
        data=SOURCES,
    )  # fmt: skip


def path_ensemble() -> ConfigDict:
    """S264: a transformer as a sum of paths, scaled by channel, its long sum teaching the short ones."""
    plain, exits = tried((0.5, 1.0, 2.0, 4.0)), tried((1.0, 2.0), weight=(0.2, 0.5))
    return study(
        "path_sums",
        rows={
            **each(plain, "plain", "scaled"), **each(exits, "supervised", "distilled"),
            "pruned": FIXED,
        },
        claims={
            "distilled": claim("distilled", over=["supervised", "scaled", "plain"]),
            "pruned": claim("pruned", over=["plain"]),
        },
        options={
            "size": 16, "patch": 4, "width": 32, "depth": 3, "heads": 2, "labelled": 500, "batch": 32,
            "rate": 2e-3, "steps": 500,
        },
        data=MNIST,
    )  # fmt: skip


def implicit_autoencoder() -> ConfigDict:
    """S275: codes of digits' contours, by a distance field or by the points; how they are resampled."""
    return study(
        "contours_of_digits",
        rows={**each(tried(), "implicit", "chamfer"), "untrained": FIXED},
        claims={
            "accuracy": claim("implicit", over=["chamfer", "untrained"]),
            "resampling": claim("implicit", ["chamfer"], "resampling", "lower"),
        },
        options={
            "points": 48, "crossings": 160, "queries": 48, "spread": 0.1, "width": 32, "code": 32,
            "hidden": 64, "labelled": 1000, "draws": 3, "ridge": 1e-3, "batch": 32, "rate": 2e-3,
            "steps": 500,
        },
        data=MNIST,
    )  # fmt: skip


def auto_transfer() -> ConfigDict:
    """S033: bandits choose which layers of a network of MNIST a student of the digits takes in."""
    rows = ("alone", "kd", "finetune", "fixed", "random", "bandit")
    return study(
        "routes_between_networks",
        rows={"teacher": FIXED, **each(tried(), *rows)},
        claims={
            "transfer": claim("bandit", over=["finetune", "kd", "alone"]),
            "routes": claim("bandit", over=["fixed", "random"]),
        },
        options={
            "centre": 20, "source": 128, "width": 32, "labelled": 200, "eta": 0.05, "explore": 0.1,
            "batch": 32, "rate": 3e-3, "teacher_steps": 1000, "steps": 600,
        },
        data=MNIST,
    )  # fmt: skip


def llm_modules() -> ConfigDict:
    """S009: a frozen model's states read by cross-attention, against models on their own, and KD."""
    over, lower = ["alone", "kd"], {"metric": "bits", "direction": "lower"}
    rates = tried((0.5, 1.0, 2.0, 4.0))
    return study(
        "grafted_modules",
        rows={
            "teacher": FIXED, "alone": rates, "kd": tried((1.0, 2.0), weight=(0.3, 0.7)),
            **each(rates, "front", "gated"),
        },
        claims={name: claim(name, over, **lower) for name in ("front", "gated")},
        options={
            "length": 32, "windows": 3000, "held": 300, "source_windows": 20_000, "source": 64,
            "source_depth": 3, "source_batch": 32, "heads": 4, "width": 32, "alone": 48,
            "bottleneck": 16, "batch": 16, "teacher_rate": 2e-3, "rate": 2e-3,
            "teacher_steps": 1500, "steps": 400,
        },
        data=SOURCES,
    )  # fmt: skip
