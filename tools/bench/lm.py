"""The step of distilling a language model: by chunks, from stored targets, and beside PyTorch.

- `chunked`: the whole step whose loss is formed a chunk at a time beside the one that forms all logits;
  `memory` and `memory_reference` are the temporaries that XLA allocates, in MiB.
- `stored_top16`: the step with the teacher's 16 best classes, read from a signal cache on disk as the
  training loop reads them, beside the live teacher, whose pass it saves.
- `torch`: GKD's generalised Jensen-Shannon step (β = 0.5) with AdamW beside an eager loop over the same
  networks in `transformers`, which load the weights that kdjax writes. `difference` is that of the two
  losses on the first batch, relative. Left out where torch or transformers are not installed.

`ratio` is the time over that of the reference, measured in turn in one run on the CPU; `tokens` are the
tokens of a second in the first of the two.
"""

import functools
import importlib.util
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import methods, networks, signals
from kdjax.data import signal_cache, streams
from kdjax.data.plans import IndexPlan
from kdjax.networks import fingerprint, pretrained
from kdjax.train import build_train_step, init_state, make_mesh, place, scanned
from tools.bench import _timing

BATCH, LENGTH, CLASSES, CHUNK = 4, 128, 16_384, 128
TEACHER = {"width": 256, "depth": 4, "heads": 4, "key_heads": 2, "hidden": 768}
STUDENT = {"width": 128, "depth": 2, "heads": 4, "key_heads": 2, "hidden": 384}
ROUNDS, STEPS, KEPT = 5, 2, 16


def rows(only=""):
    """One row a comparison whose name contains `only`."""
    suites = {"chunked": chunked, f"stored_top{KEPT}": stored}
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        suites["torch"] = beside_torch
    return [{"name": name, **suite()} for name, suite in suites.items() if only in name]


def chunked():
    """The loss by chunks beside the dense one."""
    method = methods.token_kd(weight=0.5, chunk=CHUNK)
    runs = {
        name: Steps(method, networks_for(hidden), data())
        for name, hidden in (("dense", False), ("chunks", True))
    }
    row = compared(runs, "chunks", "dense")
    memory = {name: run.temporaries() for name, run in runs.items()}
    return {**row, "memory": memory["chunks"], "memory_reference": memory["dense"]}


def stored():
    """Stored targets beside the live teacher."""
    method, nets, columns = methods.token_kd(), networks_for(True), data()
    teacher = nets["teacher"]
    variables = {"params": params(), "frozen": {}, "model": {}}

    @jax.jit
    def signal_of(tokens):
        outputs, _ = teacher.apply(variables, {"tokens": tokens}, train=False, rngs={})
        head = signals.HiddenHead(outputs.features["hidden"], outputs.features["head"])
        return signals.top_k(signals.logits_of(head), KEPT)

    binding = signal_cache.Binding(fingerprint(params()), None, "random")
    with tempfile.TemporaryDirectory() as folder:
        signal_cache.write(
            folder,
            lambda examples, seeds: (signal_of(columns["tokens"][examples]), None),
            np.arange(len(columns["tokens"])),
            signal_cache.TopKFormat(CLASSES, KEPT),
            binding=binding,
            length=LENGTH,
            batch_size=BATCH,
        )
        read = signal_cache.SignalCache(folder, binding).reader()
        runs = {
            "live": Steps(method, nets, columns),
            "stored": Steps(method, nets, columns, read=read),
        }
        return compared(runs, "stored", "live")


def beside_torch():
    """The step beside an eager loop over the same weights."""
    method = methods.token_kd(divergence="generalized_jensen_shannon", beta=0.5)
    ours, theirs = Steps(method, networks_for(False), data(), steps=1), Theirs(data())
    total, count = ours()[1]["kd"]
    loss, other = float(total[0] / count[0]), theirs()
    row = compared({"ours": ours, "theirs": theirs}, "ours", "theirs", steps=1)
    return {**row, "difference": abs(other / loss - 1)}


def compared(runs, name, reference, steps=STEPS):
    seconds = _timing.interleaved(runs, ROUNDS)
    tokens = steps * BATCH * LENGTH / float(np.median(seconds[name]))
    return {**_timing.compared(seconds[name], seconds[reference]), "tokens": tokens}


def networks_for(hidden):
    """Teacher and student, with logits or with what they are made of."""
    given = {"features": ("hidden", "head"), "logits": False} if hidden else {}
    return {
        name: networks.decoder_transformer(CLASSES, scan=False, **sizes, **given)
        for name, sizes in (("teacher", TEACHER), ("student", STUDENT))
    }


@functools.cache
def data():
    """Random rows; the time of a step does not hang on what it reads."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, CLASSES, (4 * BATCH, LENGTH + 1)).astype(np.int32)
    mask = np.ones((4 * BATCH, LENGTH), bool)
    return {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "mask": mask}


@functools.cache
def params():
    """The teacher's."""
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
    return networks_for(False)["teacher"].init(jax.random.key(1), tokens)["params"]


class Steps:
    """A chunk of steps, as the training loop runs it: the rows are read, then the device is busy."""

    def __init__(self, method, nets, columns, *, read=None, steps=STEPS):
        plan = IndexPlan(np.arange(len(columns["tokens"])), BATCH)
        self._stream = streams.Stream(plan, columns, read)
        self._steps = steps
        optimisers = {"student": optax.adamw(1e-4)}

        def builder(axis):
            return build_train_step(nets, method.phases, optimisers, axis=axis)

        mesh = make_mesh("data=1", jax.devices()[:1])
        build = scanned(builder, {"sequence": self._stream})
        self._program, self._chunk = build(None), place(build, mesh, batch_axis=1)
        inputs = {"student": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)}
        self._state = init_state(
            jax.random.key(0), nets, inputs, optimisers, hyper=method.hyper, memory=method.memory
        )
        frozen = {"teacher": params()} if read is None else {}
        self._shared = {
            "frozen": frozen,
            "resident": {"sequence": {k: jnp.asarray(x) for k, x in columns.items()}},
        }

    def __call__(self):
        xs = {"sequence": self._stream.xs(0, 0, self._steps)}
        self._state, metrics = self._chunk(self._state, self._shared, xs)
        return self._state, metrics

    def temporaries(self):
        """MiB that XLA allocates beside what goes in and out."""
        xs = {"sequence": self._stream.xs(0, 0, self._steps)}
        program = jax.jit(self._program).lower(self._state, self._shared, xs).compile()
        return program.memory_analysis().temp_size_in_bytes / 2**20


class Theirs:
    """A step of an eager loop over `transformers` models with kdjax's weights."""

    def __init__(self, columns):
        import torch
        from transformers import AutoModelForCausalLM

        self._models = {}
        for player, sizes in (("teacher", TEACHER), ("student", STUDENT)):
            options = {"vocabulary": CLASSES, **sizes}
            values = params() if player == "teacher" else started()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / player
                config = pretrained.decoder_config(options, positions=LENGTH)
                pretrained.save_pretrained(path, {"params": values, "model": {}}, config)
                self._models[player] = AutoModelForCausalLM.from_pretrained(path)
        self._models["teacher"].eval()
        self._optimiser = torch.optim.AdamW(self._models["student"].parameters(), lr=1e-4)
        index = IndexPlan(np.arange(len(columns["tokens"])), BATCH).indices(0, 0)
        self._tokens = torch.tensor(columns["tokens"][index], dtype=torch.long)

    def __call__(self):
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            log_p = F.log_softmax(self._models["teacher"](self._tokens).logits, -1)
        log_q = F.log_softmax(self._models["student"](self._tokens).logits, -1)
        log_m = torch.logsumexp(torch.stack([log_p, log_q]), 0) - np.log(2)
        sides = (F.kl_div(log_m, x, reduction="sum", log_target=True) for x in (log_p, log_q))
        loss = sum(sides) / (2 * self._tokens.numel())
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return loss.item()


def started():
    """The student that `Steps` starts from."""
    inputs = {"student": jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)}
    state = init_state(
        jax.random.key(0), networks_for(False), inputs, {"student": optax.adamw(1e-4)}
    )
    return state.params["student"]
