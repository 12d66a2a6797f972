"""Language models: small ones that train here, and shapes of large ones that are planned.

    python -m experiments.distill_lm --config=configs/lm.py --workdir=runs/lm

A decoder of 4 layers teaches one of 1 layer to continue the source code of the Python standard
library, token by token. Five seeds of every student train in one program. Test perplexity 16.96 for the
teacher, 32.34 ± 0.90 for the student alone and 24.75 ± 0.40 distilled for as many steps, a paired
difference of -7.60 [-9.13, -6.06], with Python 3.11.7; seven and a half minutes on two busy cores.
`configs/lm.py:tiny` is a quick look at everything with few steps.

    python -m experiments.distill_lm --config=configs/lm.py:gkd --workdir=runs/lm_gkd

Other rows on the same text: gkd, distillm, adaptive_kl, minillm, sequence_kd, sparse_logit_sampling,
quantised, universal (a teacher with another tokenizer); `gkd,tiny` and so on for a quick look. The
catalogue's rows, taid and others, are those of `configs/language_rows.py` and
`configs/sequence_labels.py`. `--config.run.teacher.workdir` names a
workdir whose teacher is taken, which spares its training; `--config.run.teacher.weights` a folder of
public weights. `--config.run.student.licence=apache-2.0` writes each row's student of seed 0 as such a
folder, to WORKDIR/students.

    python -m tools.plan --config=configs/lm.py:llama3_8b_to_1b --topology=v5e:16x16
    python -m tools.plan --config=configs/lm.py:llama3_8b_to_1b --topology=v5p:4x4x4

A frozen teacher of the Llama 3 8B shape in bfloat16 and a student of the Llama 3.2 1B shape, its
parameters and AdamW moments in float32, computed in bfloat16: 64 sequences of 4,096 tokens a step, the
KL at every token by chunks. Every layer is recomputed in the backward pass. Needs the extra `tpu`.
`llama3_8b_to_1b,tiny` is the same at sizes for a few CPU devices (`--topology=cpu:8`).
"""

from ml_collections import ConfigDict

from configs import language_rows, sequence_labels, sequences
from configs.small_text import KD, adamw, text

# Which axes of a leaf are split over what: a leaf under `layers` starts with the axis of layers.
RULES = (
    ("embedding$", ("tensor", "fsdp")),
    ("layers/(query|key|value)/kernel$", (None, "fsdp", "tensor", None)),
    ("layers/out/kernel$", (None, "tensor", None, "fsdp")),
    ("layers/(gate|up)/kernel$", (None, "fsdp", "tensor")),
    ("layers/down/kernel$", (None, "tensor", "fsdp")),
)
UNTIED = (*RULES, ("head$", ("fsdp", "tensor")))
ACTIVATIONS = {
    "batch": ("data", "fsdp"),
    "heads": "tensor",
    "key_heads": "tensor",
    "hidden": "tensor",
    "vocabulary": "tensor",
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe (`default` where none is named), then optionally `tiny`."""
    names = [name for name in arg.split(",") if name]
    others = [name for name in names if name != "tiny"] or ["default"]
    rows = {
        recipe.__name__: module.get_config
        for module in (language_rows, sequence_labels, sequences)
        for recipe in module.RECIPES
    }
    if len(others) == 1 and others[0] in rows:
        return rows[others[0]](arg)
    if len(others) > 1 or others[0] not in RECIPES:
        there = ", ".join((*RECIPES, *rows))
        raise ValueError(f"configs/lm.py has no {arg!r}; there are {there}, and tiny")
    return RECIPES[others[0]](tiny="tiny" in names)


# --- Rows -----------------------------------------------------------------------------------------

STUDENT_WRITES = {"writer": "student", "fraction": 0.5, "every": 50, "count": 256, "prompt": 16}
TEACHER_WRITES = {"writer": "teacher", "fraction": 1.0, "count": 4096, "prompt": 8}


def gkd(*, tiny=False) -> ConfigDict:
    """GKD: the generalised JSD on the text, on half of the student's own, on that alone."""
    jsd = {**KD, "divergence": "generalized_jensen_shannon", "beta": 0.5}
    rows = {
        "kd": KD,
        "jsd": jsd,
        "jsd_mixed": {**jsd, "samples": STUDENT_WRITES},
        "jsd_on_policy": {**jsd, "samples": {**STUDENT_WRITES, "fraction": 1.0}},
    }
    return text(tiny=tiny, rows=rows)


def distillm(*, tiny=False) -> ConfigDict:
    """DistiLLM: skewed KLs, on the text and on half of the student's own."""
    skewed = {**KD, "divergence": "skew_reverse_kl", "skew": 0.1}
    rows = {
        "kd": KD,
        "skew_kl": {**KD, "divergence": "skew_kl", "skew": 0.1},
        "skew_reverse_kl": skewed,
        "skew_reverse_kl_mixed": {**skewed, "samples": STUDENT_WRITES},
    }
    return text(tiny=tiny, rows=rows)


def adaptive_kl(*, tiny=False) -> ConfigDict:
    """AKL beside the two KLs it weighs."""
    rows = {
        "kd": KD,
        "reverse_kl": {**KD, "divergence": "reverse_kl"},
        "adaptive_kl": {**KD, "divergence": "adaptive_kl", "head_mass": 0.5},
    }
    return text(tiny=tiny, rows=rows)


def minillm(*, tiny=False) -> ConfigDict:
    """MiniLLM's policy gradient, from texts of 0.8 student + 0.2 teacher, beside token-level KLs."""
    rows = {
        "kd": KD,
        "reverse_kl": {**KD, "divergence": "reverse_kl"},
        "minillm": {"method": "minillm", "samples": {**STUDENT_WRITES, "teacher_share": 0.2}},
    }
    return text(tiny=tiny, rows=rows)


def sequence_kd(*, tiny=False) -> ConfigDict:
    """Sequence-level distillation: training on what the teacher wrote, alone and among the text."""
    rows = {
        "kd": KD,
        "sequence_kd": {"method": "next_token", "samples": TEACHER_WRITES},
        "sequence_kd_mixed": {
            "method": "next_token",
            "samples": {**TEACHER_WRITES, "fraction": 0.5},
        },
    }
    return text(tiny=tiny, rows=rows)


def sparse_logit_sampling(*, tiny=False) -> ConfigDict:
    """A teacher that is stored: 16 draws of it for each token, its 16 best classes, and it live."""
    rows = {
        "kd": KD,
        "stored_top16": {**KD, "stored": {"kind": "top_k", "k": 16}},
        "stored_16_draws": {**KD, "stored": {"kind": "sampled", "k": 16}},
    }
    config = text(tiny=tiny, rows=rows)
    config.run.data.rows = 256 if tiny else 4096
    return config


def quantised(*, tiny=False) -> ConfigDict:
    """Students that compute with weights of 3 bits, trained alone and from the teacher."""
    rounded = {"bits": 3, "patterns": ("layer.*/kernel$",)}
    rows = {
        "alone_3_bits": {"method": "next_token", "student": rounded},
        "kd": KD,
        "kd_3_bits": {**KD, "student": rounded},
    }
    return text(tiny=tiny, rows=rows)


def universal(*, tiny=False) -> ConfigDict:
    """ULD: a teacher with another tokenizer, token by token and over stretches of the same bytes."""
    rows = {
        "universal_kd": {"method": "universal_kd", "weight": 1.5},
        "aligned_universal_kd": {"method": "aligned_universal_kd", "weight": 1.5},
    }
    config = text(tiny=tiny, rows=rows)
    config.run.teacher.tokenizer.vocabulary = 280 if tiny else 700
    return config


# --- Shapes ---------------------------------------------------------------------------------------


def llama3_8b_to_1b(*, tiny=False) -> ConfigDict:
    """Shapes for `tools.plan`."""
    length = 4096
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "steps": 10_000,
            "batch": 64,
            "classes": 128_256,
            "inputs": "sequence",
            "shapes": {
                "sequence": {
                    "tokens": ((length,), "int32"),
                    "segments": ((length,), "int32"),
                    "mask": ((length,), "bool"),
                }
            },
            "teacher": {"network": decoder("llama3_8b", param_dtype="bfloat16")},
            "student": {
                "network": decoder("llama3_1b", param_dtype="float32", remat=True),
                "optimiser": adamw(),
            },
            "method": {"method": "token_kd", "temperature": 1.0, "chunk": 512},
        }
    )
    config.place = ConfigDict(
        {
            "mesh": "data=-1,fsdp=16,tensor=4",
            "how": "pjit",
            "sharding": {"teacher": UNTIED, "student": RULES},
            "activations": ACTIVATIONS,
        }
    )
    if tiny:
        _shrink(config)
    return config


def decoder(name, **changes) -> ConfigDict:
    """A decoder for losses over hidden states and heads, computed in bfloat16."""
    options = {"features": ("hidden", "head"), "logits": False, "dtype": "bfloat16"}
    return ConfigDict({"name": name, **options, **changes})


def _shrink(config):
    config.run.steps, config.run.batch, config.run.classes = 20, 8, 64
    config.run.method.chunk = 8
    for name, shape in config.run.shapes.sequence.items():
        config.run.shapes.sequence[name] = ((16,), shape[1])
    for player, depth in (("teacher", 3), ("student", 2)):
        sizes = {"depth": depth, "width": 16, "heads": 4, "key_heads": 2, "hidden": 32, "block": 8}
        config.run[player].network.update(sizes)
    config.place.mesh = "data=-1,fsdp=2,tensor=2"


RECIPES = {
    "default": text,
    **{
        f.__name__: f
        for f in (
            gkd, distillm, adaptive_kl, minillm, sequence_kd, sparse_logit_sampling, quantised, universal,
            llama3_8b_to_1b,
        )
    },
}  # fmt: skip
