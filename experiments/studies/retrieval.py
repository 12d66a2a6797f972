"""Finding a function of the standard library by the first line of its documentation.

A document is a function's name with its parameters; both sides are bags of hashed character trigrams.
All documents of a split are candidates, and MRR@10 on validation chooses the settings.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import code, text
from kdjax.metrics import retrieval as metrics

SIDES = ("query", "document")


def cross_to_bi_retrieval(bench):
    """An encoder of either side, taught by the scores that a joint scorer gives the pairs of a batch."""
    options, pairs = bench.options, _pairs(bench.options)
    teacher = _joint_teacher(bench, pairs, "teacher", options.teacher, binary=True)
    rows = {
        "distilled": methods.cross_to_bi_encoder(),
        "alone": methods.cross_to_bi_encoder(share=1.0),
        "kd": methods.retrieval_kd(),
    }
    nets, frozen = {"student": _encoder(options.student)}, {"teacher": teacher(pairs["train"])}
    found = _compared(bench, pairs, rows, nets, {"scores": frozen})
    return {"teacher": _measured(teacher(pairs["test"])[None]), **found}


def layered_retrieval(bench):
    """A narrow encoder of two layers, taught by a wide one of three by scores of their layers."""
    options, pairs = bench.options, _pairs(bench.options)
    wide, narrow = _encoder(options.teacher), _encoder(options.student)
    teacher = bench.fit(
        "teacher", methods.retrieval(), {"student": wide}, _shape(options),
        {"pairs": pairs["train"]}, seeds=[0],
    )  # fmt: skip
    deep, shallow = _layers(options.teacher), _layers(options.student)
    layers = {"student_layers": shallow, "teacher_layers": deep}
    rows = {
        "alone": methods.retrieval(),
        "kd": methods.lead(**layers, layer_weight=0.0),
        "hint": methods.retrieval_hint(student_feature=shallow[-1], teacher_feature=deep[-1]),
        "lead": methods.lead(**layers),
    }
    nets, frozen = {"student": narrow, "teacher": wide}, {"teacher": teacher.frozen}
    found = _compared(bench, pairs, rows, nets, frozen)
    return {"teacher": _measured(_scores(teacher, pairs["test"])), **found}


def progressive_retrieval(bench):
    """Teachers one after the other, negatives mined anew for each, and a last step on chosen queries.

    Every row goes on from one encoder that learned from labels, in as many steps: under the largest
    teacher from the start, under three in turn, with what it knew kept, and with the queries of the
    last step chosen or drawn; the last two share the other steps with `kept`, whose cost they are.
    """
    options, pairs = bench.options, _pairs(bench.options)
    train, test, shape = pairs["train"], pairs["test"], _shape(options)
    labels, student = methods.retrieval(), {"student": _encoder(options.student)}
    dual = bench.fit(
        "teacher/dual", labels, {"student": _encoder(options.dual)}, shape, {"pairs": train},
        steps=options.teacher_steps, seeds=[0],
    )  # fmt: skip
    small, large = (
        _joint_teacher(bench, pairs, f"teacher/{name}", options[name])
        for name in ("small", "large")
    )
    scores = {"dual": _scores(dual, train)[0], "small": small(train), "large": large(train)}
    warm = bench.fit("alone", labels, student, shape, {"pairs": train}, steps=options.warm_steps)
    right = metrics.own_ranks(_scores(warm, test)) == 0

    def part(row, number, before, teacher, keep, end="all"):
        """Of all queries, on some of their mined documents; or of chosen ones, on the first in order."""
        own, taught, params = _scores(before, train), scores[teacher], before.params["student"]
        whole = end == "all"
        count, drawn = (options.mined, options.listed) if whole else (options.listed, 0)
        examples = None if whole else _chosen(own, taught, end)
        return bench.fit(
            f"{row}/{number}", methods.prod(candidates=count, drawn=drawn, keep_weight=keep),
            student, shape, {"pairs": study.stream(train, options.batch, examples)},
            steps=options.part_steps, rate=options.rate * (0.2 if number == 3 else 1.0),
            frozen={"scores": {"teacher": taught}, "documents": {"bags": train["document"]}},
            start=study.carried({"student": params}, candidates=_mined(own, count), initial=params),
        )  # fmt: skip

    in_turn = ("dual", "small", "large")
    plans = {"direct": (("large",) * 3, 0.0), "chain": (in_turn, 0.0), "kept": (in_turn, 1.0)}
    # How the last part chooses its queries, and whose three parts are before it.
    ends = {
        "direct": ("all", "direct"), "chain": ("all", "chain"), "kept": ("all", "kept"),
        "prod": ("hard", "kept"), "random": ("drawn", "kept"),
    }  # fmt: skip
    before = dict.fromkeys(plans, warm)
    for row, (teachers, keep) in plans.items():
        for number, teacher in enumerate(teachers):
            before[row] = part(row, number, before[row], teacher, keep if number else 0.0)
    found = {"teacher": _measured(large(test)[None]), "alone": _measured(_scores(warm, test))}
    for row, (end, plan) in ends.items():
        reached = _scores(part(row, 3, before[plan], "large", plans[plan][1], end), test)
        lost = np.sum(right & (metrics.own_ranks(reached) > 0), axis=1) / right.sum(axis=1)
        found[row] = {**_measured(reached), "lost": lost}
    return found


def _pairs(options):
    """`{split: {side: [N, V]}}`: bags of documented functions, each first line and signature once."""
    found: dict[str, str] = {}
    for source in text.standard_library().values():
        for signature, line in code.documented_functions(source):
            if len(line) > 10 and line not in found.values():
                found.setdefault(signature, line)
    lines = zip(SIDES, (found.values(), found.keys()), strict=True)
    bags = {side: text.trigram_bags(own, options.buckets) for side, own in lines}
    order = np.random.default_rng(0).permutation(len(found))
    parts = np.split(order, [round(share * len(found)) for share in (0.65, 0.75)])
    return {
        split: {side: bags[side][np.sort(numbers)] for side in SIDES}
        for split, numbers in zip(("train", "validation", "test"), parts, strict=True)
    }


def _shape(options):
    return jax.ShapeDtypeStruct((1, options.buckets), jnp.float32)


def _encoder(options):
    return networks.multilayer_perceptron(
        options.embedding, widths=tuple(options.widths), features=_layers(options)
    )


def _layers(options):
    return tuple(f"hidden{i + 1}" for i in range(len(options.widths)))


def _joint_teacher(bench, pairs, name, options, *, binary=False):
    """`scores(pairs) -> [N, N]`, queries by documents, of a joint scorer that learned from labels."""
    scorer = networks.pair_scorer(width=options.width, hidden=options.hidden)
    params = bench.fit(
        name, methods.retrieval(joint=True, binary=binary), {"student": scorer},
        {"student": dict.fromkeys(SIDES, _shape(bench.options))}, {"pairs": pairs["train"]},
        steps=bench.options.teacher_steps, seeds=[0],
    ).frozen  # fmt: skip
    variables = {"params": params, "frozen": {}, "model": {}}

    def scores(pairs):
        def of_one(query):
            inputs = {"query": query[None], "document": pairs["document"]}
            return scorer.apply(variables, inputs, train=False, rngs={})[0].logits[0]

        return np.asarray(jax.jit(lambda queries: jax.lax.map(of_one, queries))(pairs["query"]))

    return scores


def _compared(bench, pairs, rows, nets, frozen):
    def measured(trained, part):
        return _measured(_scores(trained, pairs[part]))

    return bench.compare(
        rows, nets, _shape(bench.options), {"pairs": pairs["train"]}, frozen=frozen,
        measure=measured, score=lambda trained: measured(trained, "validation")["reciprocal_rank"],
    )  # fmt: skip


def _scores(encoders, pairs):
    """Scores `[S, N, N]` of the encoders of S seeds, queries by documents."""
    q, d = (np.asarray(encoders.logits(pairs[side])) for side in SIDES)
    return q @ d.swapaxes(1, 2)


def _measured(scores):
    ranks = metrics.own_ranks(scores)
    return {
        "reciprocal_rank": metrics.reciprocal_rank(ranks).mean(-1),
        "recall": metrics.recall_among(ranks, ranks.shape[-1]).mean(-1),
    }


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
        wrong = known & (ranks[seed] >= 1)
        order = np.argsort(np.where(wrong, ranks[seed], np.inf), kind="stable")
        if end == "drawn":
            order = np.random.default_rng(seed).permutation(len(order))
        return np.sort(order[: max(8, np.sum(wrong & (ranks[seed] < 15)))])

    return chosen
