"""Methods over sequences: `batch["sequence"]` holds `tokens` `[B, L]` and what goes with them.

`targets` `[B, L]` are the tokens that follow, `mask` `[B, L]` keeps those that count, `segments` and
`positions` reach the networks with the tokens. A masked token counts nothing. Instead of a live
teacher the batch may bring its `signal`, one of `kdjax.signals` with `[B, L, ...]` arrays, and
`signal_where` `[B, L]`, where there is one; a `HiddenHead` without a head finds it in
`frozen["signal"]`.

Where there is `batch["generated"]`, rows that a model wrote (the same columns, and `where` `[n]` if
there may be none yet), they take the place of the first n rows of the batch.

Networks give the features `hidden` `[B, L, D]` and `head` `[D, V]`, and then no logits of all tokens
are formed, or logits.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import signals
from kdjax.losses import divergences, sequence, total_and_count
from kdjax.losses._arrays import check_fraction, check_positive
from kdjax.train.method import Method, Term, one_phase

DIVERGENCES: Mapping[str, Callable[..., Any]] = {
    "adaptive_kl": divergences.adaptive_kl_of_log_probs,
    "generalized_jensen_shannon": divergences.generalized_jensen_shannon_of_log_probs,
    "interpolated_kl": divergences.interpolated_kl_of_log_probs,
    "kl": divergences.kl_of_log_probs,
    "reverse_kl": divergences.reverse_kl_of_log_probs,
    "skew_kl": divergences.skew_kl_of_log_probs,
    "skew_reverse_kl": divergences.skew_reverse_kl_of_log_probs,
    "symmetric_kl": divergences.symmetric_kl_of_log_probs,
    "total_variation": divergences.total_variation_of_log_probs,
}
INPUTS = ("tokens", "segments", "positions")


# --- Weights over the run -------------------------------------------------------------------------


def constant(progress):
    """1 throughout."""
    return jnp.ones_like(progress)


def rising(progress):
    """From 0 to 1, linearly."""
    return progress


def falling(progress):
    """From 1 to 0, linearly."""
    return 1 - progress


def warmup_stable_decay(progress):
    """From 0 to 1 in the first tenth, to 0 in the last fifth."""
    return jnp.clip(jnp.minimum(progress / 0.1, (1 - progress) / 0.2), 0, 1)


SCHEDULES = {f.__name__: f for f in (constant, rising, falling, warmup_stable_decay)}


# --- What a batch holds ---------------------------------------------------------------------------


def rows_of(scope) -> dict[str, Any]:
    """The columns of `batch["sequence"]`, its first rows replaced by those that a model wrote."""
    rows = dict(scope.batch["sequence"])
    generated = scope.batch.get("generated")
    if generated is None:
        return rows
    if "signal" in rows:
        raise ValueError("rows that a model wrote have no stored signal: they need a live teacher")
    count = len(generated["tokens"])
    written = generated.get("where", jnp.ones(count, bool))

    def replaced(name, column):
        own = column[:count]
        kept = written.reshape(-1, *(1,) * (own.ndim - 1))
        return jnp.concatenate([jnp.where(kept, generated[name], own), column[count:]])

    names = (*INPUTS, "targets", "mask")
    return {name: replaced(name, rows[name]) for name in names if name in rows}


def inputs_of(rows) -> dict[str, Any]:
    """What the networks read of a batch's columns."""
    return {name: rows[name] for name in INPUTS if name in rows}


def signal_of(outputs, vocabulary=None):
    """What a network gave, as a `HiddenHead` or `Dense` signal over its first `vocabulary` classes."""
    if {"hidden", "head"} <= set(outputs.features):
        head = outputs.features["head"]
        head = head if vocabulary is None else head[:, :vocabulary]
        return signals.HiddenHead(outputs.features["hidden"], head)
    logits = outputs.logits
    return signals.Dense(logits if vocabulary is None else logits[..., :vocabulary])


# --- Losses over the tokens of a batch, whole or by chunks ----------------------------------------


def label_totals(student, targets, where, chunk):
    """(Σ -log q of the targets, how many) from the student's signal."""

    def loss(logits, _, *, tokens, where):
        return sequence.token_negative_log_likelihood(logits, tokens, where=where)

    if isinstance(student, signals.HiddenHead):
        own = jax.lax.stop_gradient(student)  # in the place of a teacher, and not read
        return signals.chunked_loss(loss, student, own, where=where, chunk=chunk, tokens=targets)
    values = loss(student.logits, None, tokens=targets, where=where)
    return total_and_count(values, where)


def divergence_totals(divergence, student, teacher, where, chunk, **hyperparameters):
    """(Σ T² · divergence, how many tokens) from the signals of both."""
    if isinstance(student, signals.HiddenHead):
        return signals.chunked_divergence(
            divergence, student, teacher, where=where, chunk=chunk, **hyperparameters
        )
    values = signals.signal_divergence(
        divergence, student.logits, teacher, where=where, **hyperparameters
    )
    return total_and_count(values, where)


def _parted(signal):
    """(arrays by example, arrays that all examples share, what makes the signal of both)."""
    if isinstance(signal, signals.HiddenHead):
        return signal.hidden, signal.head, signals.HiddenHead
    return signal, (), lambda whole, _: whole


def totals(terms, student, teacher, columns, shared, per_shard):
    """`terms(student, teacher, columns, shared)`, summed over the parts of the batch."""
    own, own_shared, make = _parted(student)
    theirs, their_shared, make_theirs = _parted(teacher) if teacher is not None else ((), (), None)

    def part(examples, shared):
        student = make(examples["student"], shared["student"])
        teacher = make_theirs(examples["teacher"], shared["teacher"]) if make_theirs else None
        return terms(student, teacher, examples["columns"], shared["hyper"])

    examples = {"student": own, "teacher": theirs, "columns": columns}
    return per_shard(part)(
        examples, {"student": own_shared, "teacher": their_shared, "hyper": shared}
    )


def whole_batch(function):
    """What `kdjax.train.per_shard(mesh)` is where a batch is not split: nothing."""
    return function


# --- Methods --------------------------------------------------------------------------------------


def next_token(
    *,
    vocabulary: int | None = None,
    chunk: int = 512,
    per_shard: Callable[..., Any] = whole_batch,
) -> Method:
    """-log q of the next token: language modelling, and the whole of sequence-level distillation.

    On answers that a teacher wrote it is the loss of Kim, Rush, "Sequence-Level Knowledge
    Distillation", 2016, who took the best of a beam of 5; on a served model's answers it is
    black-box distillation.

    Args:
        vocabulary: over the first so many classes, where networks have more than the tokenizer.
        chunk: tokens in memory at once, where networks give hidden states and heads.
        per_shard: `kdjax.train.per_shard(mesh)` where a batch is split: a chunk is then one of each
            part.
    """

    def objective(scope):
        rows = rows_of(scope)
        outputs, model = scope.apply("student", inputs_of(rows))

        def terms(student, _, columns, shared):
            return label_totals(student, columns["targets"], columns.get("mask"), chunk)

        columns = _columns(rows)
        student = signal_of(outputs, vocabulary)
        total = totals(terms, student, None, columns, (), per_shard)
        return {"labels": Term(*total)}, {"model": {"student": model}}

    return one_phase(objective)


def token_kd(
    *,
    divergence: str = "kl",
    temperature: float = 1.0,
    weight: float = 1.0,
    schedule: str = "constant",
    steps: int = 0,
    top_k: int = 0,
    vocabulary: int | None = None,
    chunk: int = 512,
    per_shard: Callable[..., Any] = whole_batch,
    **hyperparameters: float,
) -> Method:
    """(1 - weight) · cross entropy + weight · T² · a divergence from the teacher, at every token.

    With the default divergence it is that of Hinton et al. at every token, as in Sanh, Debut,
    Chaumond, Wolf, "DistilBERT, a distilled version of BERT", 2019, among others. On rows that the
    student wrote it is Agarwal, Vieillard, Zhou, Stanczyk, Ramos, Geist, Bachem, "On-Policy
    Distillation of Language Models: Learning from Self-Generated Mistakes" (GKD), 2024, who compared
    kl, reverse_kl and generalized_jensen_shannon with beta 0.1, 0.5 and 0.9.

    Args:
        divergence: one of `DIVERGENCES`: kl is KL(teacher ‖ student), skew_kl and skew_reverse_kl
            those of Ko, Kim, Chen, Yun, "DistiLLM: Towards Streamlined Distillation for Large
            Language Models", 2024 (skew 0.1), adaptive_kl that of Wu, Tao, Wang, Yang, Zhao, Wong,
            "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language
            Models", 2025 (head_mass 0.5).
        temperature: T, of the loss; what answers are sampled at is another matter.
        weight: of the divergence, in [0, 1]; at 1 there is no cross entropy and no need of targets.
        schedule: one of `SCHEDULES`, how the weight goes over `steps`, the length of the run.
        top_k: keep that many of the teacher's classes and the mass of the others; 0 for all.
        vocabulary: over the first so many classes, both sides renormalised: heads may be padded to
            different sizes.
        chunk, per_shard: as in `next_token`.
        **hyperparameters: those of the divergence by its core's own names (skew, beta, head_mass,
            interpolation), but for symmetric_kl, whose weight is `reverse_weight` here.

    Raises:
        ValueError: an unknown divergence or schedule, a hyperparameter that the divergence does not
            have or that is missing, a schedule without steps.
    """
    core, given = _divergence(divergence, hyperparameters)
    check_positive(temperature=temperature)
    check_fraction(weight=weight)
    goes = _choose("schedule", schedule, SCHEDULES)
    if schedule != "constant" and steps < 1:
        raise ValueError(f"schedule {schedule!r} needs steps, the length of the run; got {steps}")

    def objective(scope):
        rows, hyper = rows_of(scope), dict(scope.hyper)
        share = hyper.pop("weight")
        if schedule != "constant":
            share = share * goes(scope.step / steps)
        outputs, model = scope.apply("student", inputs_of(rows))
        student = signal_of(outputs, vocabulary)
        teacher = teacher_signal(scope, rows, vocabulary, top_k, temperature)

        def terms(student, teacher, columns, hyper):
            where = columns.get("mask")
            named = {own: hyper[name] for name, own in given.items()}
            kd = divergence_totals(
                core, student, teacher, where, chunk, temperature=hyper["temperature"], **named
            )
            if weight == 1 and schedule == "constant":
                return {"kd": kd}
            return {"kd": kd, "labels": label_totals(student, columns["targets"], where, chunk)}

        columns = _columns(rows)
        found = totals(terms, student, teacher, columns, hyper, per_shard)
        shares = {"kd": share, "labels": 1 - share}
        named = {name: Term(*pair, weight=shares[name]) for name, pair in found.items()}
        return named, {"model": {"student": model}}

    hyper: dict[str, Any] = {"temperature": temperature, "weight": weight, **hyperparameters}
    return one_phase(objective, **hyper)


def taid(
    *,
    steps: int,
    start: float = 0.4,
    end: float = 1.0,
    rate: float = 5e-4,
    smoothing: float = 0.99,
    temperature: float = 1.0,
    vocabulary: int | None = None,
    chunk: int = 512,
) -> Method:
    """T² KL(target ‖ student), the target moving from the student to the teacher as the loss falls.

    Shing, Misaki, Bao, Yokoi, Akiba, "TAID: Temporally Adaptive Interpolated Distillation for
    Efficient Knowledge Transfer in Language Models", 2025, with start 0.4 (0.2 for large gaps), rate
    5e-4 and smoothing 0.99.

    Args:
        steps: the length of the run, over which t goes from start to end at least.
        start, end, rate, smoothing: see `kdjax.losses.sequence.taid_update`; rate 0 is linear.
        temperature, vocabulary, chunk: as in `token_kd`.
    """
    check_positive(steps=steps, temperature=temperature)
    check_fraction(start=start, end=end, smoothing=smoothing)

    def objective(scope):
        rows, state = rows_of(scope), sequence.TaidState(**scope.memory["taid"])
        outputs, model = scope.apply("student", inputs_of(rows))
        total, count = divergence_totals(
            divergences.interpolated_kl_of_log_probs,
            signal_of(outputs, vocabulary),
            teacher_signal(scope, rows, vocabulary, 0, temperature),
            kept_tokens(rows),
            chunk,
            temperature=scope.hyper["temperature"],
            interpolation=state.interpolation,
        )
        loss = jax.lax.stop_gradient(total / jnp.maximum(count, 1))
        after = sequence.taid_update(
            state, loss, scope.step / steps, start=start, end=end, rate=rate, smoothing=smoothing
        )
        updates = {"model": {"student": model}, "memory": {"taid": after._asdict()}}
        return {"kd": Term(total, count)}, updates

    return one_phase(
        objective, memory={"taid": sequence.taid_start(start)._asdict()}, temperature=temperature
    )


def self_evolution_kd(*, truth_weight: float = 0.5, vocabulary: int | None = None) -> Method:
    """KL(target ‖ student), the target of the harder tokens of the batch drawn towards the student.

    A token is hard if its `blended_divergence` is above the mean of the batch. Forms all logits.

    Song, Ding, Zan, Huang, "Self-Evolution Knowledge Distillation for LLM-based Machine Translation",
    2024; threshold and ratio are a reconstruction, see `kdjax.losses.self_evolution_divergence`.
    """
    check_fraction(truth_weight=truth_weight)

    def objective(scope):
        rows = rows_of(scope)
        outputs, model = scope.apply("student", inputs_of(rows))
        student = signals.logits_of(signal_of(outputs, vocabulary))
        teacher = signals.logits_of(teacher_signal(scope, rows, vocabulary, 0, 1.0))
        where = kept_tokens(rows)
        given = {"truth_weight": truth_weight, "where": where}
        hard = sequence.blended_divergence(student, teacher, rows["targets"], **given)
        total, count = total_and_count(jax.lax.stop_gradient(hard), where)
        values = sequence.self_evolution_divergence(
            student, teacher, rows["targets"], threshold=total / jnp.maximum(count, 1), **given
        )
        terms = {"kd": Term(*total_and_count(values, where), couples=True)}
        return terms, {"model": {"student": model}}

    return one_phase(objective)


def teacher_signal(scope, rows, vocabulary, top_k, temperature):
    """What the batch brings of the teacher, or what the live one says, cut to its best classes."""
    if "signal" in rows:
        return _stored(scope, rows["signal"], vocabulary, temperature)
    outputs, _ = scope.apply("teacher", inputs_of(rows))
    signal = jax.lax.stop_gradient(signal_of(outputs, vocabulary))
    if not top_k:
        return signal
    return signals.top_k(signals.logits_of(signal), top_k, temperature=temperature)


def _stored(scope, signal, vocabulary, temperature):
    if isinstance(signal, signals.Sampled) and temperature != signal.temperature:
        raise ValueError(
            f"temperature must be {signal.temperature}, that of the sampled targets, got "
            f"{temperature}"
        )
    if isinstance(signal, signals.HiddenHead) and signal.head is None:
        signal = dataclasses.replace(signal, **scope.frozen["signal"])
    if vocabulary is None or not isinstance(signal, (signals.HiddenHead, signals.Dense)):
        return signal
    if isinstance(signal, signals.Dense):
        return signals.Dense(signal.logits[..., :vocabulary])
    return dataclasses.replace(signal, head=signal.head[:, :vocabulary])


def _columns(rows):
    columns = {"targets": rows.get("targets"), "mask": kept_tokens(rows)}
    return {name: column for name, column in columns.items() if column is not None}


def kept_tokens(rows):
    """Which tokens count, `[B, L]`: those of the mask that the stored signal has; None for all."""
    mask, stored = rows.get("mask"), rows.get("signal_where")
    if mask is None or stored is None:
        return mask if stored is None else stored
    return mask & stored


def _divergence(name, hyperparameters):
    """The core, and {its keyword: our name} of the hyperparameters it takes."""
    core = _choose("divergence", name, DIVERGENCES)
    parameters = inspect.signature(core).parameters.values()
    # `weight` is that of the whole divergence already.
    own = {p.name if p.name != "weight" else "reverse_weight": p.name for p in parameters
           if p.kind is p.KEYWORD_ONLY}  # fmt: skip
    if set(own) != set(hyperparameters):
        raise ValueError(f"divergence {name!r} takes {sorted(own)}, got {sorted(hyperparameters)}")
    check_fraction(**hyperparameters)
    return core, own


def _choose(what, name, choices):
    if name not in choices:
        raise ValueError(f"{what} must be one of {sorted(choices)}, got {name!r}")
    return choices[name]
