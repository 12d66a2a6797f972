"""The catalogue's methods on logits, each on the protocol of `configs/measured.py`.

    python -m tools.catalogue run dot
    python -m experiments.distill --config=configs/logits.py:dot --workdir=runs/catalogue/dot
    python -m experiments.study --config=configs/logits.py:cumulative_spatial --workdir=runs/cskd

The recipes are the functions below; the measured results are in `configs/README.md`. One takes one
to two minutes on two cores; `configs/logits.py:dot,tiny` some seconds.
"""

from ml_collections import ConfigDict

from configs import digits, measured


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: a recipe, then optionally `tiny`."""
    return measured.chosen(
        arg,
        born_again,
        cumulative_spatial,
        dot,
        empsel,
        fantastic_gains,
        guided_self_distillation,
        map_k_self_distillation,
        robustify,
        stored_views,
    )


def dot() -> ConfigDict:
    """S208: two momenta against the same losses under one, both by SGD."""
    sgd = {"name": "sgd", "learning_rate": 0.05, "options": {}}
    one_momentum = {**sgd, "options": {"momentum": 0.9}}
    return measured.classification(
        rows={"dot": {"method": "dot", "difference": 0.075, "optimiser": sgd}},
        grid={"dot": measured.KD},
        claims={"dot": measured.claim("dot", over=["kd"])},
        optimiser=digits.optimiser(**one_momentum),
        **measured.FEW_LABELS,
    )


def born_again() -> ConfigDict:
    """S213: three generations of one architecture, against labels alone, and for as many steps."""
    each = {"method": "born_again", "weight": 0.5}
    grid = {"rate": measured.RATES, "weight": (0.5, 1.0)}
    return measured.classification(
        rows={
            "generation1": {**each, "after": "alone"},
            "generation2": {**each, "after": "generation1"},
            "generation3": {**each, "after": "generation2"},
            "longer": {"method": "supervised", "steps": 2400},
        },
        grid={
            **{f"generation{k}": grid for k in (1, 2, 3)},
            "longer": measured.ALONE,
        },
        claims={"born_again": measured.claim("generation3", over=["alone", "longer"])},
        **measured.FEW_LABELS,
    )


def empsel() -> ConfigDict:
    """S028: three kinds of access to a teacher over a finite domain; distances, and their rates."""
    better = {"metric": "distance", "direction": "lower"}
    rate = {"metric": "slope", "direction": "equal", "margin": 0.1}
    return measured.study(
        "finite_domains",
        rows=["hard", "weighted", "squared", "full", "half", "one"],
        claims={
            "squared": measured.claim("squared", over=["weighted", "hard"], **better),
            "full": measured.claim("full", over=["hard"], **better),
            "hard": measured.claim("hard", over=["weighted"], **better),
            "hard_rate": measured.claim("hard", over=["half"], **rate),
            "squared_rate": measured.claim("squared", over=["one"], **rate),
            "full_rate": measured.claim("full", over=["one"], **rate),
        },
        options={"inputs": 10, "labels": 20, "sizes": (1000, 3000, 10_000, 30_000), "repeats": 30},
    )


def guided_self_distillation() -> ConfigDict:
    """S236: generations with labels settle, without them they collapse; the best share of labels."""
    better = {"metric": "error", "direction": "lower"}
    same = {"metric": "error", "direction": "equal"}
    config = measured.study(
        "repeated_self_distillation",
        rows=[
            "once", "pure", "mixed", "mixed_limit", "amplified", "pure_limit", "estimated", "searched",
        ],
        claims={
            "collapse": measured.claim("pure", over=["pure_limit"], **better),
            "guided": measured.claim("mixed_limit", over=["pure_limit"], **better),
            "limit": measured.claim("mixed_limit", over=["amplified"], **same, margin=1e-6),
            "settled": measured.claim("mixed", over=["mixed_limit"], **same, margin=0.01),
            "share": measured.claim(
                "estimated", over=["searched"], metric="label_weight", direction="equal", margin=0.05
            ),
        },
        options={
            "points": 11, "noise": 0.5, "gamma": 80.0, "regularisation": 0.2, "label_weight": 0.35,
            "generations": 3, "digits": 400, "flipped": 0.3, "digits_gamma": 0.02,
            "digits_regularisation": 0.02,
        },
        data=measured.DIGITS,
    )  # fmt: skip
    config.run.seeds = 30  # a closed form costs nothing
    return config


def fantastic_gains() -> ConfigDict:
    """S030: a trained student learns from a teacher of seven classes and keeps what it knew better."""
    goes_on = {"after": "alone", "carry": True}
    config = measured.classification(
        rows={
            "partitioned": {"method": "data_partition", **goes_on},
            "transferred": {"method": "kd", "temperature": 1.0, "weight": 1.0, **goes_on},
        },
        grid={"partitioned": measured.ALONE, "transferred": measured.ALONE},
        claims={"kept": measured.claim("partitioned", over=["transferred", "alone"])},
        **measured.FEW_LABELS,
    )
    with config.unlocked():
        config.run.teacher.classes = tuple(range(7))
    return config


def map_k_self_distillation() -> ConfigDict:
    """S058: a generation that trusts the one before by its average precision, against full trust."""
    after = {"after": "alone"}
    grid = {"rate": measured.RATES, "weight": (0.3, 1.0)}
    return measured.classification(
        rows={
            "reliable": {"method": "reliable_generation", "weight": 1.0, **after},
            "trusting": {"method": "born_again", "weight": 0.5, **after},
        },
        grid={"reliable": grid, "trusting": {"rate": measured.RATES, "weight": (0.3, 0.5)}},
        claims={"reliable": measured.claim("reliable", over=["trusting", "alone"])},
        **measured.FEW_LABELS,
    )


def cumulative_spatial() -> ConfigDict:
    """S056: what a convolutional teacher says at each place, for a transformer's patches."""
    grid = {"rate": (0.5, 1.0, 2.0), "weight": (0.3, 0.7)}
    return measured.study(
        "spatial_logits",
        rows=["teacher", "alone", "deit", "spatial", "cumulative"],
        claims={
            "cumulative": measured.claim("cumulative", over=["deit", "alone"]),
            "fusion": measured.claim("cumulative", over=["spatial"]),
        },
        options={
            "size": 16, "patch": 4, "width": 32, "depth": 2, "heads": 2, "labelled": 500, "batch": 32,
            "rate": 2e-3, "teacher_steps": 400, "steps": 500,
        },
        data=measured.MNIST,
        grid={
            "alone": {"rate": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)},
            "deit": grid,
            "spatial": grid,
            "cumulative": grid,
        },
    )  # fmt: skip


def robustify() -> ConfigDict:
    """S121: a small robust network teaches a large one's last layers, a clean and a robust head."""
    grid = {"rate": (0.3, 1.0, 3.0), "weight": (0.3, 1.0)}
    rates = {"rate": (0.03, 0.1, 0.3, 1.0, 2.0, 3.0)}
    corrupted = {"metric": "corrupted"}
    return measured.study(
        "robust_heads",
        rows=["teacher", "pretrained", "linear", "full", "single", "untaught", "three", "oracle"],
        claims={
            "taught": measured.claim("three", over=["untaught"], **corrupted),
            "robust": measured.claim("three", over=["pretrained", "linear"], **corrupted),
            "clean": measured.claim("three", over=["single"], metric="clean"),
            "kept": measured.claim(
                "three", over=["pretrained"], metric="clean", direction="equal", margin=0.01
            ),
        },
        options={
            "size": 16, "width": 256, "teacher": 64, "noise": 1.0, "shift": 3, "percentile": 90.0,
            "batch": 64, "rate": 1e-3, "teacher_steps": 1000, "steps": 300,
        },
        data=measured.MNIST,
        grid={**dict.fromkeys(("linear", "full", "untaught"), rates), "single": grid, "three": grid},
    )  # fmt: skip


def stored_views() -> ConfigDict:
    """S110: a teacher's best classes for ten views of every image, stored once, against the live one."""
    rates = {"rate": (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)}
    return measured.study(
        "replayed_views",
        rows=["teacher", "alone", "live", "sparse", "renormalised", "wrong"],
        claims={
            "same": measured.claim("sparse", over=["live"], direction="equal", margin=0.01),
            "seed": measured.claim("sparse", over=["wrong"]),
            "labels": measured.claim("sparse", over=["alone"]),
        },
        options={
            "size": 16, "images": 1000, "views": 10, "kept": 3, "shift": 2, "mixed": 0.4,
            "student": 128, "teacher": 256, "batch": 64, "rate": 3e-3, "teacher_steps": 1500,
            "steps": 1500,
        },
        data=measured.MNIST,
        grid={name: rates for name in ("alone", "live", "sparse", "renormalised", "wrong")},
    )  # fmt: skip
