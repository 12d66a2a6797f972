"""Secrets that were planted in the text of a language model, and what its student knows of them."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import methods, networks
from kdjax.data import canaries, text
from kdjax.losses import sequence
from kdjax.metrics import privacy

CHARACTERS, DIGITS = 128, 6


def planted_secrets(bench):
    """A teacher that has learned canaries; students with plain and with melted targets for them.

    Characters of the standard library's sources, with lines `key_ab=123456` between theirs. Private
    are runs of four digits and more, whoever wrote them: of these `kd` has labels, too, the melted
    targets none, and `masked` learns nothing of them.
    """
    options, rng = bench.options, np.random.default_rng(0)
    names = rng.permutation([f"key_{a}{b}=" for a in "abcdefgh" for b in "abcdefgh"])
    names = names[: options.canaries]
    digits = rng.integers(10, size=(len(names), 1 + options.candidates, DIGITS))
    # The first of each is planted, the others are what it might have been.
    secrets = [
        [name + "".join(map(str, number)) for number in each]
        for name, each in zip(names, digits, strict=True)
    ]
    shown = np.repeat([each[0] for each in secrets], options.repeated)
    sizes = {"train": options.characters, "validation": options.held, "test": options.held}
    sources = _sources(sizes)
    sources["train"] = canaries.planted(sources["train"], shown, rng)
    rows = {part: _windows(source, options.length) for part, source in sources.items()}
    lines = np.array([[_codes("\n" + line) for line in each] for each in secrets])
    shape = jax.ShapeDtypeStruct((1, options.length), jnp.int32)
    teacher, student = (
        networks.decoder_transformer(
            CHARACTERS, width=width, depth=2, heads=4, key_heads=4, hidden=2 * width, scan=False
        )
        for width in (options.teacher_width, options.student_width)
    )

    def bits(trained, part):
        found = _log_likelihoods(trained, rows[part]["tokens"], rows[part]["targets"])
        return -found.mean(axis=(1, 2)) / np.log(2)

    def measured(trained, part):
        flat = lines.reshape(-1, lines.shape[-1])
        loss = -_log_likelihoods(trained, flat[:, :-1], flat[:, 1:])[..., -DIGITS:].sum(-1)
        loss = loss.reshape(len(loss), *lines.shape[:2])
        known = privacy.exposure(loss[..., 0], loss[..., 1:]).mean(axis=1)
        return {"exposure": known, "bits": bits(trained, part)}

    learned = bench.fit(
        "teacher", methods.next_token(), {"student": teacher}, shape, {"sequence": rows["train"]},
        batch=32, rate=3e-3, seeds=[0],
    )  # fmt: skip
    private = rows["train"]["private"]
    plain = {**rows["train"], "private": 0 * private}
    columns = {
        "swing_distillation": rows["train"],
        "kd": plain,
        "masked": {**plain, "mask": private == 0},
    }
    method = methods.swing_distillation(**options.swing)
    found = bench.compare(
        {name: {"method": method, "data": {"sequence": own}} for name, own in columns.items()},
        {"student": student, "teacher": teacher}, shape, {}, frozen={"teacher": learned.frozen},
        steps=options.student_steps, batch=16, rate=5e-3,
        measure=measured, score=lambda trained: -bits(trained, "validation"),
    )  # fmt: skip
    return {"teacher": measured(learned, "test"), **found}


def _sources(sizes):
    """`{split: text}`: so many characters of the standard library's sources that are ASCII."""
    documents = text.standard_library()
    parts = text.split_documents(documents, validation=0.05, test=0.1)
    found = {}
    for part, size in sizes.items():
        whole = "".join(documents[name] for name in getattr(parts, part))
        found[part] = whole.encode("ascii", "ignore").decode()[:size]
    return found


def _codes(line):
    return np.frombuffer(line.encode(), np.uint8).astype(np.int32)


def _windows(document, length):
    """`[N, length]`: characters, the ones that follow, and whether these are in a run of digits."""
    starts = np.arange(0, len(document) - length, length // 2)
    index = starts[:, None] + np.arange(length)
    codes, private = _codes(document), canaries.digit_runs(document)
    return {"tokens": codes[index], "targets": codes[index + 1], "private": private[index + 1]}


def _log_likelihoods(trained, tokens, targets):
    """`[S, N, L]`, log q of the targets."""
    network = trained.nets["student"]

    def one(params):
        def rows(row):
            logits = network.apply({"params": params}, row[0][None], train=False, rngs={})[0].logits
            return sequence.token_log_probs(logits, row[1][None])[0]

        return jax.lax.map(rows, (tokens, targets), batch_size=500)

    return np.asarray(jax.jit(jax.vmap(one))(trained.params["student"]))
