"""What studies of language models share: text by domain, small decoders, their losses on text."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import text
from kdjax.methods.sequence import INPUTS
from kdjax.metrics import language

Rows = Mapping[str, np.ndarray]


def masked_model(bench, model, texts, fresh, rng, *, mask: int, batch: int, padded=False):
    """(a masked language model, trained once for all seeds; its row).

    Args:
        model: over `tokens`, of which `mask` stands for a hidden one.
        texts, fresh: `[N, L]` to learn from, and to measure the loss on; where `padded`, 0 is no token.
        rng: hides `options.masked` of the tokens.
    """

    def columns(tokens):
        hidden = rng.random(tokens.shape) < bench.options.masked
        hidden = hidden & (tokens > 0) if padded else hidden
        return {"tokens": np.where(hidden, mask, tokens), "targets": tokens, "mask": hidden}

    inputs = {"tokens": jax.ShapeDtypeStruct((1, texts.shape[1]), np.int32)}
    trained = bench.fit(
        "model", methods.next_token(), {"student": model}, inputs, {"sequence": columns(texts)},
        batch=batch, seeds=[0],
    )  # fmt: skip
    return trained, {"model": {"loss": losses(model, trained.params["student"], columns(fresh))}}


class Corpus(NamedTuple):
    """Packed rows of text by split and domain, `{split: {domain: {column: [N, L]}}}`, and its tokenizer."""

    rows: Mapping[str, Mapping[str, Rows]]
    tokenizer: Any

    @property
    def vocabulary(self) -> int:
        return self.tokenizer.get_vocab_size()

    def inputs(self, length: int):
        """What networks are initialised with."""
        shape = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return {"tokens": shape, "segments": shape}

    def mixed(self, split: str = "train") -> dict[str, np.ndarray]:
        """As many rows of every domain, one domain after the other."""
        parts = list(self.rows[split].values())
        size = min(len(part["tokens"]) for part in parts)
        return {name: np.concatenate([part[name][:size] for part in parts]) for name in parts[0]}

    def losses(self, network, params, split: str = "test") -> np.ndarray:
        """`[domains, S]`, the `losses` of each domain."""
        by_domain = self.rows[split].values()
        return np.stack([losses(network, params, rows) for rows in by_domain])


def read_corpus(options) -> Corpus:
    """The packages of the standard library in `options.domains` ("" for its top-level modules).

    Documents are split before the tokenizer is trained, on the training ones; `options.evaluated` rows
    of each domain are kept for validation and test, `options.length` tokens long.
    """
    documents = {name: text.standard_library(name) for name in options.domains}
    names = {
        domain: text.split_documents(own, validation=0.15, test=0.2)
        for domain, own in documents.items()
    }
    tokenizer = text.train_tokenizer(
        (documents[domain][name] for domain in documents for name in names[domain].train),
        options.vocabulary,
    )

    def rows(split, domain, limit):
        sources = [documents[domain][name] for name in getattr(names[domain], split)]
        own = [text.encode(tokenizer, source) for source in sources]
        packed = text.pack(own, options.length, end=text.end_token(tokenizer))
        size = len(packed["tokens"])
        kept = np.arange(limit or size) * size // (limit or size)
        return {name: column[kept] for name, column in packed.items()}

    limits = {"train": 0, "validation": options.evaluated, "test": options.evaluated}
    by_split = {
        split: {domain: rows(split, domain, limit) for domain in documents}
        for split, limit in limits.items()
    }
    return Corpus(by_split, tokenizer)


def decoder(vocabulary: int, *, width: int, depth: int, **options) -> networks.Network:
    """A small decoder with heads of 16 units."""
    heads = width // 16
    return networks.decoder_transformer(
        vocabulary, width=width, depth=depth, heads=heads, key_heads=heads, hidden=3 * width,
        tied=True, scan=False, query_key_norm=True, **options,
    )  # fmt: skip


def teach(bench, corpus: Corpus) -> study.Trained:
    """The teacher: one for all seeds, trained on all domains alike."""
    options = bench.options
    network = decoder(corpus.vocabulary, width=options.teacher_width, depth=options.teacher_depth)
    return bench.fit(
        "teacher", methods.next_token(), {"student": network}, corpus.inputs(options.length),
        {"sequence": corpus.mixed()}, batch=32, seeds=[0],
    )  # fmt: skip


def losses(network, params, rows: Rows) -> np.ndarray:
    """The mean of -log q over the tokens of the rows, in nats. `[S]`."""
    return np.asarray(_token_losses(network)(params, rows))


@functools.cache
def _token_losses(network):
    """Made once for each network, so that its program is found again."""

    def one(params, rows):
        variables = {"params": params, "frozen": {}, "model": {}}
        inputs = {name: rows[name] for name in INPUTS if name in rows}
        logits = network.apply(variables, inputs, train=False, rngs={})[0].logits
        totals = language.negative_log_likelihood(logits, rows["targets"], rows["mask"])
        return jnp.sum(totals) / jnp.sum(rows["mask"])

    return jax.jit(lambda params, rows: jax.lax.map(lambda own: one(own, rows), params))
