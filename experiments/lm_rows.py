"""What a row of a language-model config may ask for beside its method, and how it is met.

`samples`: texts that the student or its teacher writes; `answers`: a file of a teacher that is not at
hand; `stored`: a teacher's signals from disk; `student`: one that starts as layers of its teacher, is
adapted by low-rank factors or computes with weights of few bits; `calibrated`: temperatures, of which
the teacher gets the best calibrated one; `optimiser`: what differs there.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import setup
from experiments.train_lm import Data, stream_of, with_logits
from kdjax import signals, surgery
from kdjax.data import plans, signal_cache, streams, text
from kdjax.generate import Mixture, generate
from kdjax.methods.sequence import inputs_of, signal_of
from kdjax.metrics import classification, language
from kdjax.networks import fingerprint, low_rank
from kdjax.train import Every, Pool, Stage, fetch

# Keys of a row that are not options of its method, and what each holds where nothing else is said.
SAMPLES = {
    "writer": "student",  # or "teacher", who writes once, before the student trains
    "fraction": 1.0,  # of a batch that is written by a model
    "every": 50,  # steps between two writings of the student's
    "count": 64,  # rows in a writing
    "prompt": 16,  # tokens of the data that a row begins with
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "teacher_share": 0.0,  # how much of the teacher is mixed into what the student draws from
}
ANSWERS = {"file": "", "top_k": 0}
STUDENT = {
    "teacher_layers": False,  # begin as layers of the teacher, spread evenly
    "rank": 0,  # of low-rank factors, which alone are trained; 0 for none
    "alpha": 16.0,
    "bits": 0,  # of the weights that the student computes with; 0 for whole ones
    "patterns": ("kernel$",),  # what either is of; for factors also (pattern, input axes)
}
STORED = {"kind": "top_k", "k": 16}  # what is kept of the teacher on disk: top_k, sampled, hidden
ROW_KEYS = {"samples": SAMPLES, "answers": ANSWERS, "student": STUDENT, "stored": STORED}
ROW_OPTIONS = (*ROW_KEYS, "calibrated", "optimiser")


def options_of(config, name: str, key: str) -> ConfigDict:
    """What a row says under one of `ROW_KEYS`, filled up with what it does not say."""
    given = config.run.rows[name].get(key, {})
    for option in given:
        setup.choose(f"run.rows.{name}.{key}.{option}", option, ROW_KEYS[key])
    return ConfigDict({**ROW_KEYS[key], **given})


def build_streams(config, data: Data, name):
    """(streams, memory) of a row: the text, answers of a file, room for what the student will write."""
    row = config.run.rows[name]
    if "answers" in row:
        return {"sequence": answers_stream(config, data, name)}, {}
    given = dict(data.streams["student"])
    if "samples" not in row:
        if row.method == "minillm":
            raise ValueError("minillm learns from samples: say which in `samples`")
        return given, {}
    wanted = checked_samples(config, data, name)
    if wanted.writer == "teacher":
        return given, {}
    length = config.run.data.length
    example = {
        column: jax.ShapeDtypeStruct((length,), dtype)
        for column, dtype in {
            "tokens": jnp.int32,
            "targets": jnp.int32,
            "mask": bool,
            "segments": jnp.int32,
            "log_probs": jnp.float32,
        }.items()
    }
    plan = plans.IndexPlan(np.arange(wanted.count), written_rows(config, wanted))
    return {**given, "generated": Pool(plan, memory="written")}, {
        "written": Pool.empty(wanted.count, example)
    }


def written_rows(config, wanted) -> int:
    """How many rows of a batch a model wrote: a multiple of the devices, and one each at least."""
    devices = setup.build_placement(config).mesh.size
    return devices * max(1, round(wanted.fraction * config.run.batch / devices))


def answers_stream(config, data: Data, name) -> streams.Stream:
    """Rows of a teacher that is not at hand: its answers, perhaps with its best classes."""
    wanted, run = options_of(config, name, "answers"), config.run
    if not wanted.top_k and run.rows[name].method != "next_token":
        raise ValueError("answers alone train `next_token`: other methods need top_k of them")
    roles = {role: tuple(pair) for role, pair in run.get("chat", {}).items()}
    template = text.ChatTemplate(roles) if roles else text.PLAIN_CHAT
    documents = text.read_answers(wanted.file, data.tokenizer, template, top_k=wanted.top_k)
    end = text.end_token(data.tokenizer, run.tokenizer.end)
    rows = text.pack(documents, run.data.length, end=end)
    plan = plans.IndexPlan(np.arange(len(rows["tokens"])), run.batch)
    if not wanted.top_k:
        return streams.Stream(plan, rows)
    stored = {key: rows.pop(f"teacher_{key}") for key in ("log_probs", "classes", "log_tail")}

    def read(index):
        return {"signal": signals.TopK(**{key: x[index] for key, x in stored.items()})}

    return streams.Stream(plan, rows, read)


# --- What models write ----------------------------------------------------------------------------


def checked_samples(config, data: Data, name) -> ConfigDict:
    """The row's `samples`, in range."""
    wanted, key = options_of(config, name, "samples"), f"run.rows.{name}.samples"
    setup.choose(f"{key}.writer", wanted.writer, dict.fromkeys(("student", "teacher")))
    for option in ("fraction", "top_p"):
        setup.check_range(f"{key}.{option}", wanted[option], lambda v: 0 < v <= 1, "in (0, 1]")
    for option in ("every", "count"):
        setup.check_range(f"{key}.{option}", wanted[option], lambda v: v >= 1, "at least 1")
    for option in ("temperature", "top_k"):
        setup.check_range(f"{key}.{option}", wanted[option], lambda v: v >= 0, "0 or above")
    share = wanted.teacher_share
    setup.check_range(f"{key}.teacher_share", share, lambda v: 0 <= v < 1, "in [0, 1)")
    if share and wanted.writer == "teacher":
        raise setup.ConfigError(f"config.{key}.teacher_share is of the student's texts alone")
    if data.crosses:
        raise setup.ConfigError(f"config.{key}: texts are written for one tokenizer, there are two")
    with setup.reading(f"{key}.prompt"):
        text.whole_prompts(data.rows, wanted.prompt)
    return wanted


def build_writer(config, data: Data, nets, name) -> Callable[..., dict[str, jax.Array]]:
    """`write(variables {player}, key) -> columns` of the rows that the row's writer continues.

    Prompts are the beginnings of training rows, drawn by the key.
    """
    wanted = checked_samples(config, data, name)
    vocabulary, length = data.vocabulary("student"), config.run.data.length
    prompts = text.whole_prompts(data.rows, wanted.prompt)
    end = text.end_token(data.tokenizer, config.run.tokenizer.end)
    speakers = {player: with_logits(network, vocabulary) for player, network in nets.items()}

    def write(variables, key):
        chosen = jax.random.randint(jax.random.fold_in(key, 0), (wanted.count,), 0, len(prompts))
        start = jnp.asarray(prompts)[chosen]
        mixture = None
        if wanted.teacher_share:
            mixture = Mixture(speakers["teacher"], variables["teacher"], wanted.teacher_share)
        made = generate(
            speakers[wanted.writer],
            variables[wanted.writer],
            start,
            length=length + 1 - wanted.prompt,
            key=jax.random.fold_in(key, 1),
            temperature=wanted.temperature,
            top_k=wanted.top_k or None,
            top_p=wanted.top_p if wanted.top_p < 1 else None,
            stop_token=end,
            mixture=mixture,
        )
        whole = jnp.concatenate([start, made.tokens], axis=1)
        columns = text.continued(start, whole, end=end)
        padding = ((0, 0), (wanted.prompt - 1, 0))
        return {**columns, "log_probs": jnp.pad(made.log_probs, padding)}

    return write


def with_writing(config, data: Data, stage: Stage, name, frozen) -> Stage:
    """The stage with what a model writes for it: by the teacher now, by the student every so often."""
    if "samples" not in config.run.rows[name]:
        return stage
    wanted = options_of(config, name, "samples")
    write = build_writer(config, data, stage.networks, name)
    taught = {"params": frozen["teacher"], "frozen": {}, "model": frozen["teacher/model"]}
    if wanted.writer == "teacher":
        columns = fetch(jax.jit(write)({"teacher": taught}, jax.random.key(0)))
        batch = written_rows(config, wanted)
        given = stream_of(columns, batch, f"run.rows.{name}.samples.fraction")
        streams_of = {**data.streams["student"], "generated": given}
        return dataclasses.replace(stage, streams=streams_of)

    @jax.jit
    def refreshed(state, taught, base):
        def one(params, model, key, step):
            own = {"params": params, "frozen": base, "model": model}
            key = jax.random.fold_in(jax.random.fold_in(key, step), 0x5A)
            rows = write({"student": own, "teacher": taught}, key)
            return {"columns": rows, "written": jnp.asarray(wanted.count, jnp.int32)}

        several = jnp.ndim(state.step) > 0
        make = jax.vmap(one) if several else one
        written = make(state.params["student"], state.model["student"], state.key, state.step)
        return state.replace(memory={**state.memory, "written": written})

    def refresh(step, state):
        del step
        return refreshed(state, taught, frozen.get("student", {}))

    return dataclasses.replace(stage, every=[*stage.every, Every(wanted.every, refresh)])


# --- What is stored of the teacher ----------------------------------------------------------------


def check_stored(config, data: Data, name) -> None:
    """Refuses what cannot be stored, before anything is trained."""
    row, key = config.run.rows[name], f"run.rows.{name}.stored"
    if "stored" not in row:
        return
    wanted = options_of(config, name, "stored")
    setup.choose(f"{key}.kind", wanted.kind, dict.fromkeys(("top_k", "sampled", "hidden")))
    classes = data.vocabulary("student")
    setup.check_range(f"{key}.k", wanted.k, lambda v: 1 <= v <= classes, f"from 1 to {classes}")
    if data.crosses or "samples" in row or "answers" in row:
        raise setup.ConfigError(f"config.{key} is of one tokenizer's text, and of no other rows")
    if wanted.kind == "hidden" and not config.run.chunk:
        raise setup.ConfigError(f"config.{key}.kind 'hidden' needs run.chunk above 0")


def with_stored(config, data: Data, workdir, stage: Stage, name, frozen, digest):
    """(the stage, frozen) with the teacher's signals from a cache, which is written first."""
    if "stored" not in config.run.rows[name]:
        return stage, frozen
    wanted, key = options_of(config, name, "stored"), f"run.rows.{name}.stored"
    network, rows = stage.networks["teacher"], data.rows
    classes = data.vocabulary("student")
    variables = {"params": frozen["teacher"], "frozen": {}, "model": frozen["teacher/model"]}

    @jax.jit
    def given(columns, key):
        outputs, _ = network.apply(variables, inputs_of(columns), train=False, rngs={})
        signal = signal_of(outputs, classes)
        if wanted.kind == "hidden":
            return signal
        logits = signals.logits_of(signal)
        if wanted.kind == "sampled":
            return signals.sample(key, logits, wanted.k)
        return signals.top_k(logits, wanted.k)

    def signal_of_rows(examples, seeds):
        del seeds
        columns = {name: column[examples] for name, column in rows.items()}
        number = jax.random.fold_in(jax.random.key(0), int(examples[0]))
        return fetch(given(columns, number)), columns["mask"]

    binding = signal_cache.Binding(
        teacher=digest,
        tokenizer=hashlib.sha256(data.tokenizer.to_str().encode()).hexdigest(),
        data=fingerprint(rows),
    )
    folder = workdir / "signals" / f"{wanted.kind}-{wanted.k}"
    with setup.reading(key), setup.first_process_first("signals"):
        constants: dict[str, Any] = {}
        form: Any
        if wanted.kind == "hidden":
            first, _ = signal_of_rows(np.arange(1), np.zeros(1))
            constants, form = (
                {"head": first.head},
                signal_cache.HiddenFormat(first.hidden.shape[-1]),
            )
        elif wanted.kind == "sampled":
            form = signal_cache.SampledFormat(classes, wanted.k)
        else:
            form = signal_cache.TopKFormat(classes, wanted.k)
        signal_cache.write(
            folder, signal_of_rows, np.arange(len(rows["tokens"])), form,
            binding=binding, length=config.run.data.length, constants=constants or None,
            batch_size=config.run.batch,
        )  # fmt: skip
        cache = signal_cache.SignalCache(folder, binding)
    plan = plans.IndexPlan(np.arange(len(rows["tokens"])), config.run.batch)
    stream = streams.Stream(plan, rows, cache.reader())
    if constants:
        frozen = {**frozen, "signal": cache.constants}
    return dataclasses.replace(stage, streams={"sequence": stream}), frozen


# --- A teacher that is recalibrated ---------------------------------------------------------------


def calibrated(config, data: Data, network, frozen, name):
    """The config with the `teacher_temperature` of a row that asks for a calibrated teacher.

    It is the one of `calibrated` with the least calibration error on validation, of the teacher's
    `top_k` best classes, renormalised.
    """
    row = config.run.rows[name]
    if "calibrated" not in row:
        return config
    variables = {"params": frozen["teacher"], "frozen": {}, "model": frozen["teacher/model"]}
    classes = data.vocabulary("student")

    @jax.jit
    def error(temperature):
        def gaps(batch):
            outputs, _ = network.apply(variables, inputs_of(batch), train=False, rngs={})
            logits = signals.logits_of(signal_of(outputs, classes))
            least = jax.lax.top_k(logits, row.top_k)[0][..., -1:]
            best = jnp.where(logits >= least, logits / temperature, -1e9)
            found = language.calibration_gaps(best, batch["targets"], batch["mask"])
            return found.sum(0), batch["mask"].sum()

        found, tokens = jax.lax.map(gaps, data.validation["teacher"])
        return classification.expected_calibration_error(found.sum(0), tokens.sum())

    errors = [float(error(temperature)) for temperature in row.calibrated]
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.run.rows[name].teacher_temperature = row.calibrated[int(np.argmin(errors))]
    return config


# --- Students that are not whole ------------------------------------------------------------------


def rounded(config, name, network):
    """The student's network, computing with weights of `student.bits` bits if the row says so."""
    wanted = options_of(config, name, "student")
    key = f"run.rows.{name}.student"
    setup.check_range(f"{key}.bits", wanted.bits, lambda v: v == 0 or v >= 2, "0 or at least 2")
    setup.check_range(f"{key}.rank", wanted.rank, lambda v: v >= 0, "0 or above")
    if wanted.rank and not wanted.teacher_layers:
        raise setup.ConfigError(
            f"config.{key}.rank adapts weights that are there: it needs teacher_layers"
        )
    if wanted.rank and wanted.bits:
        raise setup.ConfigError(f"config.{key} must have rank or bits, got both")
    if not wanted.bits:
        return network
    patterns = names_of(wanted.patterns)

    def apply(variables, inputs, **options):
        params = surgery.fake_quantised(variables["params"], patterns, bits=wanted.bits)
        return network.apply({**variables, "params": params}, inputs, **options)

    return network._replace(apply=apply)


def names_of(patterns) -> tuple[str, ...]:
    """The patterns themselves, where some come with input axes."""
    return tuple(p if isinstance(p, str) else p[0] for p in patterns)


def with_start(config, data: Data, stage: Stage, seeds, name, frozen):
    """(the stage, frozen) with a student that begins as some of its teacher's layers, whole or adapted."""
    wanted, key = options_of(config, name, "student"), f"run.rows.{name}.student"
    if not wanted.teacher_layers:
        return stage, frozen
    network, inputs = stage.networks["student"], data.inputs["student"]
    with setup.reading(f"{key}.teacher_layers"):
        base = surgery.kept_layers(frozen["teacher"], config.run.student.network.depth)
        shapes = jax.eval_shape(network.init, jax.random.key(0), inputs)["params"]
        if jax.tree.map(jnp.shape, shapes) != jax.tree.map(jnp.shape, dict(base)):
            raise ValueError("teacher and student must have the same widths and kinds of layers")
    if wanted.rank:
        with setup.reading(key):
            axes: dict[str, Any] = dict(
                (p, None) if isinstance(p, str) else p for p in wanted.patterns
            )
            network = low_rank(network, axes, rank=wanted.rank, alpha=wanted.alpha)
            jax.eval_shape(network.init, jax.random.key(0), inputs)
        frozen = {**frozen, "student": base}

    def begun(key, base):
        # A copy: the state is donated, the teacher is not.
        params = jax.tree.map(jnp.copy, base)
        if wanted.rank:
            params = network.init(jax.random.fold_in(key, 0x10), inputs)["params"]
        return params, stage.optimisers["student"].init(params)

    def init(frozen):
        state, frozen = stage.init(frozen)
        make = begun if isinstance(seeds, int) else jax.vmap(begun, in_axes=(0, None))
        params, opt = jax.jit(make)(state.key, base)
        params, opt = {**state.params, "student": params}, {**state.opt, "student": opt}
        return state.replace(params=params, opt=opt), frozen

    return dataclasses.replace(
        stage, networks={**stage.networks, "student": network}, init=init, compiled={}
    ), frozen
