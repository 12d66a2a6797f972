"""Language models: small ones that train here, and shapes of large ones that are planned.

    python -m experiments.distill_lm --config=configs/lm.py --workdir=runs/lm

A decoder of 4 layers teaches one of 1 layer to continue the source code of the Python standard
library, token by token. Five seeds of every student train in one program. Test perplexity 16.96 for the
teacher, 32.34 ± 0.90 for the student alone and 24.75 ± 0.40 distilled for as many steps, a paired
difference of -7.60 [-9.13, -6.06], with Python 3.11.7; seven and a half minutes on two busy cores.
`configs/lm.py:tiny` is a quick look at everything with few steps.

    python -m experiments.distill_lm --config=configs/lm.py:gkd --workdir=runs/lm_gkd

Other rows on the same text: taid, gkd, distillm, adaptive_kl, minillm, sequence_kd, self_evolution,
pretraining_distillation, first, sparse_logit_sampling, llm_neo, quantised, universal (a teacher with
another tokenizer); `gkd,tiny` and so on for a quick look. `--config.run.teacher.workdir` names a
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

from configs import measured

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
    if len(others) > 1 or others[0] not in RECIPES:
        raise ValueError(f"configs/lm.py has no {arg!r}; there are {', '.join(RECIPES)}, and tiny")
    return RECIPES[others[0]](tiny="tiny" in names)


def text(*, tiny=False, rows=None, claims=None) -> ConfigDict:
    """The small job on the standard library's sources, with the given rows beside the baseline.

    A recipe with `claims`, `{name: measured.claim(...)}`, is one of the catalogue's and has ten seeds;
    no row's settings are tuned.
    """
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "seeds": 10 if claims else 5,
            "seeds_together": True,
            "steps": 600,
            "batch": 16,
            "chunk": 0,
            "data": {
                "name": "standard_library",
                "length": 64,
                "validation": 0.05,
                "test": 0.1,
                "rows": 0,
                "evaluated": 256,
            },
            "tokenizer": {"file": "", "vocabulary": 512, "end": "<|end|>"},
            "teacher": {
                "workdir": "",
                "weights": "",
                "tokenizer": {"file": "", "vocabulary": 0},
                "classes": 0,
                "steps": 1000,
                "batch": 16,
                "network": small_decoder(depth=4, width=128, heads=4),
                "optimiser": small_optimiser(learning_rate=3e-3),
            },
            "student": {
                "classes": 0,
                "licence": "",
                "network": small_decoder(depth=1, width=64, heads=4),
                "optimiser": small_optimiser(learning_rate=5e-3),
            },
            "baseline": "alone",
            "rows": {"alone": {"method": "next_token"}, **(ROWS if rows is None else rows)},
            "claims": claims or {},
        }
    )
    config.place = ConfigDict(
        {
            "mesh": "data=-1",
            "how": "pjit",
            "sharding": {"teacher": (), "student": ()},
            "save_every": 500,
            "log_every": 50,
            "validate_every": 200,
        }
    )
    if tiny:
        run = config.run
        run.seeds, run.steps, run.batch = 2, 20, 4
        run.teacher.steps, run.teacher.batch = 20, 4
        run.data.length, run.data.rows, run.data.evaluated = 32, 256, 16
        run.tokenizer.vocabulary = 300
        for row in run.rows.values():
            if "samples" in row:
                row.samples.update({"count": 8, "prompt": 4})
        for player, width in (("teacher", 16), ("student", 8)):
            run[player].network.update(small_decoder(depth=1, width=width, heads=2))
        config.place.log_every = config.place.validate_every = 10
    return config


def small_decoder(*, depth, width, heads) -> ConfigDict:
    """A decoder whose layers are apart: XLA's CPU compiler does better without the loop."""
    sizes = {"depth": depth, "width": width, "heads": heads, "key_heads": heads // 2}
    options = {"hidden": 3 * width, "tied": True, "scan": False, "query_key_norm": True}
    return ConfigDict({"name": "decoder_transformer", **sizes, **options})


def small_optimiser(**changes) -> ConfigDict:
    """AdamW for the small job."""
    return ConfigDict({**adamw(), "warmup": 0.1, **changes})


# --- Rows -----------------------------------------------------------------------------------------

KD = {"method": "token_kd", "divergence": "kl", "weight": 1.0}
# What is shown beside the student that learns from the text alone.
ROWS = {"kd": KD}
STUDENT_WRITES = {"writer": "student", "fraction": 0.5, "every": 50, "count": 256, "prompt": 16}
TEACHER_WRITES = {"writer": "teacher", "fraction": 1.0, "count": 4096, "prompt": 8}


def better(row, over):
    """That a row's held-out perplexity is lower; stated before a run."""
    return measured.claim(row, over, "perplexity", "lower")


def taid(*, tiny=False) -> ConfigDict:
    """S007: KL to a target that moves to the teacher, adaptively and linearly, and both KLs."""
    rows = {
        "kd": KD,
        "reverse_kl": {**KD, "divergence": "reverse_kl"},
        "taid": {"method": "taid", "start": 0.4},
        "taid_linear": {"method": "taid", "start": 0.4, "rate": 0.0},
    }
    claims = {"taid": better("taid", over=["kd", "reverse_kl"])}
    return text(tiny=tiny, rows=rows, claims=claims)


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


def self_evolution(*, tiny=False) -> ConfigDict:
    """S036: targets of truth and teacher, the harder tokens' drawn towards the student."""
    rows = {
        "kd": KD,
        "kd_half": {**KD, "weight": 0.5},
        "self_evolution": {"method": "self_evolution_kd", "truth_weight": 0.5},
    }
    claims = {"self_evolution": better("self_evolution", over=["kd_half", "kd"])}
    return text(tiny=tiny, rows=rows, claims=claims)


def pretraining_distillation(*, tiny=False) -> ConfigDict:
    """S209: the share of the teacher constant and warmed up, held and decayed; few of its classes."""
    kd = {**KD, "weight": 0.9}
    rows = {
        "kd": kd,
        "kd_stable": {**kd, "schedule": "warmup_stable_decay"},
        "kd_falling": {**kd, "schedule": "falling"},
        "kd_top8": {**kd, "top_k": 8},
    }
    claims = {
        "distilled": better("kd", over=["alone"]),
        "truncated": measured.claim("kd_top8", ["kd"], "perplexity", "equal", margin=0.5),
    }
    return text(tiny=tiny, rows=rows, claims=claims)


def first(*, tiny=False) -> ConfigDict:
    """S271: the teacher's five best classes, at its own temperature and flattened, beside all."""
    rows = {
        "kd": KD,
        "kd_top5": {**KD, "top_k": 5},
        "kd_top5_warm": {**KD, "top_k": 5, "temperature": 2.0},
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


def llm_neo(*, tiny=False) -> ConfigDict:
    """S050: a student of half the teacher's layers, whole or by low-rank factors, with and without it."""
    config = text(tiny=tiny, claims={"llm_neo": better("kd_low_rank", over=["alone_low_rank"])})
    rank = 2 if tiny else 16
    whole = {"teacher_layers": True}
    adapted = {**whole, "rank": rank, "alpha": 2.0 * rank, "patterns": (HEADS, OTHERS)}
    kd = {**KD, "weight": 0.9}
    config.run.rows = ConfigDict(
        {
            "alone": {"method": "next_token", "student": whole},
            "alone_low_rank": {"method": "next_token", "student": adapted},
            "kd": {**kd, "student": whole},
            "kd_low_rank": {**kd, "student": adapted},
        }
    )
    config.run.student.network.update(config.run.teacher.network.to_dict())
    config.run.student.network.depth = max(1, config.run.teacher.network.depth // 2)
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


# The kernels of a layer: those to several heads `[D, heads, E]` have one axis of inputs.
HEADS = ("layer.*/(query|key|value)/kernel$", 1)
OTHERS = "layer.*/(out|gate|up|down)/kernel$"


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


def adamw() -> ConfigDict:
    """AdamW as language models are trained with it."""
    return ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 3e-4,
            "schedule": "cosine",
            "warmup": 0.02,
            "drops": (),
            "clip": 1.0,
            "coupled_decay": 0.0,
            "options": {"b2": 0.95, "weight_decay": 0.1},
        }
    )


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
            taid, gkd, distillm, adaptive_kl, minillm, sequence_kd, self_evolution,
            pretraining_distillation, first, sparse_logit_sampling, llm_neo, quantised, universal, llama3_8b_to_1b,
        )
    },
}  # fmt: skip
