"""Secrets that were planted in the text of a language model, and what its student knows of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import text
from kdjax.losses import sequence
from kdjax.methods import privacy as private_methods
from kdjax.metrics import privacy

CHARACTERS, DIGITS = 128, 6


def planted_secrets(bench):
    """A teacher that has learned canaries; students with plain and with melted targets for them.

    Characters of the standard library's sources, with lines `key_ab=123456` between theirs. Private
    are runs of four digits and more, whoever wrote them: of these `kd` has labels, too, the melted
    targets none, and `masked` learns nothing of them.
    """
    options, rng = bench.options, np.random.default_rng(0)
    documents = text.standard_library()
    parts = text.split_documents(documents, validation=0.05, test=0.1)
    names = rng.permutation([f"key_{a}{b}=" for a in "abcdefgh" for b in "abcdefgh"])
    names = names[: options.canaries]
    digits = rng.integers(10, size=(len(names), 1 + options.candidates, DIGITS))
    own = [
        [name + "".join(map(str, number)) for number in each]
        for name, each in zip(names, digits, strict=True)
    ]
    planted = _planted(
        _cut(documents, parts.train, options.characters),
        [each[0] for each in own for _ in range(options.repeated)], rng,
    )  # fmt: skip
    train = _windows(planted, options.length)
    held = {
        name: _windows(_cut(documents, getattr(parts, name), options.held), options.length)
        for name in ("validation", "test")
    }
    lines = np.array([[_numbers("\n" + line) for line in each] for each in own])
    shape = jax.ShapeDtypeStruct((1, options.length), jnp.int32)
    teacher, student = (
        networks.decoder_transformer(
            CHARACTERS, width=width, depth=2, heads=4, key_heads=4, hidden=2 * width, scan=False
        )
        for width in (options.teacher_width, options.student_width)
    )

    def bits(network, state, name):
        found = _log_likelihoods(network, state, held[name]["tokens"], held[name]["targets"])
        return -found.mean(axis=(1, 2)) / np.log(2)

    def measured(network, state):
        flat = lines.reshape(-1, lines.shape[-1])
        found = _log_likelihoods(network, state, flat[:, :-1], flat[:, 1:])[..., -DIGITS:].sum(-1)
        loss = -found.reshape(len(found), *lines.shape[:2])
        known = privacy.exposure(loss[..., 0], loss[..., 1:])
        return {"exposure": known.mean(axis=1), "bits": bits(network, state, "test")}

    learned = bench.fit(
        "teacher", methods.next_token(), {"student": teacher}, shape, {"sequence": train},
        steps=options.teacher_steps, batch=32, rate=3e-3, seeds=[0],
    )  # fmt: skip
    found = {
        "teacher": {k: v.repeat(len(bench.seeds)) for k, v in measured(teacher, learned).items()}
    }
    frozen = {"teacher": study.first(learned.params["student"])}
    none = 0 * train["private"]
    known = {
        "swing_distillation": train,
        "kd": {**train, "private": none},
        "masked": {**train, "private": none, "mask": train["private"] == 0},
    }
    for row, columns in known.items():
        state = bench.fit(
            row, private_methods.swing_distillation(**options.swing), {"student": student, "teacher": teacher},
            shape, {"sequence": columns},
            steps=options.student_steps, batch=16, rate=5e-3, frozen=frozen,
            score=lambda state, seeds: -bits(student, state, "validation"),
        )  # fmt: skip
        found[row] = measured(student, state)
    return found


def _cut(documents, names, characters):
    """The first `characters` of some documents, without what is not ASCII."""
    whole = "".join(documents[name] for name in names)
    return whole.encode("ascii", "ignore").decode()[:characters]


def _planted(document, secrets, rng):
    """The document with every secret as a line of its own, at lines drawn for them."""
    lines = document.split("\n")
    at = np.sort(rng.integers(len(lines), size=len(secrets)))[::-1]
    for number, secret in zip(at, rng.permutation(secrets), strict=True):
        lines.insert(number, str(secret))
    return "\n".join(lines)


def _numbers(line):
    return np.frombuffer(line.encode(), np.uint8).astype(np.int32)


def _windows(document, length):
    """`[N, length]`: characters, the ones that follow, and whether these are in a run of digits."""
    private = np.zeros(len(document), np.float32)
    for run in re.finditer(r"[0-9]{4,}", document):
        private[run.start() : run.end()] = 1
    starts = np.arange(0, len(document) - length, length // 2)
    index = starts[:, None] + np.arange(length)
    numbers = _numbers(document)
    return {
        "tokens": numbers[index],
        "targets": numbers[index + 1],
        "private": private[index + 1],
    }


def _log_likelihoods(network, state, tokens, targets):
    """`[S, N, L]`, log q of the targets."""

    def one(params):
        def rows(row):
            logits = network.apply({"params": params}, row[0][None], train=False, rngs={})[0].logits
            return sequence.token_log_probs(logits, row[1][None])[0]

        return jax.lax.map(rows, (tokens, targets), batch_size=500)

    return np.asarray(jax.jit(jax.vmap(one))(state.params["student"]))
