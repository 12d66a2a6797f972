"""The catalogue's methods for private data: studies of `experiments/studies/privacy.py`,
`secrets.py` and `grafted.py`.

    python -m tools.catalogue run prompt_pate --data DIR
    python -m experiments.study --config=configs/privacy.py:prompt_pate --workdir=runs/prompt_pate

The measured results are in `configs/README.md`. A recipe takes a few minutes on two cores;
`configs/privacy.py:prompt_pate,tiny` is a quick look.
"""

from ml_collections import ConfigDict

from configs.measured import FIXED, MNIST, chosen, claim, each, study, tried


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, prompt_pate, swing_distillation, llamdex)


def prompt_pate() -> ConfigDict:
    """S160: prompted teachers against a linear map alone and against networks of their own, at one ε."""
    rows = ("prompt_pate", "map", "scratch")
    return study(
        "prompted_teachers",
        rows={
            **each(tried((1.0, 3.0, 10.0)), *(f"{row}/teachers" for row in rows)),
            **each(tried((0.1, 0.3, 1.0)), *(f"{row}/student" for row in rows)),
            "source": FIXED,
        },
        claims={
            "prompt_pate": claim("prompt_pate", ["scratch"]),
            "votes": claim("prompt_pate", ["scratch"], "votes_accuracy"),
            "prompt": claim("prompt_pate", ["map"], "votes_accuracy"),
        },
        options={
            "source": (128, 64), "source_steps": 1500, "scratch": (32,), "teachers": 40, "images": 20,
            "teacher_steps": 60, "radius": 0.05, "threshold": 0.6, "sigma_threshold": 12.0, "sigma": 8.0,
            "epsilon": 10.0, "delta": 1e-3, "student": (64,), "student_steps": 300,
        },
        data=MNIST,
    )  # fmt: skip


def swing_distillation() -> ConfigDict:
    """S034: targets melted and noised at runs of digits, against plain ones, and none, on canaries."""
    own = "swing_distillation"
    return study(
        "planted_secrets",
        rows={**each(tried(), own, "kd", "masked"), "teacher": FIXED},
        claims={
            "exposure": claim(own, ["kd"], "exposure", "lower"),
            "quality": claim(own, ["kd"], "bits", "equal", 0.03),
            "melted": claim(own, ["masked"], "bits", "lower"),
        },
        options={
            "canaries": 20, "repeated": 20, "candidates": 500, "characters": 300_000, "held": 20_000,
            "length": 64, "teacher_width": 96, "teacher_steps": 1200, "student_width": 48,
            "student_steps": 400,
            "swing": {"hottest": 8.0, "noise_budget": 20.0, "label_weight": 0.5},
        },
        data="characters of the standard library's sources, with planted lines of digits",
    )  # fmt: skip


def llamdex() -> ConfigDict:
    """S012: an expert grafted into a model, against the model tuned on noised rows, at one ε."""
    return study(
        "private_table",
        rows={
            **each(tried(), "llamdex/encoder", "llamdex/decoder", "synthetic", "expert"),
            "model": FIXED,
        },
        claims={"llamdex": claim("llamdex", ["synthetic"])},
        options={
            "features": 8, "rows": 4000, "tokens": 4, "model_steps": 600, "expert_steps": 200,
            "encoder_steps": 600, "decoder_steps": 200, "joins": 0.2, "epsilon": 1.0, "delta": 1e-3,
        },
        data="the table of breast tumours inside scikit-learn, as questions in text",
    )  # fmt: skip
