"""Chunked divergences beside the dense form: memory, time and agreement, for every divergence.

Value and gradients by the student's hidden states and head, at 4,096 tokens, 32,768 classes, hidden
widths 512 (student) and 1,024 (teacher), at a chunk that divides the tokens and at one that does not.
`ratio` is the time over that of the dense form on the CPU in float32, measured in turn in one run.
`memory` is what XLA allocates beyond the arguments (temporaries + outputs - aliases) in multiples of
one float32 [tokens, V] tensor. Where the package `libtpu` is installed (the extra `tpu`, in an
environment of its own, with JAX_PLATFORMS=cpu), the same is compiled for one TPU v5e with bfloat16
inputs; no TPU is needed and nothing runs on one. `memory_tpu` is what XLA allocates in its main
memory. At these sizes that leaves out most of it: the compiler keeps the head's float32 gradient
(0.125) and the chunk's logits in the 128 MiB on the chip, which its memory analysis does not count.
`memory_tpu_wide`, in its own [tokens, V], has eight times the classes, which do not fit there: it is
what the form itself takes.
"""

import functools
import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses, signals
from kdjax.losses import divergences

TOKENS, CLASSES, NARROW, WIDE = 4096, 32768, 512, 1024
CHUNKS = (128, 120)
ROUNDS = 3
# The public function over logits, its core (None for what needs more than log-probabilities), and
# hyperparameters that leave no part of it out.
DIVERGENCES = {
    "softened_kl_divergence": (divergences.kl_of_log_probs, {}),
    "reverse_kl_divergence": (divergences.reverse_kl_of_log_probs, {}),
    "symmetric_kl_divergence": (divergences.symmetric_kl_of_log_probs, {"weight": 0.5}),
    "skew_kl_divergence": (divergences.skew_kl_of_log_probs, {"skew": 0.1}),
    "skew_reverse_kl_divergence": (divergences.skew_reverse_kl_of_log_probs, {"skew": 0.1}),
    "generalized_jensen_shannon_divergence": (
        divergences.generalized_jensen_shannon_of_log_probs,
        {"beta": 0.5},
    ),
    "total_variation_distance": (divergences.total_variation_of_log_probs, {}),
    "adaptive_kl_divergence": (divergences.adaptive_kl_of_log_probs, {"head_mass": 0.5}),
    "interpolated_kl_divergence": (
        divergences.interpolated_kl_of_log_probs,
        {"interpolation": 0.5},
    ),
    "minifinetuning_divergence": (None, {"labels": np.arange(TOKENS) % CLASSES}),
    "logit_cosine_distance": (None, {}),
}


def rows(only=""):
    """One row a divergence whose name contains `only`, and a chunk."""
    return [row for name in DIVERGENCES if only in name for row in measure(name)]


def measure(name):
    """The rows of one divergence."""
    arrays = _arrays()
    runs = {chunk: compiled(chunked(name, chunk), arrays) for chunk in CHUNKS}
    whole = compiled(dense(name), arrays)
    value, _ = whole(*arrays)
    apart = {chunk: float(abs(run(*arrays)[0] / value - 1)) for chunk, run in runs.items()}
    ratios = {chunk: [] for chunk in CHUNKS}
    for _ in range(ROUNDS):
        beside = seconds(whole, arrays)
        for chunk, run in runs.items():
            ratios[chunk].append(seconds(run, arrays) / beside)
    return [
        {
            "name": name,
            "chunk": chunk,
            "ratio": float(np.median(ratios[chunk])),
            "spread": float(np.ptp(ratios[chunk])),
            "memory": units(run, CLASSES),
            "memory_dense": units(whole, CLASSES),
            "memory_tpu": units_on_tpu(chunked(name, chunk), CLASSES),
            "memory_tpu_wide": units_on_tpu(chunked(name, chunk), 8 * CLASSES),
            "difference": apart[chunk],
        }
        for chunk, run in runs.items()
    ]


def chunked(name, chunk):
    """The mean over tokens by chunks, of student hidden and head, teacher hidden and head."""
    core, hyper = DIVERGENCES[name]

    def mean(hidden, head, teacher_hidden, teacher_head):
        student = signals.HiddenHead(hidden, head)
        teacher = signals.HiddenHead(teacher_hidden, teacher_head)
        if core is None:
            loss = getattr(losses, name)
            total, count = signals.chunked_loss(loss, student, teacher, chunk=chunk, **hyper)
        else:
            total, count = signals.chunked_divergence(core, student, teacher, chunk=chunk, **hyper)
        return total / count

    return mean


def dense(name):
    """The mean over tokens of the function over logits."""

    def mean(hidden, head, teacher_hidden, teacher_head):
        student, teacher = hidden @ head, teacher_hidden @ teacher_head
        return jnp.mean(getattr(losses, name)(student, teacher, **DIVERGENCES[name][1]))

    return mean


def compiled(mean, arrays):
    """The compiled value and gradients by the student's two arrays."""
    return jax.jit(jax.value_and_grad(mean, (0, 1))).lower(*arrays).compile()


def units(program, classes):
    """What a program allocates beyond its arguments, in float32 [tokens, classes] tensors."""
    memory = program.memory_analysis()
    size = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return size / (4 * TOKENS * classes)


def units_on_tpu(mean, classes):
    """The same in the main memory of one TPU v5e, of bfloat16 inputs; None without `libtpu`."""
    sharding = _tpu()
    if sharding is None:
        return None
    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=sharding) for s in _shapes(classes)]
    return units(compiled(mean, shapes), classes)


def seconds(run, arrays):
    start = time.perf_counter()
    jax.block_until_ready(run(*arrays))
    return time.perf_counter() - start


@functools.cache
def _tpu():
    if importlib.util.find_spec("libtpu") is None:
        return None
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    return jax.sharding.SingleDeviceSharding(topology.devices[0])


@functools.cache
def _arrays():
    rng = np.random.default_rng(0)
    wanted = [rng.standard_normal(s, np.float32) for s in _shapes(CLASSES)]
    # Logits of unit variance.
    return tuple(jnp.asarray(x / np.sqrt(x.shape[0]) if i % 2 else x) for i, x in enumerate(wanted))


def _shapes(classes):
    return (TOKENS, NARROW), (NARROW, classes), (TOKENS, WIDE), (WIDE, classes)
