"""Language models. The recipes here are shapes: planned for a topology, without weights or data.

    python -m tools.plan --config=configs/lm.py:llama3_8b_to_1b --topology=v5e:16x16
    python -m tools.plan --config=configs/lm.py:llama3_8b_to_1b --topology=v5p:4x4x4

A frozen teacher of the Llama 3 8B shape in bfloat16 and a student of the Llama 3.2 1B shape, its
parameters and AdamW moments in float32, computed in bfloat16: 64 sequences of 4,096 tokens a step, the
KL at every token by chunks. Every layer is recomputed in the backward pass. Needs the extra `tpu`.

`tiny` is the same at sizes for a few CPU devices (`--topology=cpu:8`).
"""

from ml_collections import ConfigDict

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


def get_config(arg: str = "llama3_8b_to_1b") -> ConfigDict:
    """`arg`: `llama3_8b_to_1b`, then optionally `tiny`."""
    recipe, *others = [name for name in arg.split(",") if name]
    if recipe != "llama3_8b_to_1b" or set(others) - {"tiny"}:
        raise ValueError(f"configs/lm.py has no {arg!r}; there are llama3_8b_to_1b, and tiny")
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
    if others:
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
