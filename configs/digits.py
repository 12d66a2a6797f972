"""The main job: a small student of the scikit-learn digits, alone and distilled.

    python -m experiments.distill --config=configs/digits.py --workdir=runs/demo

100 labelled images and the whole training set unlabelled; five seeds of every student train in one
program. `configs/digits.py:tiny` is a quick look at everything with few steps.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: comma-separated; `tiny`."""
    names = [name for name in arg.split(",") if name]
    unknown = sorted(set(names) - {"tiny"})
    if unknown:
        raise ValueError(f"configs/digits.py has no {unknown}; there is: tiny")
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "seeds": 5,
            "seeds_together": True,
            "steps": 1500,
            "batch": 64,
            "data": {
                "name": "digits",
                "data_dir": "",
                "manual_dir": "",
                "labelled": 100,
                "transfer": True,
                "validation": 0.15,
                "test": 0.25,
                "augment": "",
                "mean": (0.3,),
                "std": (0.38,),
            },
            "teacher": {
                "workdir": "",
                "steps": 400,
                "network": {"name": "small_cnn", "widths": (16, 32), "hidden": 64},
                "optimiser": optimiser(learning_rate=2e-3),
            },
            "student": {
                "network": {"name": "multilayer_perceptron", "widths": (16,)},
                "optimiser": optimiser(learning_rate=1e-2),
            },
            "baseline": "alone",
            "rows": {
                "alone": {"method": "supervised"},
                "kd": {"method": "kd", "temperature": 4.0, "weight": 0.9},
                "hint": {
                    "method": "hint",
                    "student_feature": "hidden1",
                    "teacher_feature": "embedding",
                    "weight": 0.9,
                },
                "relational": {
                    "method": "relational",
                    "student_feature": "hidden1",
                    "teacher_feature": "embedding",
                    "weight": 25.0,
                },
            },
        }
    )
    config.place = ConfigDict(
        {
            "mesh": "data=-1",
            "how": "pjit",
            "sharding": {"teacher": (), "student": ()},
            "save_every": 500,
            "log_every": 50,
            "validate_every": 100,
        }
    )
    if "tiny" in names:
        config.run.seeds, config.run.steps, config.run.teacher.steps = 2, 100, 100
    return config


def optimiser(**changes) -> ConfigDict:
    """AdamW with a cosine schedule, and the given changes."""
    return ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup": 0.05,
            "drops": (),
            "clip": 0.0,
            "no_decay": (),
            "coupled_decay": 0.0,
            "options": {"weight_decay": 1e-4},
            **changes,
        }
    )
