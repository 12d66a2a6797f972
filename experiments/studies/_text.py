"""What studies of language models share: text by domain, small decoders, their losses on text."""

import functools
import sysconfig
from collections.abc import Mapping
from pathlib import Path
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


def masked_model(
    bench, model, texts, fresh, rng, *, mask: int, batch: int, rate: float, padded=False
):
    """(the parameters of a masked language model, its row), trained once for all seeds.

    Args:
        model: over `tokens`, of which `mask` stands for a hidden one.
        texts, fresh: `[N, L]` to learn from, and to measure the loss on; where `padded`, 0 is no token.
        rng: hides `options.masked` of the tokens.
    """
    options = bench.options

    def columns(tokens):
        hidden = rng.random(tokens.shape) < options.masked
        hidden = hidden & (tokens > 0) if padded else hidden
        return {"tokens": np.where(hidden, mask, tokens), "targets": tokens, "mask": hidden}

    inputs = {"tokens": jax.ShapeDtypeStruct((1, texts.shape[1]), np.int32)}
    state = bench.fit(
        "model", methods.next_token(), {"student": model}, inputs, {"sequence": columns(texts)},
        steps=options.model_steps, batch=batch, rate=rate, seeds=[0],
    )  # fmt: skip
    params = study.first(state.params["student"])
    return params, {"model": {"loss": losses_of_one(bench, model, params, {"": columns(fresh)})[0]}}


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


def read_corpus(options) -> Corpus:
    """The packages of the standard library in `options.domains` ("" for its top-level modules).

    Documents are split before the tokenizer is trained, on the training ones; `options.evaluated` rows
    of each domain are kept for validation and test, `options.length` tokens long.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    documents = {name: text.standard_library(folder / name) for name in options.domains}
    names = {
        domain: text.split_documents(own, validation=0.15, test=0.2)
        for domain, own in documents.items()
    }
    tokenizer = text.train_tokenizer(
        (documents[domain][name] for domain in documents for name in names[domain].train),
        options.vocabulary,
    )
    end = text.end_token(tokenizer)

    def rows(split, domain, limit):
        own = [
            text.encode(tokenizer, documents[domain][name])
            for name in getattr(names[domain], split)
        ]
        packed = text.pack(own, options.length, end=end)
        size = len(packed["tokens"])
        kept = np.arange(limit or size) * size // (limit or size)
        return {name: column[kept] for name, column in packed.items()}

    limits = {"train": 0, "validation": options.evaluated, "test": options.evaluated}
    return Corpus(
        {
            split: {domain: rows(split, domain, limit) for domain in documents}
            for split, limit in limits.items()
        },
        tokenizer,
    )


def decoder(vocabulary: int, *, width: int, depth: int, **options) -> networks.Network:
    """A small decoder with heads of 16 units."""
    heads = width // 16
    sizes = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "key_heads": heads,
        "hidden": 3 * width,
    }
    kinds = {"tied": True, "scan": False, "query_key_norm": True}
    return networks.decoder_transformer(vocabulary, **sizes, **kinds, **options)


def teach(bench, corpus: Corpus, name="teacher"):
    """(the teacher's network, its parameters): one for all seeds, trained on all domains alike."""
    options = bench.options
    network = decoder(corpus.vocabulary, width=options.teacher_width, depth=options.teacher_depth)
    state = bench.fit(
        name, methods.next_token(), {"student": network}, corpus.inputs(options.length),
        {"sequence": corpus.mixed()},
        steps=options.teacher_steps, batch=32, rate=options.teacher_rate, seeds=[0],
    )  # fmt: skip
    return network, study.first(state.params["student"])


def token_losses(network, params, rows: Rows) -> np.ndarray:
    """The mean of -log q over the tokens of the rows, in nats. `[S]`."""
    inputs = {name: rows[name] for name in INPUTS if name in rows}
    return np.asarray(_token_losses(network)(params, inputs, rows["targets"], rows["mask"]))


@functools.cache
def _token_losses(network):
    """Made once for each network, so that its program is found again."""

    def one(params, inputs, targets, mask):
        variables = {"params": params, "frozen": {}, "model": {}}
        logits = network.apply(variables, inputs, train=False, rngs={})[0].logits
        return jnp.sum(language.negative_log_likelihood(logits, targets, mask)) / jnp.sum(mask)

    def of_seeds(params, *rows):
        return jax.lax.map(lambda params: one(params, *rows), params)

    return jax.jit(of_seeds)


def domain_losses(network, params, by_domain: Mapping[str, Rows]) -> np.ndarray:
    """`[domains, S]`, the `token_losses` of each domain."""
    return np.stack([token_losses(network, params, rows) for rows in by_domain.values()])


def validated(network, by_domain: Mapping[str, Rows]):
    """A score for `bench.fit`: minus the mean over domains of the loss."""

    def score(state, seeds):
        del seeds
        return -domain_losses(network, state.params["student"], by_domain).mean(axis=0)

    return score


def losses_of_one(bench, network, params, by_domain: Mapping[str, Rows]) -> np.ndarray:
    """`[domains, S]`, those of one model that all seeds share."""
    found = domain_losses(network, jax.tree.map(lambda x: x[None], params), by_domain)
    return np.repeat(found, len(bench.seeds), axis=1)
