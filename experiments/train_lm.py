"""Trains the teacher of a language-model config, for many students to share.

    python -m experiments.train_lm --config=configs/lm.py --workdir=runs/lm_teacher

`experiments.distill_lm` does this itself unless `config.run.teacher.workdir` names such a workdir, or
`config.run.teacher.weights` a folder of public weights.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import setup, training
from kdjax import signals
from kdjax.data import alignment, plans, streams, text
from kdjax.methods.sequence import inputs_of, next_token, signal_of
from kdjax.metrics import classification, language
from kdjax.networks import fingerprint, pretrained
from kdjax.report import files
from kdjax.report.results import write_results
from kdjax.train import build_evaluation, fetch, init_state, settle, tree_sharding


class Data(NamedTuple):
    """Packed text by tokenizer: rows and streams, and what networks are initialised with.

    `teacher_tokenizer` is the student's own but where the teacher has another. `inputs`, `validation`
    and `test` are by player.
    """

    tokenizer: Any
    teacher_tokenizer: Any
    fingerprint: str
    documents: text.Splits
    rows: dict[str, np.ndarray]
    inputs: dict[str, dict[str, jax.ShapeDtypeStruct]]
    streams: dict[str, dict[str, streams.Stream]]
    validation: dict[str, dict[str, jax.Array]]
    test: dict[str, dict[str, jax.Array]]

    @property
    def crosses(self) -> bool:
        return self.teacher_tokenizer is not self.tokenizer

    def vocabulary(self, player: str) -> int:
        own = self.tokenizer if player == "student" else self.teacher_tokenizer
        return own.get_vocab_size()


# --- Data -----------------------------------------------------------------------------------------


def build_data(config) -> Data:
    """Documents split by file, tokenised and packed."""
    run, data = config.run, config.run.data
    placement = setup.build_placement(config)
    with setup.reading("run.data"):
        documents = load_documents(data.name)
        names = text.split_documents(documents, validation=data.validation, test=data.test)
    with setup.reading("run.tokenizer"):
        tokenizer = build_tokenizer(run.tokenizer, documents, names)
    teacher_tokenizer = build_teacher_tokenizer(config, documents, names, tokenizer)
    limits = {"train": data.rows, "validation": data.evaluated, "test": data.evaluated}

    def packed_by(tokenizer, key):
        with setup.reading(f"run.{key}"):
            end = text.end_token(tokenizer, run.tokenizer.end)
        with setup.reading("run.data"):
            return {
                split: packed(tokenizer, documents, getattr(names, split), data.length, end, limit)
                for split, limit in limits.items()
            }

    own = packed_by(tokenizer, "tokenizer")
    theirs = own
    columns = own["train"]
    if teacher_tokenizer is not tokenizer:
        theirs = packed_by(teacher_tokenizer, "teacher.tokenizer")
        columns = aligned(config, tokenizer, teacher_tokenizer, documents, names)

    def whole(columns):
        devices = placement.mesh.size
        size = -(-min(run.batch, len(columns["tokens"])) // devices) * devices
        return setup.place_batches(placement, streams.epoch_batches(columns, size))

    by_player = {"student": own, "teacher": theirs}
    digest = hashlib.sha256(text.text_fingerprint(documents).encode())
    for each in (tokenizer, teacher_tokenizer):
        digest.update(each.to_str().encode())
    shapes = {n: jax.ShapeDtypeStruct((1, data.length), jnp.int32) for n in ("tokens", "segments")}
    return Data(
        tokenizer=tokenizer,
        teacher_tokenizer=teacher_tokenizer,
        fingerprint=digest.hexdigest(),
        documents=names,
        rows=columns,
        inputs=dict.fromkeys(by_player, shapes),
        streams={
            "student": {"sequence": stream_of(columns, run.batch, "run.batch")},
            "teacher": {
                "sequence": stream_of(theirs["train"], run.teacher.batch, "run.teacher.batch")
            },
        },
        validation={player: whole(rows["validation"]) for player, rows in by_player.items()},
        test={player: whole(rows["test"]) for player, rows in by_player.items()},
    )


def stream_of(columns, batch, key) -> streams.Stream:
    """A stream of rows that are kept on the device."""
    with setup.reading(key):
        plan = plans.IndexPlan(np.arange(len(columns["tokens"])), batch)
    return streams.Stream(plan, columns)


def load_documents(name) -> dict[str, str]:
    """The standard library's sources, or the text files of a folder of the user's own."""
    return text.standard_library() if name == "standard_library" else text.read_text(name)


def build_tokenizer(config, documents, names: text.Splits):
    """The tokenizer of `config.file`, or one that is trained on the training documents."""
    if config.file:
        return text.load_tokenizer(config.file)
    return text.train_tokenizer((documents[name] for name in names.train), config.vocabulary)


def build_teacher_tokenizer(config, documents, names: text.Splits, tokenizer):
    """The student's, unless the teacher has one that encodes a probe text otherwise."""
    wanted, weights = config.run.teacher.tokenizer, config.run.teacher.weights
    file = wanted.file
    if not file and weights and (Path(weights) / "tokenizer.json").is_file():
        file = weights
    if not file and not wanted.vocabulary:
        return tokenizer
    with setup.reading("run.teacher.tokenizer"):
        other = text.load_tokenizer(file) if file else build_tokenizer(wanted, documents, names)
        return tokenizer if alignment.same_tokenizer(tokenizer, other) else other


def packed(tokenizer, documents, names, length, end, limit) -> dict[str, np.ndarray]:
    """The documents' rows, `limit` of them, spread over all (0 for every one)."""
    rows = text.pack([text.encode(tokenizer, documents[name]) for name in names], length, end=end)
    return limited(rows, limit)


def aligned(config, tokenizer, teacher_tokenizer, documents, names) -> dict[str, np.ndarray]:
    """The training rows of both tokenizers over the same stretches of text."""
    data, end = config.run.data, config.run.tokenizer.end
    with setup.reading("run.data"):
        rows = alignment.aligned_rows(
            [documents[name] for name in names.train],
            tokenizer,
            teacher_tokenizer,
            student_length=data.length,
            teacher_length=data.length,
            student_end=text.end_token(tokenizer, end),
            teacher_end=text.end_token(teacher_tokenizer, end),
        )
        return limited(rows, data.rows)


def limited(rows, limit):
    """`limit` of the rows, spread over all (0 for every one)."""
    found = len(rows["tokens"])
    if not 0 <= limit <= found:
        raise ValueError(f"there are {found} rows, got a limit of {limit}")
    kept = np.arange(limit) * found // limit if limit else slice(None)
    return {name: column[kept] for name, column in rows.items()}


# --- The network and its stage --------------------------------------------------------------------


def classes_of(config, data: Data, player) -> int:
    """How many classes the head of a player has: its tokens, or more where it is padded."""
    key, settings, vocabulary = f"run.{player}", config.run[player], data.vocabulary(player)
    if player == "teacher" and settings.weights:
        with setup.reading(f"{key}.weights"):
            found = pretrained.open_pretrained(settings.weights)
            if found.architecture.name != "decoder_transformer":
                raise ValueError(f"{settings.weights} is no decoder: {found.architecture.name}")
        key, classes = f"{key}.weights", found.architecture.options["vocabulary"]
        wanted = f"a decoder of at least the {vocabulary} tokens of its tokenizer"
    else:
        key, classes = f"{key}.classes", settings.classes or vocabulary
        wanted = f"0, or at least the {vocabulary} tokens of the tokenizer"
    setup.check_range(key, classes, lambda v: v >= vocabulary, wanted)
    return classes


def build_network(config, data: Data, player):
    """A player's network; with `run.chunk` it gives hidden states and its head, and no logits."""
    setup.check_range("run.chunk", config.run.chunk, lambda v: v >= 0, "0 (all) or above")
    key, settings = f"run.{player}", config.run[player]
    classes = classes_of(config, data, player)
    options = dict(settings.network)
    features: tuple[str, ...] = ()
    if config.run.chunk:
        if options.get("softcap") is not None:
            raise setup.ConfigError(
                f"config.run.chunk must be 0 where {key}.network.softcap bounds the logits, got "
                f"{config.run.chunk}"
            )
        options["logits"], features = False, ("hidden", "head")
    if player == "teacher" and settings.weights:
        given = {"logits": False} if features else {}
        opened = pretrained.open_pretrained(settings.weights, features=features, **given)
        if features and opened.architecture.options.get("softcap") is not None:
            raise setup.ConfigError(
                "config.run.chunk must be 0 for a teacher whose logits are soft-capped, got "
                f"{config.run.chunk}"
            )
        return opened.network
    return setup.build_network(
        f"{key}.network", ConfigDict(options), classes, data.inputs[player], features
    )


def build_stage(config, data: Data, network):
    """The teacher's stage; it is the player `student` of its own training."""
    settings = config.run.teacher
    setup.check_range("run.teacher.steps", settings.steps, lambda v: v > 0, "above 0")
    key, inputs = "run.teacher.optimiser", data.inputs["teacher"]
    optimiser = setup.build_optimiser(key, settings.optimiser, settings.steps)
    setup.check_no_decay(key, settings.optimiser, network, inputs)
    placement = setup.build_placement(config)
    rules = placement.sharding.get("teacher", ())
    placement = placement._replace(sharding={"student": rules} if rules else {})
    chunk = {"chunk": config.run.chunk} if config.run.chunk else {}
    return training.build_stage(
        "teacher", next_token(**chunk), {"student": network}, {"student": inputs},
        optimiser, data.streams["teacher"], settings.steps, 0, placement,
    )  # fmt: skip


# --- Measuring ------------------------------------------------------------------------------------


def measure(vocabulary: int, player: str, teacher: str | None):
    """`measure(scope)`: totals over tokens of a player, beside its teacher if it has one.

    `vocabulary` are the classes that are tokens.
    """

    def measured(scope):
        batch = scope.batch
        where, targets = batch["mask"], batch["targets"]

        def logits(name):
            outputs, _ = scope.apply(name, inputs_of(batch))
            return signals.logits_of(signal_of(outputs, vocabulary))

        own = logits(player)
        values = {
            "tokens": language.count(where),
            "nll": language.negative_log_likelihood(own, targets, where),
            "accuracy": language.correct(own, targets, where),
            "calibration": language.calibration_gaps(own, targets, where),
        }
        if teacher is not None:
            theirs = logits(teacher)
            values["divergence"] = language.teacher_divergence(own, theirs, where)
            values["agreement"] = language.agreement(own, theirs, where)
            values["acceptance"] = language.acceptance(own, theirs, where)
        return values

    return measured


def summary(totals) -> dict[str, np.ndarray]:
    """{metric: value, or one per seed}, means over tokens, from the totals of an evaluation."""
    found = {name: np.asarray(total) for name, (total, _) in fetch(totals).items()}
    tokens = found.pop("tokens")
    gaps = found.pop("calibration")
    values = {name: total / tokens for name, total in found.items()}
    values["log_likelihood"] = -values["nll"]
    values["perplexity"] = np.asarray(language.perplexity(found["nll"], tokens))
    error = classification.expected_calibration_error(gaps, tokens)
    return {**values, "calibration_error": np.asarray(error)}


@functools.cache
def with_logits(network, vocabulary=None):
    """The network with the logits that its hidden states and head stand for, cut to real tokens.

    Made once for each network, so that what is compiled for it is found again.
    """

    def apply(variables, inputs, **options):
        outputs, model = network.apply(variables, inputs, **options)
        logits = signals.logits_of(signal_of(outputs, vocabulary))
        return outputs._replace(logits=logits), model

    return network._replace(apply=apply)


# --- The job ---------------------------------------------------------------------------------------


def obtain_teacher(config, run, data: Data, stage, network):
    """(frozen arrays of the teacher, its fingerprint, its row).

    Public weights, those of another workdir, or trained here.
    """
    settings, trained = config.run.teacher, training.Trained(None, 0.0, {})
    if settings.weights:
        rules = run.placement.sharding.get("teacher", ())
        sharding = functools.partial(tree_sharding, run.placement.mesh, rules=rules)
        with setup.reading("run.teacher.weights"):
            variables = pretrained.load_pretrained(settings.weights, sharding=sharding)[1]
        frozen = {"teacher": variables["params"], "teacher/model": variables["model"]}
    else:
        trained = trained_teacher(config, run, data, stage)
        frozen = stage.finish(trained.state, {})
    measured = measure(data.vocabulary("teacher"), "teacher", None)
    nobody = settle(init_state(jax.random.key(0), {}, {}, {}), run.placement.mesh)
    evaluate = build_evaluation({"teacher": network}, measured)
    metrics = summary(evaluate(nobody, frozen, data.test["teacher"]))
    row = training.result_row(
        "teacher", [0], [(metrics, trained)], with_logits(network), data.inputs["teacher"]
    )
    return frozen, fingerprint(fetch(frozen)), row


def trained_teacher(config, run, data: Data, stage):
    """The teacher's finished state: from `run.teacher.workdir`, or trained here."""
    elsewhere = config.run.teacher.workdir
    if elsewhere:
        key = "run.teacher.workdir"
        return training.restore_row(Path(elsewhere), stage, {}, run.placement, key=key)
    if config.place.get("shared", ""):
        identity = {"teacher": config.run.teacher.to_dict(), "chunk": config.run.chunk}
        run = setup.shared_run(run, identity)
    measured = measure(data.vocabulary("teacher"), "student", None)
    evaluate = build_evaluation(stage.networks, measured)

    def validate(state):
        return summary(evaluate(state, {}, data.validation["teacher"]))

    return training.train_row(run, stage, {}, 0, {}, validate)


def main(config, workdir: Path) -> None:
    data = build_data(config)
    network = build_network(config, data, "teacher")
    stage = build_stage(config, data, network)
    run = setup.open_run(config, workdir, data.fingerprint)
    _, digest, row = obtain_teacher(config, run, data, stage, network)
    if not setup.is_first():
        return
    files.write_atomically(workdir / "tokenizer.json", data.teacher_tokenizer.to_str())
    write_results(workdir / "results.json", [row])
    perplexity = row["metrics"]["perplexity"][0]
    print(f"teacher {digest[:12]}: test perplexity {perplexity:.2f}, in {workdir}")


if __name__ == "__main__":
    setup.launch(main)
