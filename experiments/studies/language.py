"""Language models on packages of the standard library: domains re-weighted, branches merged, drafts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _text
from kdjax import methods, surgery
from kdjax.generate import adjusted_log_probs, next_token_probs


def domain_reweighting(bench):
    """How far a student stays behind its teacher on the worst domain, and on all.

    The students of all rows go on from the same ones, trained on an even mixture; the gap is the
    student's loss minus the teacher's, in nats.
    """
    options, corpus = bench.options, _text.read_corpus(bench.options)
    teacher, taught = _text.teach(bench, corpus)
    student = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    inputs = corpus.inputs(options.length)
    begun = bench.fit(
        "pretrained", methods.next_token(), {"student": student}, inputs,
        {"sequence": corpus.mixed()}, steps=options.pretraining_steps, batch=options.batch,
        rate=options.rate,
    )  # fmt: skip
    test = corpus.rows["test"]
    reached = _text.losses_of_one(bench, teacher, taught, test)

    def gaps(params):
        found = _text.domain_losses(student, params, test) - reached
        return {"worst_gap": found.max(axis=0), "gap": found.mean(axis=0)}

    measured = {
        "teacher": {"loss": reached.mean(axis=0)},
        "pretrained": gaps(begun.params["student"]),
    }
    for name, own in options.methods.items():
        domains = len(options.domains)
        state = bench.fit(
            name, methods.ddk(domains=domains, every=options.every, **own),
            {"student": student, "teacher": teacher}, inputs,
            {f"domain{i}": dict(rows) for i, rows in enumerate(corpus.rows["train"].values())},
            steps=options.steps, batch=options.batch, rate=options.rate, frozen={"teacher": taught},
            score=_text.validated(student, corpus.rows["validation"]),
            start=study.carried({"student": begun.params["student"]}),
        )  # fmt: skip
        factors = np.asarray(state.memory["domains"]["factors"])
        measured[name] = {**gaps(state.params["student"]), "largest_share": factors.max(axis=1)}
    return measured


def merged_branches(bench):
    """The loss over all domains of one student: trained on all, or on each and then merged.

    Every branch has its share of the steps of the joint training. The scale of task arithmetic is
    chosen on validation, by the mean over the seeds.
    """
    options, corpus = bench.options, _text.read_corpus(bench.options)
    teacher, taught = _text.teach(bench, corpus)
    student = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    inputs, share = corpus.inputs(options.length), options.steps // len(options.domains)

    def fit(name, method, rows, steps, **given):
        return bench.fit(
            name, method, {"student": student, **given.pop("nets", {})}, inputs, {"sequence": rows},
            steps=steps, batch=options.batch, rate=options.rate, **given,
        ).params["student"]  # fmt: skip

    base = fit("base", methods.next_token(), corpus.mixed(), options.pretraining_steps)
    distil = functools.partial(
        fit, method=methods.token_kd(weight=options.weight), nets={"teacher": teacher},
        frozen={"teacher": taught}, start=study.carried({"student": base}),
    )  # fmt: skip
    joint = distil("joint", rows=corpus.mixed(), steps=share * len(options.domains))
    branches = [
        distil(f"branches/{domain}", rows=dict(rows), steps=share)
        for domain, rows in corpus.rows["train"].items()
    ]

    def losses(params, split="test"):
        return _text.domain_losses(student, params, corpus.rows[split])

    added = [surgery.task_arithmetic(base, branches, scale=scale) for scale in options.scales]
    best = np.argmin([losses(params, "validation").mean() for params in added])
    fuse = jax.vmap(lambda trees: functools.reduce(surgery.arcee_fusion, trees))
    merged = {
        "base": base,
        "joint": joint,
        "average": surgery.weight_average(branches),
        "task_arithmetic": added[best],
        "fusion": fuse(branches),
    }
    own = np.stack([losses(params)[i] for i, params in enumerate(branches)])
    measured = {name: {"loss": losses(params).mean(axis=0)} for name, params in merged.items()}
    reached = _text.losses_of_one(bench, teacher, taught, corpus.rows["test"])
    return {
        **measured,
        "branches": {"loss": own.mean(axis=0)},
        "teacher": {"loss": reached.mean(axis=0)},
    }


def retrieved_drafts(bench):
    """Long contexts read whole, by a draft that sees what is retrieved of them, or by both (RAPID).

    The same network is draft and target, trained on rows as long as what the target reads; the draft
    reads a part of it. All numbers are those of the distributions themselves, over the next
    tokens of held-out text: nothing is drawn.
    """
    options, corpus = bench.options, _text.read_corpus(bench.options)
    network = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    state = bench.fit(
        "target", methods.next_token(), {"student": network}, corpus.inputs(options.length),
        {"sequence": corpus.mixed()}, steps=options.steps, batch=options.batch, rate=options.rate,
    )  # fmt: skip
    long, short, targets = _contexts(corpus.mixed("test")["tokens"], options)

    def last(params, tokens):
        variables = {"params": params, "frozen": {}, "model": {}}
        logits = network.apply(variables, tokens, train=False, rngs={})[0].logits
        return jax.nn.log_softmax(logits[:, -options.drafted :], axis=-1)

    def one(params):
        p, q = last(params, long), last(params, short)

        def row(margin):
            adjusted = adjusted_log_probs(p, q, margin=margin, threshold=options.threshold)
            accepted = jnp.minimum(jnp.exp(q), jnp.exp(adjusted)).sum(-1)
            # One token of the target's own follows those that stay.
            tokens = 1 + jnp.cumprod(accepted, axis=1).sum(axis=1)
            return next_token_probs(q, p, adjusted), {"tokens_per_pass": jnp.mean(tokens)}

        rows = {"target": row(0.0), "draft": (jnp.exp(q), {})}
        rows |= {f"rapid_{margin:g}": row(margin) for margin in options.margins}

        def measures(probs, more):
            right = jnp.argmax(probs, axis=-1) == targets
            of_target = jnp.take_along_axis(probs, targets[..., None], axis=-1)
            return {"accuracy": jnp.mean(right), "loss": -jnp.mean(jnp.log(of_target)), **more}

        return {name: measures(*given) for name, given in rows.items()}

    return jax.device_get(jax.jit(lambda params: jax.lax.map(one, params))(state.params["student"]))


def _contexts(tokens, options):
    """(whole contexts `[N, L]`, what drafts read `[N, read]`, the next tokens `[N, k]`) of held-out text.

    A draft reads the chunks of the context that share the most pairs of tokens with its end, in their
    order, then the end; both go on with the text itself up to the k-th token.
    """
    size, drafted = options.length, options.drafted
    whole = tokens.reshape(-1)
    whole = whole[: len(whole) // (size + 1) * (size + 1)].reshape(-1, size + 1)
    whole = whole[np.arange(options.contexts) * len(whole) // options.contexts]
    recent = options.read - options.chunks * options.chunk
    pairs = whole[:, :-1] * np.int64(tokens.max() + 1) + whole[:, 1:]
    short = []
    for row, own in zip(whole, pairs, strict=True):
        end = size - recent
        # What is drafted is not known when chunks are looked for.
        query = set(own[end : size - drafted])
        starts = np.arange(0, end - options.chunk + 1, options.chunk)
        shared = [len(query & set(own[s : s + options.chunk - 1])) for s in starts]
        best = np.sort(starts[np.argsort(np.negative(shared), kind="stable")[: options.chunks]])
        short.append(np.concatenate([*(row[s : s + options.chunk] for s in best), row[end:size]]))
    return whole[:, :-1], np.stack(short), whole[:, 1:][:, -drafted:]
