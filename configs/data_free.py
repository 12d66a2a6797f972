"""The catalogue's methods without data, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run abd
    python -m experiments.distill --config=configs/data_free.py:abd --workdir=runs/catalogue/abd

On the digits inside scikit-learn, of which the student, with 64 hidden units, sees none: a generator
makes its images. The rows `alone` and `kd` have all training images and are no opponents. The
measured results are in `configs/README.md`. `configs/data_free.py:abd,tiny` is a quick look.
"""

from ml_collections import ConfigDict

from configs.measured import (
    ALONE,
    DIGITS,
    FIXED,
    MNIST,
    chosen,
    claim,
    classification,
    each,
    study,
    tried,
)  # fmt: skip

(MEAN,), (STD,) = DIGITS["mean"], DIGITS["std"]
# Pixels are between 0 and 1 before they are normalised.
MADE = {
    "image_shape": (8, 8, 1),
    "image_range": (-MEAN / STD, (1 - MEAN) / STD),
    "teacher_feature": "hidden2",
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return chosen(arg, abd, learning_to_retain, lokt, retrikt)


def without_data(rows, claims, **teacher) -> ConfigDict:
    """The protocol on the digits, a step being one of the generator and ten of the student."""
    plain = {"method": "adversarial_data_free", "tried": ALONE}
    rows = {name: {**MADE, **row} for name, row in {"data_free": plain, **rows}.items()}
    config = classification(rows, claims)
    config.run.data.update(DIGITS)
    with config.unlocked():
        config.run.teacher.update({"cached": False, **teacher})
    config.run.teacher.network.widths = (64, 64)
    config.run.student.network.widths = (64,)
    config.run.steps = 600
    return config


def abd() -> ConfigDict:
    """S188: a student of a poisoned teacher, with the vaccine and retrospection and without."""
    return without_data(
        rows={"abd": {"method": "anti_backdoor", "tried": tried(vaccine=(0.1, 1.0))}},
        claims={
            "attack": claim("abd", ["data_free"], "attack_success", "lower"),
            "clean": claim("abd", ["data_free"], direction="equal", margin=0.05),
        },
        poison={"rate": 0.1, "target": 0, "size": 2},
    )


def learning_to_retain() -> ConfigDict:
    """S049: a memory kept right by a step through a step, against plain replay and against none."""
    own = {"method": "learning_to_retain", "inner_rate": 0.9}
    return without_data(
        rows={
            "learning_to_retain": {**own, "tried": tried((0.3, 1.0), inner_rate=(0.05, 0.3, 0.9))},
            "replay": {**own, "retention": 0.0, "tried": ALONE},
        },
        claims={"learning_to_retain": claim("learning_to_retain", ["data_free", "replay"])},
    )


def lokt() -> ConfigDict:
    """S016: a target's class on made images, on noise and on other digits, for equally many questions."""
    student, rows = tried((0.3, 1.0, 3.0, 10.0)), ("lokt", "noise", "public", "real")
    return study(
        "label_only_surrogates",
        rows={
            "lokt/gan": tried((0.3, 1.0), weight=(0.2, 1.5)),
            **each(student, *(f"{row}/student" for row in rows)),
            "target": FIXED,
        },
        claims={"lokt": claim("lokt", ["public", "noise"], "agreement")},
        options={
            "size": 10, "target_steps": 800, "gan_steps": 800, "warmup_steps": 200, "batch": 32,
            "stored": 500, "student_steps": 600,
        },
        data=MNIST,
    )  # fmt: skip


def retrikt() -> ConfigDict:
    """S014: a student that looks up answers in a store, against one that learned from the same store."""
    rows = ("retrikt", "small_store", "kd", "alone")
    return study(
        "made_digits",
        rows={**each(tried((0.3, 1.0, 3.0, 10.0)), *rows), "teacher": FIXED},
        claims={
            "retrikt": claim("retrikt", ["kd", "alone"]),
            "store": claim("retrikt", ["small_store"]),
        },
        options={
            "size": 14, "teacher_steps": 1000, "entries": 4000, "small": 400, "components": 20, "width": 6,
            "labelled": 100, "batch": 32, "steps": 600,
        },
        data=MNIST,
    )  # fmt: skip
