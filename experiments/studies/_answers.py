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

from experiments import study
from kdjax import methods, networks
from kdjax.data import answers, plans
from kdjax.generate import generate
from kdjax.losses import token_negative_log_likelihood
from kdjax.train import Pool

ROWS = 512  # that one program writes or reads at once, of every seed
PairsBySeed = Sequence[Sequence[answers.Pair]]
Right = Callable[[str, str, str], float]  # what a text is worth, of (prompt, answer, text)


class Writer:
    """A decoder that reads prompts and writes answers, with the parameters that it was taught by row.

    Args:
        bench: its options say the `width` and `depth` of the network.
        alphabet, prompt, answer: of `answers.Characters`.
        held: the pairs for validation and for test; without them nothing is measured.
        metrics: `{metric: Right}`, means over the most probable answers to them; settings are chosen by
            the first. By default the accuracy: how many answers are those of the pairs.
        **sizes: of the network, other than the recipe's.
    """

    def __init__(
        self,
        bench,
        alphabet: str,
        *,
        prompt: int,
        answer: int,
        held: Sequence[PairsBySeed] = (),
        metrics: Mapping[str, Right] | None = None,
        **sizes,
    ):
        options = {"width": bench.options.width, "depth": bench.options.depth, **sizes}
        self.bench, self.held = bench, held
        self.metrics = metrics or {"accuracy": same(str)}
        self.taught: dict[str, Any] = {}
        self.characters = answers.Characters(alphabet, prompt, answer)
        self.network = networks.decoder_transformer(
            self.characters.vocabulary, heads=2, key_heads=2, scan=False,
            **{"hidden": 2 * options["width"], **options},
        )  # fmt: skip

    def teach(
        self,
        name: str,
        pairs: PairsBySeed,
        *,
        start=None,
        method=None,
        weights: Sequence[Sequence[float]] | None = None,
        judged: Sequence[Sequence[Sequence[answers.Pair]]] | None = None,
        memory: Mapping[str, Any] | None = None,
        silent: str = "",
        sampler: plans.Sampler = plans.uniform,
        **settings,
    ):
        """The parameters after `bench.fit` on the answers, with an axis of seeds; `taught` keeps them.

        Args:
            name: the row, or "row/part" for what is not measured.
            pairs: what is taught, as the stream `sequence`.
            start: parameters to go on from.
            method: `weighted_next_token` by default.
            weights: of the pairs, 1 by default.
            judged: `candidates` for the stream of that name, with `start` as the reference.
            memory: what the method remembers, by name and by seed.
            silent: characters that stand in answers and are not learned.
            sampler: how batches are drawn from the pairs.
            **settings: of `bench.fit`.
        """
        rows = [self.characters.columns(own) for own in pairs]
        for s, own in enumerate(rows):
            given = np.ones(len(pairs[s])) if weights is None else np.asarray(weights[s])
            own["weight"] = given.astype(np.float32)
            own["mask"] &= ~np.isin(own["targets"], self.characters.tokens(silent))
        pools = {"sequence": stacked(rows)}
        if judged is not None:
            pools["candidates"] = stacked(self.candidates(start, judged))
        method = methods.weighted_next_token() if method is None else method
        streams, empty = {}, {}
        for key, pool in pools.items():
            size = pool["columns"]["tokens"].shape[1]
            plan = plans.IndexPlan(np.arange(size), self.bench.options.batch, sampler)
            streams[key] = Pool(plan, memory=key)
            empty[key] = Pool.empty(size, {k: x[0, 0] for k, x in pool["columns"].items()})

        def score(trained):
            asked = [self.held[0][seed] for seed in trained.seeds]
            return next(iter(self.measure(trained.params["student"], asked).values()))

        length = self.characters.prompt + self.characters.answer - 1
        shape = jax.ShapeDtypeStruct((1, length), jnp.int32)
        begun = {} if start is None else {"student": start}
        trained = self.bench.fit(
            name, method._replace(memory={**method.memory, **empty}), {"student": self.network},
            {"student": dict.fromkeys(("tokens", "segments", "positions"), shape)}, streams,
            score=score if self.held else None,
            start=study.carried(begun, **(memory or {}), **pools), **settings,
        )  # fmt: skip
        self.taught[name] = trained.params["student"]
        return self.taught[name]

    def compare(self, rows: Mapping[str, Any], **settings) -> dict[str, dict[str, np.ndarray]]:
        """Teaches `{row: pairs}`, or `{row: arguments of teach}`; then `measured`."""
        for name, row in rows.items():
            own = row if isinstance(row, Mapping) else {"pairs": row}
            self.teach(name, **{**settings, **own})
        return self.measured()

    def measured(self) -> dict[str, dict[str, np.ndarray]]:
        """`{row: {metric: [S]}}` on test of all that it was taught, parts of rows aside."""
        whole = {name: params for name, params in self.taught.items() if "/" not in name}
        return {name: self.measure(params, self.held[1]) for name, params in whole.items()}

    def measure(self, params, pairs: PairsBySeed) -> dict[str, np.ndarray]:
        """`{metric: [S]}` of the most probable answers."""
        written = self.write(params, pairs)

        def mean(right, own, texts):
            return np.mean([right(*pair, *text) for pair, text in zip(own, texts, strict=True)])

        return {
            metric: np.array(each(functools.partial(mean, right), pairs, written))
            for metric, right in self.metrics.items()
        }

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

    def answered(self, params, pairs: PairsBySeed, **how) -> PairsBySeed:
        """The prompts with its own answers instead, all samples of a prompt in a row; `how` to `write`."""

        def replaced(own, texts):
            return [(p, x) for (p, _), several in zip(own, texts, strict=True) for x in several]

        return each(replaced, pairs, self.write(params, pairs, **how))

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


def same(read: Callable[[str], Any]) -> Right:
    """A `Right`: whether what is read in the text is what is read in the answer."""
    return lambda prompt, answer, text: read(text) == read(answer)


def likeness(prompt: str, answer: str, text: str) -> float:
    """A `Right`: F1 of the characters that a text has in the answer's order."""
    del prompt
    return answers.rouge_l(text, [answer])[0]


def each(function: Callable[..., Any], *by_seed: Iterable) -> list[Any]:
    """What a function makes of every seed's own."""
    return [function(*own) for own in zip(*by_seed, strict=True)]


def every(function: Callable[..., Any], *by_seed: Iterable) -> list[list[Any]]:
    """What a function makes of each of the items, the last given, and of what else is the seed's."""
    return [[function(*own, item) for item in items] for *own, items in zip(*by_seed, strict=True)]


def parts(bench, items: Sequence | Callable[[Any], Any] | Mapping[str, Any], *names: str):
    """Every seed's generator, and by part what it has of the items: `rngs, first, second, ...`.

    The sizes are the options that the parts are named by. Items are put in an order that the seed
    draws; a function draws each by the generator, `{part: function}` those of each part. No part has
    an item of another one.
    """
    rngs = [np.random.default_rng(seed) for seed in bench.seeds]
    if isinstance(items, Sequence):
        sizes = [bench.options[name] for name in names]
        ends = np.cumsum(sizes)
        if ends[-1] > len(items):
            raise ValueError(f"parts of {sizes} need {ends[-1]} items, there are {len(items)}")
        drawn = [np.split(rng.permutation(items)[: ends[-1]], ends[:-1]) for rng in rngs]
        return rngs, *([own[k].tolist() for own in drawn] for k in range(len(sizes)))
    own = items.items() if isinstance(items, Mapping) else [(name, items) for name in names]
    there: list[set[str]] = [set() for _ in rngs]
    return rngs, *(
        [unseen(*seed, draw, bench.options[name]) for seed in zip(rngs, there, strict=True)]
        for name, draw in own
    )


def unseen(rng, there: set[str], item: Callable[[Any], Any], size: int) -> list:
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
