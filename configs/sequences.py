"""Pairs of prompts and answers that a small decoder learns and writes: rows of the catalogue.

    python -m tools.catalogue run multipl_t
    python -m experiments.study --config=configs/lm.py:multipl_t --workdir=runs/catalogue/multipl_t

A decoder of one or two layers over characters is taught some hundred pairs; ten seeds have data of
their own and train in one program. The rate of what is compared is one of two, chosen on validation; of
a row in parts that is the last one's. One takes a few minutes on two cores, `multipl_t,tiny` one.
"""

from ml_collections import ConfigDict

from configs import measured

SIZES = {"width": 48, "depth": 1, "batch": 16, "rate": 5e-3, "validation": 100, "test": 300}
RATES = {"rate": (0.3, 1.0)}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, *RECIPES)


def study(name, rows, claims, options, data, tuned) -> ConfigDict:
    """`measured.study` with the sizes of this file; `tuned` are the rows that are compared."""
    grid = {row: RATES for row in tuned}
    return measured.study(name, rows, claims, {**SIZES, **options}, data, grid)


def multipl_t() -> ConfigDict:
    """S001: infix to postfix, on candidates of its own that evaluate right, on any, on gold alone."""
    rows = ("gold", "unverified", "verified")
    return study(
        "verified_translation",
        rows=("seed", *rows),
        claims={
            "verified": measured.claim("verified", over=["unverified", "gold"]),
            "unverified": measured.claim("unverified", over=["seed"]),
        },
        options={
            "gold": 200, "asked": 400, "samples": 8, "threshold": 0.6,
            "seed_steps": 400, "steps": 250,
        },
        data="drawn arithmetic of two to four digits, infix and postfix",
        tuned=rows,
    )  # fmt: skip


def lion() -> ConfigDict:
    """S131: new prompts of the kind that the student fails, and rare ones, against random ones."""
    rows = ("random", "hard", "hard_easy", "shuffled")
    return study(
        "adversarial_rounds",
        rows=("start", *rows),
        claims={
            "hard_easy": measured.claim("hard_easy", over=["random", "hard", "shuffled"]),
            "rounds": measured.claim("random", over=["start"]),
        },
        options={
            "shares": (0.6, 0.3, 0.1), "pool": 500, "round": 150, "rounds": 3,
            "start_steps": 1500, "steps": 60, "depth": 2, "batch": 32, "rate": 3e-3,
        },
        data="drawn arithmetic of two numbers",
        tuned=rows,
    )  # fmt: skip


def xcoder() -> ConfigDict:
    """S116: a dialect with poor data, translated from a clean one, verified, remembered, preferred."""
    rows = ("poor_only", "unverified", "verified", "memory", "longer", "dpo")
    return study(
        "two_dialects",
        rows=("agent", *rows),
        claims={
            "translated": measured.claim("verified", over=["poor_only", "unverified"]),
            "dpo": measured.claim("dpo", over=["longer", "verified"]),
        },
        options={
            "pairs": 600, "asked": 300, "wrong": 0.4, "samples": 6, "threshold": 0.7,
            "agent_steps": 1500, "steps": 250, "preference_steps": 100,
            "depth": 2, "batch": 32, "rate": 3e-3,
        },
        data="drawn arithmetic of two to four digits, postfix and prefix",
        tuned=rows,
    )  # fmt: skip


def small_but_funny() -> ConfigDict:
    """S262: a critic's choice between two of the student's own answers, learned in several ways."""
    rows = ("longer", "winners", "brio", "dpo", "random", "biased", "filtered", "brio_dpo")
    better = {"metric": "quality"}
    return study(
        "critic_feedback",
        rows=("imitation", *rows),
        claims={
            "brio_dpo": measured.claim("brio_dpo", over=["longer", "winners"], **better),
            "dpo": measured.claim("dpo", over=["longer", "random"], **better),
            "filter": measured.claim(
                "filtered", over=["biased"], metric="length", direction="lower"
            ),
        },
        options={
            "taught": 200, "asked": 300, "samples": 6, "imitation_steps": 500, "steps": 150,
            "mean_length": 5.0, "sharpness": 5.0, "noise": 0.5, "place": 0.5, "bias": 0.5,
        },
        data="names of functions of the standard library, and short forms made by rules",
        tuned=rows,
    )  # fmt: skip


def genqa_with_gava_supervision() -> ConfigDict:
    """S253: an evaluator's score as a filter of own answers and as a weight; right and wrong targets."""
    own = ("static", "dynamic", "quality", "shuffled")
    rows = ("clean_labels", "clean_difficulty", "noisy_labels", *(f"noisy_{row}" for row in own))
    return study(
        "evaluator_supervision",
        rows=("clean_start", "noisy_start", *rows),
        claims={
            "quality": measured.claim("noisy_quality", over=["noisy_labels", "noisy_shuffled"]),
            "difficulty": measured.claim("clean_difficulty", over=["clean_labels"]),
            "dynamic": measured.claim("noisy_dynamic", over=["noisy_labels", "noisy_static"]),
        },
        options={
            "held": 200, "taught": 300, "wrong": 0.4, "start_steps": 1500, "steps": 200,
            "depth": 2, "batch": 32, "rate": 3e-3,
        },
        data="names of functions of the standard library, and short forms made by rules",
        tuned=rows,
    )  # fmt: skip


def as2_genqa_transfer() -> ConfigDict:
    """S002: a ranker's best candidate as target, weighted by its score and with scores as tokens."""
    rows = ("unweighted", "weighted", "shaped", "both")
    return study(
        "ranked_targets",
        rows=("copied", *rows),
        claims={
            "weighted": measured.claim("weighted", over=["unweighted", "copied"], metric="f1"),
            "both": measured.claim("both", over=["unweighted", "copied"], metric="f1"),
        },
        options={"held": 100, "taught": 250, "test": 180, "steps": 500},
        data="names of functions of the standard library, and short forms made by rules",
        tuned=rows,
    )


def negative_data_distillation() -> ConfigDict:
    """S221: right traces alone, self-distilled evenly or by what wrong ones teach, and weighted votes."""
    rows = ("all", "positive", "uniform", "calibrated")
    return study(
        "negative_data",
        rows=(*rows, "majority", "weighted"),
        claims={
            "calibrated": measured.claim("calibrated", over=["positive", "uniform"]),
            "weighted": measured.claim("weighted", over=["majority"]),
        },
        options={"traces": 600, "wrong": 0.6, "samples": 8, "steps": 500},
        data="drawn sums of two numbers of two digits, in three steps",
        tuned=rows,
    )


def edm3() -> ConfigDict:
    """S237: triggers and kinds of a source line as text, with and without both halves of the task."""
    rows = ("single", "mixture")
    return study(
        "task_mixture",
        rows=rows,
        claims={"mixture": measured.claim("mixture", over=["single"], metric="f1")},
        options={"taught": 200, "longest": 20, "steps": 600},
        data="short lines of the standard library, their triggers by rules",
        tuned=rows,
    )


def commonsense_knowledge_transfer() -> ConfigDict:
    """S004: few examples of functions' modules, after a teacher's relations, infilling or nothing."""
    rows = ("none", "infilling", "transferred")
    return study(
        "relations_of_names",
        rows=rows,
        claims={"transferred": measured.claim("transferred", over=["infilling", "none"])},
        options={
            "modules": 6, "each": 150, "known": 200, "read": 150, "shots": 8,
            "validation": 40, "test": 120,
            "read_steps": 400, "steps": 150,
        },
        data="names of functions of the standard library, and their modules",
        tuned=rows,
    )  # fmt: skip


def leia() -> ConfigDict:
    """S013: facts read in one language and asked for in another, with and without names inserted."""
    rows = ("plain", "inserted", "replaced")
    return study(
        "names_in_two_languages",
        rows=("first", *rows),
        claims={"inserted": measured.claim("inserted", over=["plain"])},
        options={
            "entities": 40, "told": 20, "relations": 3, "attributes": 8, "passes": 4,
            "first_steps": 400, "steps": 400,
        },
        data="drawn facts in two languages of words without letters in common",
        tuned=rows,
    )  # fmt: skip


def ssr() -> ConfigDict:
    """S294: spans that a larger model filled are rewritten, against infilling and other fills."""
    rows = ("infilling", "own", "teacher", "curriculum", "random")
    return study(
        "span_rewriting",
        rows=rows,
        claims={
            "teacher": measured.claim("teacher", over=["infilling", "own", "random"], metric="f1"),
            "curriculum": measured.claim("curriculum", over=["teacher"], metric="f1"),
        },
        options={
            "words": 200, "longest": 10, "large_width": 96, "known": 350, "read": 300, "mended": 150,
            "validation": 80, "begun_steps": 300, "large_steps": 500, "steps": 200, "mend_steps": 300,
        },
        data="short lines of the standard library in its most frequent words",
        tuned=rows,
    )  # fmt: skip


def augpro() -> ConfigDict:
    """S222: KD on few lines and on texts made of them: mixed, swapped, projected to tokens."""
    rows = ("kd", "mix_kd", "swapped", "augpro_mix", "augpro_fgsm")
    return study(
        "projected_augmentation",
        rows=("teacher", *rows),
        claims={
            "mix": measured.claim("augpro_mix", over=["kd", "mix_kd", "swapped"]),
            "fgsm": measured.claim("augpro_fgsm", over=["kd", "swapped"]),
        },
        options={
            "width": 32, "batch": 32, "modules": 8, "words": 500, "longest": 13, "taught": 3000, "few": 300,
            "validation": 800, "teacher_width": 64, "teacher_depth": 2, "teacher_steps": 600,
            "teacher_rate": 1e-3, "rate": 3e-3, "steps": 300, "changed": 0.2,
        },
        data="lines of the eight longest modules of the standard library",
        tuned=rows,
    )  # fmt: skip


RECIPES = (
    multipl_t,
    lion,
    small_but_funny,
    xcoder,
    genqa_with_gava_supervision,
    as2_genqa_transfer,
    negative_data_distillation,
    edm3,
    commonsense_knowledge_transfer,
    leia,
    ssr,
    augpro,
)
