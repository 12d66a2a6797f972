"""The catalogue's rows of letters, tags and frames: recipes of `configs/lm.py` whose effect is measured.

    python -m tools.catalogue run a2d
    python -m experiments.study --config=configs/lm.py:a2d --workdir=runs/a2d

The measured results are in `configs/README.md`. A recipe takes some minutes on two cores.
"""

from ml_collections import ConfigDict

from configs.measured import DIGITS, FIXED, MNIST, chosen, claim, each, study, tried

SOURCES = "the Python standard library's sources"
CHARACTERS = {"length": 48, "evaluated": 300, "steps": 300, "batch": 16, "rate": 3e-3}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, *RECIPES)


def a2d() -> ConfigDict:
    """S185: kinds of characters; a teacher's answers, and its maps under a trained map of heads."""
    rows = {
        "alone": {"aligner": "", "weight": 0.0},
        "kd": {"aligner": ""},
        "last_layer": {"aligner": "last"},
        "a2d": {"aligner": "trained", "attention_weight": 16.0},
    }
    return study(
        "attention_alignment",
        rows={"teacher": FIXED, **each(tried(), *rows)},
        claims={"a2d": claim("a2d", ["kd", "last_layer", "alone"])},
        options={
            **CHARACTERS, "methods": rows, "windows_read": 4000, "labelled": 500, "teacher_width": 64,
            "teacher_depth": 2, "teacher_steps": 1500, "width": 32, "depth": 1, "epoch": 60,
        },
        data=SOURCES,
    )  # fmt: skip


def reinforcer() -> ConfigDict:
    """S126: kinds of characters from a frozen model's states, alone, gated or with their neighbours."""
    windows = {"linear": 0, "pointwise": 1, "reinforcer": 5}
    return study(
        "neighbouring_context",
        rows={"model": FIXED, **each(tried(), *windows)},
        claims={"reinforcer": claim("reinforcer", ["linear", "pointwise"])},
        options={
            **CHARACTERS, "windows": windows, "windows_read": 4000, "labelled": 500, "masked": 0.15,
            "model_width": 64, "model_depth": 2, "model_steps": 1500, "model_rate": 2e-3,
        },
        data=SOURCES,
    )  # fmt: skip


def endangered_species_ner() -> ConfigDict:
    """S067: labels of a teacher, all of them or those of the windows that a verifier lets pass."""
    return study(
        "verified_labels",
        rows={"teacher": FIXED, **each(tried(), "gold_small", "unfiltered", "filtered", "gold")},
        claims={"filtered": claim("filtered", ["unfiltered", "gold_small"])},
        options={
            **CHARACTERS, "windows_read": 2000, "gold": 60, "labelled": 1500, "wanted": 0.9,
            "teacher_width": 64, "teacher_steps": 600, "width": 32,
        },
        data=SOURCES,
    )  # fmt: skip


def gecturk() -> ConfigDict:
    """S156: which of six rules spoiled a word; the prefix of a frozen model against a tagger from scratch."""
    return study(
        "spelling_rules",
        rows={"model": FIXED, **each(tried(), "scratch", "frozen", "prefix")},
        claims={"prefix": claim("prefix", ["scratch", "frozen"], "f_half")},
        options={
            "home": ("asyncio", "unittest", "multiprocessing", "logging"), "abroad": ("email", "http"),
            "length": 48, "windows_read": 400, "labelled": 200, "spoiled": 0.3, "prefix": 8,
            "model_width": 64, "model_depth": 2, "model_steps": 1500, "model_rate": 2e-3,
            "steps": 300, "batch": 16, "rate": 3e-3,
        },
        data=f"words of the comments in {SOURCES}, spoiled by rules",
    )  # fmt: skip


def context_aware_ctc() -> ConfigDict:
    """S023: strips of digits in an order of a grammar as pseudo-audio; a model of the grammar helps."""
    rows = {
        "ctc": {"feedback": False, "transfer": False},
        "feedback": {"feedback": True, "transfer": False},
        "transfer": {"feedback": False, "transfer": True},
        "context_aware": {"feedback": True, "transfer": True},
    }
    own = claim("context_aware", ["ctc", "feedback"], "token_error", "lower")
    return study(
        "transcribed_strips",
        rows={"model": FIXED, **each(tried(), *rows)},
        claims={"context_aware": own},
        options={
            "methods": rows, "successors": 3, "shortest": 3, "longest": 5, "texts": 2000, "strips": 200,
            "noise": 0.3, "masked": 0.3, "model_width": 32, "model_steps": 500, "width": 32,
            "steps": 400, "batch": 16, "rate": 3e-3,
        },
        data=DIGITS,
    )  # fmt: skip


def perturbed_speech() -> ConfigDict:
    """S111: rows of images as pseudo-audio; more of the same, perturbed copies, or another language."""
    ratios, kinds = (1, 4, 16), ("stretched", "noisy", "both", "foreign")
    arms = [f"{kind}_{ratio}" for kind in kinds for ratio in ratios]
    return study(
        "perturbed_frames",
        rows=each(FIXED, "base", "real", *arms),
        claims={
            "both": claim("both_16", ["stretched_16", "noisy_16", "foreign_16"]),
            "gain": claim("both_16", ["base"]),
        },
        options={
            "size": 14, "base": 200, "probe": 500, "ratios": ratios, "noise": 0.5, "ahead": 3,
            "width": 48, "ridge": 0.01, "steps": 300, "batch": 32, "rate": 3e-3,
        },
        data=MNIST,
    )  # fmt: skip


RECIPES = (
    a2d, reinforcer, endangered_species_ner, gecturk, context_aware_ctc, perturbed_speech,
)  # fmt: skip
