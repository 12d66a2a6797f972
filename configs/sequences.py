"""Pairs of prompts and answers that a small decoder learns and writes: rows of the catalogue.

    python -m tools.catalogue run multipl_t
    python -m experiments.study --config=configs/lm.py:multipl_t --workdir=runs/catalogue/multipl_t

A decoder of one or two layers over characters is taught some hundred pairs; ten seeds have data of
their own and train in one program. The rate of what is compared is one of two, chosen on validation; of
a row in parts that is the last one's. One takes a few minutes on two cores, `multipl_t,tiny` one.
"""

from ml_collections import ConfigDict

from configs import measured
from configs.measured import FIXED, chosen, claim, each, tried

SIZES = {"width": 48, "depth": 1, "batch": 16, "rate": 5e-3, "validation": 100, "test": 300}
RATES = tried((0.3, 1.0))


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, *RECIPES)


def study(name, rows, claims, options, data, first=(), last=()) -> ConfigDict:
    """`measured.study` with the sizes of this file, of `rows` that are compared and others about them."""
    own = {**each(FIXED, *first), **each(RATES, *rows), **each(FIXED, *last)}
    return measured.study(name, own, claims, {**SIZES, **options}, data)


def multipl_t() -> ConfigDict:
    """S001: infix to postfix, on candidates of its own that evaluate right, on any, on gold alone."""
    return study(
        "verified_translation",
        rows=("gold", "unverified", "verified"),
        first=["seed"],
        claims={
            "verified": claim("verified", over=["unverified", "gold"]),
            "unverified": claim("unverified", over=["seed"]),
        },
        options={
            "gold": 200, "asked": 400, "samples": 8, "threshold": 0.6, "seed_steps": 400, "steps": 250,
        },
        data="drawn arithmetic of two to four digits, infix and postfix",
    )  # fmt: skip


def lion() -> ConfigDict:
    """S131: new prompts of the kind that the student fails, and rare ones, against random ones."""
    return study(
        "adversarial_rounds",
        rows=("random", "hard", "hard_easy", "shuffled"),
        first=["start"],
        claims={
            "hard_easy": claim("hard_easy", over=["random", "hard", "shuffled"]),
            "rounds": claim("random", over=["start"]),
        },
        options={
            "shares": (0.6, 0.3, 0.1), "pool": 500, "round": 150, "rounds": 3,
            "start_steps": 1500, "steps": 60, "depth": 2, "batch": 32, "rate": 3e-3,
        },
        data="drawn arithmetic of two numbers",
    )  # fmt: skip


def xcoder() -> ConfigDict:
    """S116: a dialect with poor data, translated from a clean one, verified, remembered, preferred."""
    return study(
        "two_dialects",
        rows=("poor_only", "unverified", "verified", "memory", "longer", "dpo"),
        first=["agent"],
        claims={
            "translated": claim("verified", over=["poor_only", "unverified"]),
            "dpo": claim("dpo", over=["longer", "verified"]),
        },
        options={
            "pairs": 600, "asked": 300, "wrong": 0.4, "samples": 6, "threshold": 0.7,
            "agent_steps": 1500, "steps": 250, "preference_steps": 100, "depth": 2, "batch": 32,
            "rate": 3e-3,
        },
        data="drawn arithmetic of two to four digits, postfix and prefix",
    )  # fmt: skip


def small_but_funny() -> ConfigDict:
    """S262: a critic's choice between two of the student's own answers, learned in several ways."""
    rows = ("longer", "winners", "brio", "dpo", "random", "biased", "filtered", "brio_dpo")
    better = {"metric": "quality"}
    return study(
        "critic_feedback",
        rows=rows,
        first=["imitation"],
        claims={
            "brio_dpo": claim("brio_dpo", over=["longer", "winners"], **better),
            "dpo": claim("dpo", over=["longer", "random"], **better),
            "filter": claim("filtered", ["biased"], "length", "lower"),
        },
        options={
            "taught": 200, "asked": 300, "samples": 6, "imitation_steps": 500, "steps": 150,
            "mean_length": 5.0, "sharpness": 5.0, "noise": 0.5, "place": 0.5, "bias": 0.5,
        },
        data="names of functions of the standard library, and short forms made by rules",
    )  # fmt: skip


def genqa_with_gava_supervision() -> ConfigDict:
    """S253: an evaluator's score as a filter of own answers and as a weight; right and wrong targets."""
    own = ("static", "dynamic", "quality", "shuffled")
    return study(
        "evaluator_supervision",
        rows=("clean_labels", "clean_difficulty", "noisy_labels", *(f"noisy_{row}" for row in own)),
        first=["clean_start", "noisy_start"],
        claims={
            "quality": claim("noisy_quality", over=["noisy_labels", "noisy_shuffled"]),
            "difficulty": claim("clean_difficulty", over=["clean_labels"]),
            "dynamic": claim("noisy_dynamic", over=["noisy_labels", "noisy_static"]),
        },
        options={
            "held": 200, "taught": 300, "wrong": 0.4, "start_steps": 1500, "steps": 200,
            "depth": 2, "batch": 32, "rate": 3e-3,
        },
        data="names of functions of the standard library, and short forms made by rules",
    )  # fmt: skip


def as2_genqa_transfer() -> ConfigDict:
    """S002: a ranker's best candidate as target, weighted by its score and with scores as tokens."""
    return study(
        "ranked_targets",
        rows=("unweighted", "weighted", "shaped", "both"),
        first=["copied"],
        claims={
            "weighted": claim("weighted", over=["unweighted", "copied"], metric="f1"),
            "both": claim("both", over=["unweighted", "copied"], metric="f1"),
        },
        options={"held": 100, "taught": 250, "test": 180, "steps": 500},
        data="names of functions of the standard library, and short forms made by rules",
    )


def negative_data_distillation() -> ConfigDict:
    """S221: right traces alone, self-distilled evenly or by what wrong ones teach, and weighted votes."""
    return study(
        "negative_data",
        rows=("all", "positive", "uniform", "calibrated"),
        last=["majority", "weighted"],
        claims={
            "calibrated": claim("calibrated", over=["positive", "uniform"]),
            "weighted": claim("weighted", over=["majority"]),
        },
        options={"traces": 600, "wrong": 0.6, "samples": 8, "steps": 500},
        data="drawn sums of two numbers of two digits, in three steps",
    )


def edm3() -> ConfigDict:
    """S237: triggers and kinds of a source line as text, with and without both halves of the task."""
    return study(
        "task_mixture",
        rows=("single", "mixture"),
        claims={"mixture": claim("mixture", over=["single"], metric="f1")},
        options={"taught": 200, "longest": 20, "steps": 600},
        data="short lines of the standard library, their triggers by rules",
    )


def commonsense_knowledge_transfer() -> ConfigDict:
    """S004: few examples of functions' modules, after a teacher's relations, infilling or nothing."""
    return study(
        "relations_of_names",
        rows=("none", "infilling", "transferred"),
        claims={"transferred": claim("transferred", over=["infilling", "none"])},
        options={
            "modules": 6, "each": 150, "known": 200, "read": 150, "shots": 8,
            "validation": 40, "test": 120, "read_steps": 400, "steps": 150,
        },
        data="names of functions of the standard library, and their modules",
    )  # fmt: skip


def leia() -> ConfigDict:
    """S013: facts read in one language and asked for in another, with and without names inserted."""
    return study(
        "names_in_two_languages",
        rows=("plain", "inserted", "replaced"),
        first=["first"],
        claims={"inserted": claim("inserted", over=["plain"])},
        options={
            "entities": 40, "told": 20, "relations": 3, "attributes": 8, "passes": 4,
            "first_steps": 400, "steps": 400,
        },
        data="drawn facts in two languages of words without letters in common",
    )  # fmt: skip


def ssr() -> ConfigDict:
    """S294: spans that a larger model filled are rewritten, against infilling and other fills."""
    return study(
        "span_rewriting",
        rows=("infilling", "own", "teacher", "curriculum", "random"),
        claims={
            "teacher": claim("teacher", over=["infilling", "own", "random"], metric="f1"),
            "curriculum": claim("curriculum", over=["teacher"], metric="f1"),
        },
        options={
            "words": 200, "longest": 10, "large_width": 96, "known": 350, "read": 300, "mended": 150,
            "validation": 80, "begun_steps": 300, "large_steps": 500, "steps": 200, "mend_steps": 300,
        },
        data="short lines of the standard library in its most frequent words",
    )  # fmt: skip


def augpro() -> ConfigDict:
    """S222: KD on few lines and on texts made of them: mixed, swapped, projected to tokens."""
    return study(
        "projected_augmentation",
        rows=("kd", "mix_kd", "swapped", "augpro_mix", "augpro_fgsm"),
        first=["teacher"],
        claims={
            "mix": claim("augpro_mix", over=["kd", "mix_kd", "swapped"]),
            "fgsm": claim("augpro_fgsm", over=["kd", "swapped"]),
        },
        options={
            "width": 32, "batch": 32, "modules": 8, "words": 500, "longest": 13, "taught": 3000, "few": 300,
            "validation": 800, "teacher_width": 64, "teacher_depth": 2, "teacher_steps": 600,
            "teacher_rate": 1e-3, "rate": 3e-3, "steps": 300, "changed": 0.2,
        },
        data="lines of the eight longest modules of the standard library",
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
