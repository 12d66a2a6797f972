"""The catalogue's rows of language models: recipes of `configs/lm.py` whose effect is measured.

    python -m tools.catalogue run taid
    python -m experiments.distill_lm --config=configs/lm.py:taid --workdir=runs/taid

The measured results are in `configs/README.md`. A recipe takes some minutes on two cores.
"""

from ml_collections import ConfigDict

from configs import measured, small_text
from configs.measured import FIXED, chosen, claim, each, study, tried
from configs.small_text import KD, measured_text


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, *RECIPES, smaller=_shrink)


def _shrink(config):
    (measured.shrink if "study" in config.run else small_text.shrink)(config)


def better(row, over):
    """That a row's held-out perplexity is lower; stated before a run."""
    return claim(row, over, "perplexity", "lower")


def taid() -> ConfigDict:
    """S007: KL to a target that moves from the student to the teacher, and both KLs to the teacher."""
    rows = {
        "reverse_kl": {**KD, "divergence": "reverse_kl"},
        "taid": {"method": "taid", "start": 0.4},
    }
    return measured_text(rows, {"taid": better("taid", over=["kd", "reverse_kl"])})


def self_evolution() -> ConfigDict:
    """S036: targets of truth and teacher, the harder tokens' drawn towards the student."""
    rows = {
        "kd_half": {**KD, "weight": 0.5},
        "self_evolution": {"method": "self_evolution_kd", "truth_weight": 0.5},
    }
    claims = {"self_evolution": better("self_evolution", over=["kd_half", "kd"])}
    return measured_text(rows, claims)


def pretraining_distillation() -> ConfigDict:
    """S209: the share of the teacher constant and warmed up, held and decayed; few of its classes."""
    mixed = {**KD, "weight": 0.9}
    rows = {
        "kd_constant": mixed,
        "kd_stable": {**mixed, "schedule": "warmup_stable_decay"},
        "kd_top8": {**mixed, "top_k": 8},
    }
    claims = {
        "distilled": better("kd_constant", over=["alone"]),
        "truncated": claim("kd_top8", ["kd_constant"], "perplexity", "equal", margin=0.5),
    }
    return measured_text(rows, claims)


def llm_neo() -> ConfigDict:
    """S050: a student of half the teacher's layers, whole or by low-rank factors, with and without it."""
    whole = {"teacher_layers": True}
    adapted = {**whole, "rank": 8, "alpha": 16.0, "patterns": (HEADS, OTHERS)}
    kd = {**KD, "weight": 0.9}
    rows = {
        "alone": {"method": "next_token", "student": whole},
        "alone_low_rank": {"method": "next_token", "student": adapted},
        "kd": {**kd, "student": whole},
        "kd_low_rank": {**kd, "student": adapted},
    }
    claims = {"llm_neo": better("kd_low_rank", over=["alone_low_rank"])}
    return _halved(measured_text(rows, claims))


def _halved(config) -> ConfigDict:
    """The student is one of the teacher's kind with half its layers."""
    network = config.run.teacher.network.to_dict()
    config.run.student.network = ConfigDict({**network, "depth": network["depth"] // 2})
    return config


def first() -> ConfigDict:
    """S271: the teacher's five best classes, recalibrated on validation; of an overtrained teacher.

    The student is the teacher's first layer, so that it is a language model before it is distilled.
    """
    start = {"student": {"teacher_layers": True}}
    top = {**start, "method": "first", "top_k": 5}
    rows = {
        "alone": {**start, "method": "next_token"},
        "kd": {**start, **KD},
        "top5": top,
        "first": {**top, "calibrated": (0.7, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0)},
    }
    error = {"metric": "calibration_error", "direction": "lower"}
    claims = {
        "calibration": claim("first", ["top5", "alone", "kd"], **error),
        "accuracy": claim("first", ["alone"]),
    }
    config = _halved(measured_text(rows, claims))
    config.run.data.rows = 2048
    return config


DOMAINS = ("asyncio", "email", "unittest", "encodings", "multiprocessing")
CORPUS = {"length": 32, "vocabulary": 384, "evaluated": 64, "batch": 8}
TEACHER = {"teacher_width": 64, "teacher_depth": 2, "teacher_steps": 1000, "teacher_rate": 3e-3}
STUDENT = {"width": 32, "depth": 1, "rate": 3e-3}


def ddk() -> ConfigDict:
    """S195: five packages, drawn by how far the student lags behind its teacher on them."""
    even = {"smoothing": 0.0}
    rows = {"alone": {**even, "weight": 0.0}, "kd": even, "ddk": {}}
    return study(
        "domain_reweighting",
        rows={**each(FIXED, "teacher", "pretrained"), **each(tried(), *rows)},
        claims={"ddk": claim("ddk", ["kd", "alone"], "worst_gap", "lower")},
        options={
            "domains": DOMAINS, **CORPUS, **TEACHER, **STUDENT, "methods": rows, "every": 20,
            "pretraining_steps": 200, "steps": 200,
        },
        data=PACKAGES,
    )  # fmt: skip


def branch_merge() -> ConfigDict:
    """S176: a student distilled on each of three packages, and the three merged; against one on all."""
    over = ["joint", "average", "task_arithmetic"]
    return study(
        "merged_branches",
        rows=each(FIXED, "teacher", "base", "branches", *over, "fusion"),
        claims={"fusion": claim("fusion", over, "loss", "lower")},
        options={
            "domains": DOMAINS[:3], **CORPUS, **TEACHER, **STUDENT, "weight": 1.0,
            "scales": (0.2, 0.3, 0.4, 0.5, 0.7, 1.0), "pretraining_steps": 300, "steps": 600,
        },
        data=PACKAGES,
    )  # fmt: skip


def rapid() -> ConfigDict:
    """S136: 128 tokens of context, and a draft that reads what is retrieved of them, 32 tokens."""
    margins = (5.0, 10.0, 20.0)
    return study(
        "retrieved_drafts",
        rows=each(FIXED, "target", "draft", *(f"rapid_{margin:g}" for margin in margins)),
        claims={
            "accuracy": claim("rapid_10", ["target", "draft"]),
            "speed": claim("rapid_10", ["target"], "tokens_per_pass"),
        },
        options={
            "domains": DOMAINS[:3], **CORPUS, "evaluated": 0, "width": 48, "depth": 2, "rate": 3e-3,
            "length": 128, "batch": 4, "steps": 600, "read": 32, "contexts": 256, "chunks": 2, "chunk": 8,
            "drafted": 8, "margins": margins, "threshold": 0.1,
        },
        data=PACKAGES,
    )  # fmt: skip


PACKAGES = "packages of the Python standard library"
# The kernels of a layer: those to several heads `[D, heads, E]` have one axis of inputs.
HEADS = ("layer.*/(query|key|value)/kernel$", 1)
OTHERS = "layer.*/(out|gate|up|down)/kernel$"
RECIPES = (
    taid, self_evolution, pretraining_distillation, llm_neo, first, ddk, branch_merge, rapid,
)  # fmt: skip
