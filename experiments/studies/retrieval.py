"""Finding a function of the standard library by the first line of its documentation.

A document is a function's name with its parameters; both sides are bags of hashed character trigrams.
All documents of a split are candidates, and MRR@10 on validation chooses the settings.
"""

import ast
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import text
from kdjax.metrics import retrieval as metrics


class _Pairs(NamedTuple):
    """Bags `[N, V]` of queries and of their own documents, and the numbers of three splits of them."""

    query: np.ndarray
    document: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def part(self, numbers):
        return {"query": self.query[numbers], "document": self.document[numbers]}

    @property
    def shape(self):
        return jax.ShapeDtypeStruct((1, self.query.shape[1]), jnp.float32)


def cross_to_bi_retrieval(bench):
    """An encoder of either side, taught by the scores that a joint scorer gives the pairs of a batch."""
    options, pairs = bench.options, _pairs(bench.options)
    teacher, fit = _joint_teacher(bench, pairs, "teacher", options.teacher, binary=True)
    encoder = _encoder(options.student)
    frozen = {"scores": {"teacher": _table(*teacher, pairs.part(pairs.train))}}
    rows = {
        "distilled": methods.cross_to_bi_encoder(),
        "alone": methods.cross_to_bi_encoder(share=1.0),
        "kd": methods.retrieval_kd(),
    }
    found = {"teacher": fit}
    for name, method in rows.items():
        found[name] = _encoder_row(bench, pairs, name, method, {"student": encoder}, frozen)
    return found


def layered_retrieval(bench):
    """A narrow encoder of two layers, taught by a wide one of three by scores of their layers."""
    options, pairs = bench.options, _pairs(bench.options)
    deep, shallow = (
        [f"hidden{i + 1}" for i in range(len(o.widths))] for o in (options.teacher, options.student)
    )
    wide, narrow = _encoder(options.teacher, deep), _encoder(options.student, shallow)
    state = bench.fit(
        "teacher", methods.retrieval(), {"student": wide}, pairs.shape, {"pairs": pairs.part(pairs.train)},
        steps=options.teacher_steps, batch=options.batch, rate=options.rate, seeds=[0],
    )  # fmt: skip
    found = {
        "teacher": _repeated(bench, _measured(_encoder_scores(wide, state, pairs, pairs.test)))
    }
    frozen = {"teacher": study.first(state.params["student"])}
    layers = {"student_layers": tuple(shallow), "teacher_layers": tuple(deep)}
    rows = {
        "alone": methods.retrieval(),
        "kd": methods.lead(**layers, layer_weight=0.0),
        "hint": methods.retrieval_hint(student_feature=shallow[-1], teacher_feature=deep[-1]),
        "lead": methods.lead(**layers),
    }
    for name, method in rows.items():
        nets = {"student": narrow, "teacher": wide}
        found[name] = _encoder_row(bench, pairs, name, method, nets, frozen)
    return found


def progressive_retrieval(bench):
    """Teachers one after the other, negatives mined anew for each, and a last step on chosen queries.

    Every row goes on from one encoder that learned from labels, in as many steps: under the largest
    teacher from the start, under three in turn, with what it knew kept, and with the queries of the
    last step chosen or drawn; the last two share the other steps with `kept`, whose cost they are.
    """
    options, pairs = bench.options, _pairs(bench.options)
    train, encoder = pairs.part(pairs.train), _encoder(options.student)
    wide = _encoder(options.dual)
    labels, of = methods.retrieval(), {"pairs": train}
    sizes = {"batch": options.batch, "rate": options.rate}
    state = bench.fit(
        "teacher/dual", labels, {"student": wide}, pairs.shape, of,
        steps=options.teacher_steps, seeds=[0], **sizes,
    )  # fmt: skip
    tables = {"dual": _encoder_scores(wide, state, pairs, pairs.train)[0]}
    found = {}
    for name in ("small", "large"):
        scorer, found["teacher"] = _joint_teacher(bench, pairs, "teacher", options[name], part=name)
        tables[name] = _table(*scorer, train)
    warm = bench.fit(
        "alone", labels, {"student": encoder}, pairs.shape, of, steps=options.warm_steps, **sizes
    )
    found["alone"] = _measured(_encoder_scores(encoder, warm, pairs, pairs.test))
    right = _ranks(encoder, warm, pairs, pairs.test) == 0
    parts = {
        "direct": [("large", 0.0)] * 4,
        "chain": [("dual", 0.0), ("small", 0.0), ("large", 0.0), ("large", 0.0)],
        "kept": [("dual", 0.0), ("small", 1.0), ("large", 1.0), ("large", 1.0)],
    }
    ends = {"direct": "all", "chain": "all", "kept": "all", "prod": "hard", "random": "drawn"}
    before = {}
    for row, end in ends.items():
        params, plan = warm.params["student"], parts.get(row, parts["kept"])
        if row in ("prod", "random"):  # the first three parts are those of `kept`
            params, plan = before["kept"], plan[3:]
        for number, (teacher, keep) in enumerate(plan, 4 - len(plan)):
            if number == 3:
                before[row] = params
            state = _part(
                bench, pairs, encoder, f"{row}/{number}", params, tables[teacher],
                rate=options.rate * (0.2 if number == 3 else 1.0), keep=keep,
                end=end if number == 3 else "all",
            )  # fmt: skip
            params = state.params["student"]
        found[row] = _measured(_encoder_scores(encoder, state, pairs, pairs.test))
        ranks = _ranks(encoder, state, pairs, pairs.test)
        found[row]["lost"] = np.sum(right & (ranks > 0), axis=1) / right.sum(axis=1)
    return found


def _part(bench, pairs, encoder, name, params, taught, *, rate, keep, end):
    """The state of a row after a part of its training, which starts from `params` by seed.

    With `end` "all" every query is taught, on some of its mined negatives; otherwise the queries that
    `_chosen` gives, on the hardest ones in their order.
    """
    options, train = bench.options, pairs.part(pairs.train)
    scores, whole = _train_scores(encoder, params, train), end == "all"
    count = options.mined if whole else options.listed
    method = methods.prod(candidates=count, drawn=options.listed if whole else 0, keep_weight=keep)
    examples = None if whole else _chosen(scores, taught, end)
    return bench.fit(
        name, method, {"student": encoder}, pairs.shape,
        {"pairs": study.stream(train, options.batch, examples)},
        steps=options.part_steps, batch=options.batch, rate=rate,
        frozen={"scores": {"teacher": taught}, "documents": {"bags": train["document"]}},
        start=study.carried(
            {"student": params}, candidates=_mined(scores, count), initial=params
        ),
    )  # fmt: skip


def _pairs(options):
    """The documented functions of the standard library, each first line and each signature once."""
    found = {}
    for source in text.standard_library().values():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            line = (ast.get_docstring(node) or "").strip().partition("\n")[0]
            names = [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
            signature = f"{node.name}({', '.join(names)})"
            if len(line) > 10 and line not in found.values():
                found.setdefault(signature, line)
    order = np.random.default_rng(0).permutation(len(found))
    first, second = (round(share * len(found)) for share in (0.65, 0.75))
    return _Pairs(
        _bags(found.values(), options.buckets),
        _bags(found.keys(), options.buckets),
        *(np.sort(numbers) for numbers in np.split(order, [first, second])),
    )


def _bags(lines, buckets):
    """`[N, buckets]`: how often each trigram comes, by its hash, on a log scale, of length √buckets."""
    counts = np.zeros((len(lines), buckets), np.float32)
    for row, line in zip(counts, lines, strict=True):
        line = f" {line.lower()} "
        for start in range(len(line) - 2):
            row[zlib.crc32(line[start : start + 3].encode()) % buckets] += 1
    bags = np.log1p(counts)
    return bags * np.sqrt(buckets) / np.linalg.norm(bags, axis=1, keepdims=True)


def _encoder(options, features=()):
    return networks.multilayer_perceptron(
        options.embedding, widths=tuple(options.widths), features=tuple(features)
    )


def _joint_teacher(bench, pairs, row, options, *, part="", binary=False):
    """((network, parameters), what is measured of it) of a scorer of pairs that learned from labels."""
    scorer = networks.pair_scorer(width=options.width, hidden=options.hidden)
    shapes = {side: pairs.shape for side in ("query", "document")}
    state = bench.fit(
        f"{row}/{part}" if part else row, methods.retrieval(joint=True, binary=binary),
        {"student": scorer}, {"student": shapes}, {"pairs": pairs.part(pairs.train)},
        steps=bench.options.teacher_steps, batch=bench.options.batch, rate=bench.options.rate,
        seeds=[0],
    )  # fmt: skip
    params = study.first(state.params["student"])
    scores = _table(scorer, params, pairs.part(pairs.test))
    return (scorer, params), _repeated(bench, _measured(scores[None]))


def _encoder_row(bench, pairs, name, method, nets, frozen):
    options = bench.options

    def score(state, seeds):
        del seeds
        scores = _encoder_scores(nets["student"], state, pairs, pairs.validation)
        return metrics.reciprocal_rank(metrics.own_ranks(scores)).mean(-1)

    state = bench.fit(
        name, method, nets, pairs.shape, {"pairs": pairs.part(pairs.train)},
        steps=options.steps, batch=options.batch, rate=options.rate, frozen=frozen, score=score,
    )  # fmt: skip
    return _measured(_encoder_scores(nets["student"], state, pairs, pairs.test))


def _table(network, params, pairs):
    """Scores `[N, N]` of a joint scorer, queries by documents."""
    variables = {"params": params, "frozen": {}, "model": {}}

    def of_one(query):
        inputs = {"query": query[None], "document": pairs["document"]}
        return network.apply(variables, inputs, train=False, rngs={})[0].logits[0]

    return np.asarray(jax.jit(lambda queries: jax.lax.map(of_one, queries))(pairs["query"]))


def _train_scores(encoder, params, part):
    """Scores `[S, N, N]` of the encoders of S seeds."""
    q, d = (
        np.asarray(study.predict(encoder, params, part[s]).logits) for s in ("query", "document")
    )
    return q @ d.swapaxes(1, 2)


def _encoder_scores(encoder, state, pairs, numbers):
    return _train_scores(encoder, state.params["student"], pairs.part(numbers))


def _ranks(encoder, state, pairs, numbers):
    return metrics.own_ranks(_encoder_scores(encoder, state, pairs, numbers))


def _measured(scores):
    ranks = metrics.own_ranks(scores)
    return {
        "reciprocal_rank": metrics.reciprocal_rank(ranks).mean(-1),
        "recall": metrics.recall_among(ranks, ranks.shape[-1]).mean(-1),
    }


def _repeated(bench, found):
    return {key: np.repeat(values, len(bench.seeds)) for key, values in found.items()}


def _mined(scores, count):
    """`[S, N, count]`: the documents that the encoder puts first, best first, without the own one."""
    others = np.where(np.eye(scores.shape[-1], dtype=bool), -np.inf, scores)
    return np.argsort(-others, axis=-1)[..., :count].astype(np.int32)


def _chosen(scores, taught, end):
    """`chosen(seed)`: queries that the teacher gets right and the student nearly, or as many drawn ones.

    Nearly right is a rank from 2 to 15. A seed with fewer than 8 such queries takes the 8 nearest.
    """
    ranks, known = metrics.own_ranks(scores), metrics.own_ranks(taught) == 0

    def chosen(seed):
        order = np.argsort(np.where(known & (ranks[seed] >= 1), ranks[seed], np.inf), kind="stable")
        count = max(8, np.sum(known & (ranks[seed] >= 1) & (ranks[seed] < 15)))
        if end == "drawn":
            order = np.random.default_rng(seed).permutation(len(order))
        return np.sort(order[:count])

    return chosen
