"""Images. The recipes here are shapes: planned for a topology, without weights or data.

    python -m tools.plan --config=configs/vision.py:vit_h_to_s --topology=v5e:2x4

A frozen ViT-H/14 in bfloat16 teaches a ViT-S/16 (float32 parameters and AdamW moments, computed in
bfloat16) on 1,024 images of 224 pixels a step: logits and labels. Needs the extra `tpu`.

`tiny` is the same at sizes for a few CPU devices (`--topology=cpu:8`).
"""

from ml_collections import ConfigDict

# The teacher's kernels are split over fsdp by their inputs; the student is small and whole everywhere.
RULES = (
    ("block.*/attention/(query|key|value)/kernel$", ("fsdp", None, None)),
    ("block.*/attention/out/kernel$", (None, None, "fsdp")),
    ("block.*/dense1/kernel$", ("fsdp", None)),
    ("block.*/dense2/kernel$", (None, "fsdp")),
)


def get_config(arg: str = "vit_h_to_s") -> ConfigDict:
    """`arg`: `vit_h_to_s`, then optionally `tiny`."""
    recipe, *others = [name for name in arg.split(",") if name]
    if recipe != "vit_h_to_s" or set(others) - {"tiny"}:
        raise ValueError(f"configs/vision.py has no {arg!r}; there are vit_h_to_s, and tiny")
    config = ConfigDict()
    config.run = ConfigDict(
        {
            "steps": 100_000,
            "batch": 1024,
            "classes": 1000,
            "inputs": "labelled/image",
            "shapes": {
                "labelled": {"image": ((224, 224, 3), "float32"), "label": ((), "int32")},
            },
            "teacher": {
                "network": {
                    "name": "vit_huge14",
                    "dtype": "bfloat16",
                    "param_dtype": "bfloat16",
                }
            },
            "student": {
                "network": {
                    "name": "vit_small16",
                    "dtype": "bfloat16",
                    "remat": True,
                },
                "optimiser": {
                    "name": "adamw",
                    "learning_rate": 1e-3,
                    "schedule": "cosine",
                    "warmup": 0.05,
                    "drops": (),
                    "clip": 1.0,
                    "coupled_decay": 0.0,
                    "options": {"weight_decay": 0.05},
                },
            },
            "method": {"method": "kd", "temperature": 1.0, "weight": 0.5},
        }
    )
    config.place = ConfigDict(
        {
            "mesh": "data=-1",
            "how": "pjit",
            "sharding": {"teacher": (), "student": ()},
            "activations": {},
        }
    )
    if others:
        config.run.batch, config.run.classes, config.run.steps = 16, 10, 20
        config.run.shapes.labelled.image = ((28, 28, 3), "float32")
        sizes = {"width": 16, "heads": 2, "depth": 2}
        config.run.teacher.network.update(sizes)
        config.run.student.network.update({**sizes, "patch": 14})
    return config
