"""The catalogue's methods without data, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run abd
    python -m experiments.distill --config=configs/data_free.py:abd --workdir=runs/catalogue/abd

On the digits inside scikit-learn, of which the student, with 64 hidden units, sees none: a generator
makes its images. The rows `alone` and `kd` have all training images and are no opponents. The
measured results are in `configs/README.md`. `configs/data_free.py:abd,tiny` is a quick look.
"""

from ml_collections import ConfigDict

from configs import measured

(MEAN,), (STD,) = measured.DIGITS["mean"], measured.DIGITS["std"]
# Pixels are between 0 and 1 before they are normalised.
MADE = {
    "image_shape": (8, 8, 1),
    "image_range": (-MEAN / STD, (1 - MEAN) / STD),
    "teacher_feature": "hidden2",
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(arg, abd, learning_to_retain, lokt, retrikt)


def without_data(rows, grid, claims, **teacher) -> ConfigDict:
    """The protocol on the digits, a step being one of the generator and ten of the student."""
    plain = {"method": "adversarial_data_free", **MADE}
    rows = {"data_free": plain, **{name: {**MADE, **row} for name, row in rows.items()}}
    config = measured.classification(rows, {"data_free": measured.ALONE, **grid}, claims)
    config.run.data.update(measured.DIGITS)
    with config.unlocked():
        config.run.teacher.update({"cached": False, **teacher})
    config.run.teacher.network.widths = (64, 64)
    config.run.student.network.widths = (64,)
    config.run.steps = 600
    return config


def abd() -> ConfigDict:
    """S188: a student of a poisoned teacher, with the vaccine and retrospection and without."""
    return without_data(
        rows={"abd": {"method": "anti_backdoor"}},
        grid={"abd": {"rate": measured.RATES, "vaccine": (0.1, 1.0)}},
        claims={
            "attack": measured.claim("abd", ["data_free"], "attack_success", "lower"),
            "clean": measured.claim("abd", ["data_free"], direction="equal", margin=0.05),
        },
        poison={"rate": 0.1, "target": 0, "size": 2},
    )


def learning_to_retain() -> ConfigDict:
    """S049: a memory kept right by a step through a step, against plain replay and against none."""
    retained = {"method": "learning_to_retain", "inner_rate": 0.9}
    return without_data(
        rows={"learning_to_retain": retained, "replay": {**retained, "retention": 0.0}},
        grid={
            "learning_to_retain": {"rate": (0.3, 1.0), "inner_rate": (0.05, 0.3, 0.9)},
            "replay": measured.ALONE,
        },
        claims={
            "learning_to_retain": measured.claim("learning_to_retain", ["data_free", "replay"])
        },
    )


def lokt() -> ConfigDict:
    """S016: a target's class on made images, on noise and on other digits, for equally many questions."""
    student = {"rate": (0.3, 1.0, 3.0, 10.0)}
    return measured.study(
        "label_only_surrogates",
        rows=["lokt", "noise", "public", "real", "target"],
        claims={"lokt": measured.claim("lokt", ["public", "noise"], "agreement")},
        options={
            "size": 10,
            "target_steps": 800,
            "gan_steps": 800,
            "warmup_steps": 200,
            "batch": 32,
            "stored": 500,
            "student_steps": 600,
        },
        data=measured.MNIST,
        grid={
            "lokt/gan": {"rate": (0.3, 1.0), "weight": (0.2, 1.5)},
            **{f"{row}/student": student for row in ("lokt", "noise", "public", "real")},
        },
    )


def retrikt() -> ConfigDict:
    """S014: a student that looks up answers in a store, against one that learned from the same store."""
    grid = {"rate": (0.3, 1.0, 3.0, 10.0)}
    return measured.study(
        "made_digits",
        rows=["retrikt", "small_store", "kd", "alone", "teacher"],
        claims={
            "retrikt": measured.claim("retrikt", ["kd", "alone"]),
            "store": measured.claim("retrikt", ["small_store"]),
        },
        options={
            "size": 14,
            "teacher_steps": 1000,
            "entries": 4000,
            "small": 400,
            "components": 20,
            "width": 6,
            "labelled": 100,
            "batch": 32,
            "steps": 600,
        },
        data=measured.MNIST,
        grid={row: grid for row in ("retrikt", "small_store", "kd", "alone")},
    )
