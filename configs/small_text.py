"""The small job on the sources of the Python standard library: what the recipes of language models share."""

from ml_collections import ConfigDict

KD = {"method": "token_kd", "divergence": "kl", "weight": 1.0}
# What is shown beside the student that learns from the text alone.
ROWS = {"kd": KD}


def text(*, tiny=False, rows=None) -> ConfigDict:
    """The job with the given rows beside the baseline."""
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "seeds": 5,
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
            "claims": {},
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
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Few steps of networks of a few units, two seeds."""
    run = config.run
    run.seeds, run.steps, run.batch = 2, 20, 8
    run.teacher.steps, run.teacher.batch = 20, 8
    run.data.length, run.data.rows, run.data.evaluated = 32, 256, 16
    run.tokenizer.vocabulary = 300
    for row in run.rows.values():
        if "samples" in row:
            row.samples.update({"count": 8, "prompt": 4})
    for player, width in (("teacher", 16), ("student", 8)):
        run[player].network.update(small_decoder(depth=1, width=width, heads=2))
    if any(row.get("student", {}).get("teacher_layers") for row in run.rows.values()):
        run.student.network.update(run.teacher.network.to_dict())
    if "tune" in run:
        run.tune.seeds = 1
    config.place.log_every = config.place.validate_every = 10


def small_decoder(*, depth, width, heads) -> ConfigDict:
    """A decoder whose layers are apart: XLA's CPU compiler does better without the loop."""
    sizes = {"depth": depth, "width": width, "heads": heads, "key_heads": heads // 2}
    options = {"hidden": 3 * width, "tied": True, "scan": False, "query_key_norm": True}
    return ConfigDict({"name": "decoder_transformer", **sizes, **options})


def small_optimiser(**changes) -> ConfigDict:
    """AdamW for the small job."""
    return ConfigDict({**adamw(), "warmup": 0.1, **changes})


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


# --- The measured rows ----------------------------------------------------------------------------

RATES = {"rate": (0.25, 0.5, 1.0, 2.0, 4.0)}  # factors of the learning rate


def measured_text(rows, claims, grid=None, **changes) -> ConfigDict:
    """The protocol of the catalogue's rows: smaller networks and rows of text, ten seeds, all rows tuned.

    `alone` and plain `kd`, and the teacher, are trained once for all recipes that ask for the same. For
    every row one of five learning rates is chosen by two seeds on validation, or, where `grid` has the
    row, one of five of the settings there.
    """
    config = text(rows={"kd": KD, **rows})
    run = config.run
    run.seeds, run.steps, run.batch = 10, 600, 8
    run.data.length, run.data.evaluated, run.tokenizer.vocabulary = 32, 128, 384
    run.teacher.update({"steps": 1500, "batch": 32})
    run.teacher.network = small_decoder(depth=2, width=64, heads=4)
    run.student.network = small_decoder(depth=1, width=32, heads=2)
    run.claims = ConfigDict(dict(claims))
    run.tune = ConfigDict(
        {
            "trials": 5,
            "seeds": 2,
            "metric": "log_likelihood",
            "grid": {**dict.fromkeys(run.rows, RATES), **(grid or {})},
        }
    )
    run.update(changes)
    config.place.update(
        {
            "save_every": 10_000,
            "log_every": 200,
            "validate_every": 10_000,
            "shared": "runs/shared",
            "shared_rows": ("alone", "kd"),
        }
    )
    return config
