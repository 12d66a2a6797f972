"""What studies of written answers share: a small decoder over characters, taught pairs, that writes.

Every list begins with the seeds: `pairs[s]` are the (prompt, answer) that seed s learns from, as many
as it has.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import methods, networks
from kdjax.data import answers, plans
from kdjax.generate import generate
from kdjax.losses import token_negative_log_likelihood
from kdjax.train import Pool

ROWS = 512  # that one program writes or reads at once, of every seed
PairsBySeed = Sequence[Sequence[answers.Pair]]


class Writer:
    """A decoder that reads prompts and writes answers, of the sizes that the recipe's options say."""

    def __init__(self, bench, alphabet: str, *, prompt: int, answer: int, **sizes):
        options = {"width": bench.options.width, "depth": bench.options.depth, **sizes}
        width = options["width"]
        self.bench = bench
        self.characters = answers.Characters(alphabet, prompt, answer)
        self.network = networks.decoder_transformer(
            self.characters.vocabulary,
            **{"heads": 2, "key_heads": 2, "hidden": 2 * width, "scan": False, **options},
        )

    def teach(
        self,
        name: str,
        pairs: PairsBySeed,
        *,
        steps: int,
        rate: float | None = None,
        weights: Sequence[Sequence[float]] | None = None,
        start=None,
        method=None,
        validation: PairsBySeed | None = None,
        right: Callable[[str, str, str], float] | None = None,
        memory: Mapping[str, Any] | None = None,
        silent: str = "",
        sampler: plans.Sampler = plans.uniform,
        **pools,
    ):
        """The parameters after `bench.fit` on the answers, with an axis of seeds.

        Args:
            name, steps, rate: as for `bench.fit`; the recipe's rate by default.
            pairs: what is taught, as the stream `sequence`, each with its weight (1 by default).
            start: parameters to go on from.
            method: `weighted_next_token` by default.
            validation, right: pairs that settings are chosen by, and `accuracy`'s `right`.
            memory: what the method remembers, by name and by seed.
            silent: characters that stand in answers and are not learned.
            sampler: how batches are drawn from the pairs.
            **pools: further streams, columns by seed as `columns` gives them.
        """
        rows = [self.characters.columns(own) for own in pairs]
        for s, own in enumerate(rows):
            given = np.ones(len(pairs[s])) if weights is None else np.asarray(weights[s])
            own["weight"] = given.astype(np.float32)
            own["mask"] &= ~np.isin(own["targets"], self.characters.tokens(silent))
        method = methods.weighted_next_token() if method is None else method
        options, streams, empty = self.bench.options, {}, {}
        held: dict[str, Any] = dict(memory or {})
        for key, given in {"sequence": rows, **pools}.items():
            held[key] = stacked(given)
            size = held[key]["columns"]["tokens"].shape[1]
            example = {k: x[0, 0] for k, x in held[key]["columns"].items()}
            empty[key] = Pool.empty(size, example)
            plan = plans.IndexPlan(np.arange(size), options.batch, sampler)
            streams[key] = Pool(plan, memory=key)

        def begin(state, seeds):
            def own(tree):
                return jax.tree.map(lambda x: jnp.asarray(x)[jnp.asarray(seeds)], tree)

            params = state.params if start is None else {"student": own(start)}
            return state.replace(params=params, memory={**state.memory, **own(held)})

        def score(state, seeds):
            asked = [validation[seed] for seed in seeds]
            return self.accuracy(state.params["student"], asked, right)

        length = self.characters.prompt + self.characters.answer - 1
        shape = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return self.bench.fit(
            name,
            method._replace(memory={**method.memory, **empty}),
            {"student": self.network},
            {"student": dict.fromkeys(("tokens", "segments", "positions"), shape)},
            streams,
            steps=steps,
            batch=options.batch,
            rate=options.rate if rate is None else rate,
            score=None if validation is None else score,
            start=begin,
        ).params["student"]

    def write(
        self,
        params,
        asked: Sequence[Sequence[Any]],
        *,
        samples=1,
        temperature=0.0,
        top_p=None,
        draw=0,
    ) -> list[list[list[str]]]:
        """`[S][N][samples]` answers to every seed's N prompts, or pairs; the most probable by default.

        `draw` numbers the drawing: another one gives other answers.
        """
        seeds, count = len(asked), len(asked[0])
        prompts = [[x if isinstance(x, str) else x[0] for x in own] for own in asked]
        given = [self.characters.prompts(np.repeat(own, samples).tolist()) for own in prompts]
        tokens, mask = (np.stack(each) for each in zip(*given, strict=True))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), jnp.arange(seeds))
        written = []
        for rows in _blocks(count * samples):
            found = _written(
                self.network, params, tokens[:, rows], mask[:, rows], keys, rows,
                temperature, top_p, length=self.characters.answer,
            )  # fmt: skip
            written.append(np.asarray(found))
        whole = np.concatenate(written, axis=1)[:, : count * samples]
        return [
            [own[i * samples : (i + 1) * samples] for i in range(count)]
            for own in (self.characters.texts(each) for each in whole)
        ]

    def accuracy(self, params, pairs: PairsBySeed, right=None) -> np.ndarray:
        """`[S]`: how many of the most probable answers are right, by `right(prompt, answer, text)`."""
        right = right or (lambda prompt, answer, text: text == answer)
        written = self.write(params, pairs)
        return np.array(
            [
                np.mean([right(*pair, *text) for pair, text in zip(own, texts, strict=True)])
                for own, texts in zip(pairs, written, strict=True)
            ]
        )

    def accuracies(self, found: Mapping[str, Any], pairs: PairsBySeed, right=None):
        """`{row: {"accuracy": [S]}}` of the parameters of rows."""
        return {
            name: {"accuracy": self.accuracy(each, pairs, right)} for name, each in found.items()
        }

    def log_likelihoods(self, params, pairs: PairsBySeed) -> list[np.ndarray]:
        """`[S][N]` log-likelihoods of whole answers."""
        held = stacked([self.characters.columns(own) for own in pairs])["columns"]
        size = held["tokens"].shape[1]
        found = [
            np.asarray(
                _log_likelihoods(self.network, params, {k: x[:, r] for k, x in held.items()})
            )
            for r in _blocks(size)
        ]
        whole = np.concatenate(found, axis=1)
        return [whole[s, : len(own)] for s, own in enumerate(pairs)]

    def candidates(self, params, pairs: Sequence[Sequence[Sequence[answers.Pair]]]):
        """Columns `[N, K, L]` by seed of N prompts with K answers each, best first, and `reference`.

        `params` are those of the reference.
        """
        flat = [[pair for several in own for pair in several] for own in pairs]
        likelihoods = self.log_likelihoods(params, flat)
        found = []
        for several, own, values in zip(pairs, flat, likelihoods, strict=True):
            shape = (len(several), len(several[0]))
            columns = {k: x.reshape(*shape, -1) for k, x in self.characters.columns(own).items()}
            found.append({**columns, "reference": values.reshape(shape)})
        return found


def likeness(prompt: str, answer: str, text: str) -> float:
    """A `right` for `Writer.accuracy`: F1 of the characters that a text has in the answer's order."""
    del prompt
    return answers.rouge_l(text, [answer])[0]


def each(function: Callable[..., Any], *by_seed: Iterable) -> list[Any]:
    """What a function makes of every seed's own."""
    return [function(*own) for own in zip(*by_seed, strict=True)]


def parts(bench, items: Sequence | Callable[[Any], Any], *sizes: int):
    """Every seed's generator, and by part what it has of the items: `rngs, first, second, ...`.

    The items are put in an order that the seed draws; a function draws each item by the generator. No
    part has an item of another one.
    """
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    if callable(items):
        there: list[set[str]] = [set() for _ in rngs]
        return rngs, *(
            each(lambda rng, t, n=n: unseen(rng, items, n, t), rngs, there) for n in sizes
        )
    ends = np.cumsum(sizes)
    if ends[-1] > len(items):
        raise ValueError(f"parts of {sizes} need {ends[-1]} items, there are {len(items)}")
    drawn = [np.split(rng.permutation(items)[: ends[-1]], ends[:-1]) for rng in rngs]
    return rngs, *([own[k].tolist() for own in drawn] for k in range(len(sizes)))


def unseen(rng, item: Callable[[Any], Any], size: int, there: set[str]) -> list:
    """So many items, drawn again where they are `there` already; they are then there too."""
    found: list = []
    while len(found) < size:
        drawn = item(rng)
        if str(drawn) not in there:
            there.add(str(drawn))
            found.append(drawn)
    return found


def or_else(found: Sequence[Sequence], otherwise: Sequence[Sequence]):
    """What every seed has found, or where that is nothing, what it has otherwise."""
    return each(lambda own, other: own or other, found, otherwise)


def stacked(rows: Sequence[Mapping[str, np.ndarray]]):
    """Columns by seed `[S][n, ...]` as what a `Pool` holds: `[S, most, ...]`, and how many are written."""
    sizes = np.array([len(own["tokens"]) for own in rows], np.int32)
    if not sizes.all():
        raise ValueError(f"every seed needs an example to learn from, got {sizes.tolist()}")
    most = np.arange(sizes.max())
    columns = {
        key: np.stack([own[key][most % size] for own, size in zip(rows, sizes, strict=True)])
        for key in rows[0]
    }
    return {"columns": columns, "written": sizes}


def _blocks(count):
    """Numbers of rows, by at most `ROWS`, all blocks of one size; the last is filled up with row 0."""
    size = min(count, ROWS)
    numbers = np.arange(-(-count // size) * size).reshape(-1, size)
    return np.where(numbers < count, numbers, 0)


@functools.partial(jax.jit, static_argnums=0, static_argnames="length")
def _written(network, params, prompts, mask, keys, index, temperature, top_p, *, length):
    def one(params, prompts, mask, key):
        variables = {"params": params, "frozen": {}, "model": {}}
        return generate(
            network, variables, prompts, length=length, key=key, mask=mask, index=index,
            temperature=temperature, top_p=top_p, stop_token=answers.END,
        ).tokens  # fmt: skip

    return jax.vmap(one)(params, prompts, mask, keys)


@functools.partial(jax.jit, static_argnums=0)
def _log_likelihoods(network, params, columns):
    def one(params, columns):
        inputs = {key: columns[key] for key in ("tokens", "segments", "positions")}
        variables = {"params": params, "frozen": {}, "model": {}}
        logits = network.apply(variables, inputs, train=False, rngs={})[0].logits
        where, targets = columns["mask"], columns["targets"]
        return -jnp.sum(token_negative_log_likelihood(logits, targets, where=where), axis=1)

    return jax.vmap(one)(params, columns)
