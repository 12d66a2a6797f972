"""CIFAR-100, the field's benchmark: ResNet-32x4 teaches ResNet-8x4 for 240 epochs.

    python -m experiments.distill --config=configs/cifar100.py:resnet32x4_to_resnet8x4 \
        --config.run.data.data_dir=DIR --workdir=runs/cifar100

DIR holds CIFAR-100 as TFDS prepares it (`file_format="array_record"`). The recipe is the one that
the published tables share: SGD 0.05 (batch 64, Nesterov 0.9, decay 5e-4), times 0.1 after 150, 180
and 210 of 240 epochs, pad-4 crops and flips, T = 4. Not verified here: no result and no time is
claimed. Published for this pair (one seed): teacher 79.42, student 72.50, KD 73.33.

`resnet56_to_resnet20`, `wrn_40_2_to_wrn_16_2` and `wrn_40_2_to_wrn_40_1` are the same with those
networks; `tiny` runs a few steps of it.
"""

from ml_collections import ConfigDict

PAIRS = ("resnet32x4_to_resnet8x4", "resnet56_to_resnet20", "wrn_40_2_to_wrn_16_2", "wrn_40_2_to_wrn_40_1")  # fmt: skip
STEPS_PER_EPOCH = 45_000 // 64  # 5,000 of the 50,000 training images are kept for validation


def get_config(arg: str = PAIRS[0]) -> ConfigDict:
    """`arg`: one of `PAIRS`, then optionally `tiny`."""
    pair, *others = [name for name in arg.split(",") if name]
    if pair not in PAIRS or set(others) - {"tiny"}:
        raise ValueError(f"configs/cifar100.py has no {arg!r}; there are {PAIRS}, and tiny")
    teacher, student = pair.split("_to_")
    steps = 240 * STEPS_PER_EPOCH
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "seeds": 5,
            "seeds_together": False,  # convolutions under vmap become slow grouped convolutions
            "steps": steps,
            "batch": 64,
            "data": {
                "name": "cifar100",
                "data_dir": "",
                "manual_dir": "",
                "labelled": 0,
                "transfer": False,
                "validation": 5000,
                "test": 0,
                "augment": "crop_flip",
                "mean": (0.5071, 0.4867, 0.4408),
                "std": (0.2675, 0.2565, 0.2761),
            },
            "teacher": {
                "workdir": "",
                "steps": steps,
                "network": {"name": teacher},
                "optimiser": sgd(),
            },
            "student": {"network": {"name": student}, "optimiser": sgd()},
            "baseline": "alone",
            "rows": {
                "alone": {"method": "supervised"},
                "kd": {"method": "kd", "temperature": 4.0, "weight": 0.9},
                "relational": {
                    "method": "relational",
                    "student_feature": "embedding",
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
            "save_every": 5 * STEPS_PER_EPOCH,
            "log_every": 100,
            "validate_every": 5 * STEPS_PER_EPOCH,
        }
    )
    if others:
        config.run.seeds, config.run.steps, config.run.teacher.steps = 1, 20, 20
        config.place.log_every = config.place.save_every = config.place.validate_every = 10
    return config


def sgd() -> ConfigDict:
    """The optimiser that the CIFAR-100 tables share."""
    return ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.05,
            "schedule": "steps",
            "warmup": 0.0,
            "drops": (150 / 240, 180 / 240, 210 / 240),
            "clip": 0.0,
            "no_decay": (),
            "coupled_decay": 5e-4,
            "options": {"momentum": 0.9, "nesterov": True},
        }
    )
