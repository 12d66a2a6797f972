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
    teacher = _text.teach(bench, corpus)
    student = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    inputs = corpus.inputs(options.length)
    begun = bench.fit(
        "pretrained", methods.next_token(), {"student": student}, inputs,
        {"sequence": corpus.mixed()}, steps=options.pretraining_steps,
    )  # fmt: skip

    def losses(trained, part):
        return corpus.losses(trained.nets["student"], trained.params["student"], part)

    reached = losses(teacher, "test")

    def gaps(trained):
        found = losses(trained, "test") - reached
        return {"worst_gap": found.max(axis=0), "gap": found.mean(axis=0)}

    def measured(trained, _):
        factors = np.asarray(trained.state.memory["domains"]["factors"])
        return {**gaps(trained), "largest_share": factors.max(axis=1)}

    sizes = {"domains": len(options.domains), "every": options.every}
    found = bench.compare(
        {name: methods.ddk(**sizes, **own) for name, own in options.methods.items()},
        {"student": student, "teacher": teacher.nets["student"]}, inputs,
        {f"domain{i}": dict(rows) for i, rows in enumerate(corpus.rows["train"].values())},
        frozen={"teacher": teacher.frozen}, measure=measured,
        score=lambda trained: -losses(trained, "validation").mean(axis=0),
        start=study.carried({"student": begun.params["student"]}),
    )  # fmt: skip
    return {"teacher": {"loss": reached.mean(axis=0)}, "pretrained": gaps(begun), **found}


def merged_branches(bench):
    """The loss over all domains of one student: trained on all, or on each and then merged.

    Every branch has its share of the steps of the joint training. The scale of task arithmetic is
    chosen on validation, by the mean over the seeds.
    """
    options, corpus = bench.options, _text.read_corpus(bench.options)
    teacher = _text.teach(bench, corpus)
    student = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    inputs, share = corpus.inputs(options.length), options.steps // len(options.domains)
    base = bench.fit(
        "base", methods.next_token(), {"student": student}, inputs, {"sequence": corpus.mixed()},
        steps=options.pretraining_steps,
    ).params["student"]  # fmt: skip

    def distilled(name, rows, steps):
        return bench.fit(
            name, methods.token_kd(weight=options.weight),
            {"student": student, "teacher": teacher.nets["student"]}, inputs, {"sequence": rows},
            steps=steps, frozen={"teacher": teacher.frozen}, start=study.carried({"student": base}),
        ).params["student"]  # fmt: skip

    def losses(params, part="test"):
        return corpus.losses(student, params, part)

    joint = distilled("joint", corpus.mixed(), share * len(options.domains))
    branches = [
        distilled(f"branches/{domain}", dict(rows), share)
        for domain, rows in corpus.rows["train"].items()
    ]
    added = [surgery.task_arithmetic(base, branches, scale=scale) for scale in options.scales]
    best = np.argmin([losses(params, "validation").mean() for params in added])
    fuse = jax.vmap(lambda trees: functools.reduce(surgery.arcee_fusion, trees))
    found = {
        "base": losses(base),
        "joint": losses(joint),
        "average": losses(surgery.weight_average(branches)),
        "task_arithmetic": losses(added[best]),
        "fusion": losses(fuse(branches)),
        "branches": np.stack([losses(params)[i] for i, params in enumerate(branches)]),
        "teacher": corpus.losses(teacher.nets["student"], teacher.params["student"]),
    }
    return {name: {"loss": values.mean(axis=0)} for name, values in found.items()}


def retrieved_drafts(bench):
    """Long contexts read whole, by a draft that sees what is retrieved of them, or by both (RAPID).

    The same network is draft and target, trained on rows as long as what the target reads; the draft
    reads a part of it. All numbers are those of the distributions themselves, over the next
    tokens of held-out text: nothing is drawn.
    """
    options, corpus = bench.options, _text.read_corpus(bench.options)
    network = _text.decoder(corpus.vocabulary, width=options.width, depth=options.depth)
    trained = bench.fit(
        "target", methods.next_token(), {"student": network}, corpus.inputs(options.length),
        {"sequence": corpus.mixed()},
    )  # fmt: skip
    long, short, targets = _contexts(corpus.mixed("test")["tokens"], options)
    margins = {"target": 0.0, **{f"rapid_{margin:g}": margin for margin in options.margins}}

    def last(params, tokens):
        variables = {"params": params, "frozen": {}, "model": {}}
        logits = network.apply(variables, tokens, train=False, rngs={})[0].logits
        return jax.nn.log_softmax(logits[:, -options.drafted :], axis=-1)

    def measures(probs):
        right = jnp.argmax(probs, axis=-1) == targets
        of_target = jnp.take_along_axis(probs, targets[..., None], axis=-1)
        return {"accuracy": jnp.mean(right), "loss": -jnp.mean(jnp.log(of_target))}

    def one(params):
        p, q = last(params, long), last(params, short)
        found = {"draft": measures(jnp.exp(q))}
        for name, margin in margins.items():
            adjusted = adjusted_log_probs(p, q, margin=margin, threshold=options.threshold)
            accepted = jnp.minimum(jnp.exp(q), jnp.exp(adjusted)).sum(-1)
            # One token of the target's own follows those that stay.
            tokens = jnp.mean(1 + jnp.cumprod(accepted, axis=1).sum(axis=1))
            found[name] = {**measures(next_token_probs(q, p, adjusted)), "tokens_per_pass": tokens}
        return found

    return jax.device_get(
        jax.jit(lambda params: jax.lax.map(one, params))(trained.params["student"])
    )


def _contexts(tokens, options):
    """(whole contexts `[N, L]`, what drafts read `[N, read]`, the next tokens `[N, k]`) of held-out text.

    A draft reads the chunks of the context that share the most pairs of tokens with its end, in their
    order, then the end; both go on with the text itself up to the k-th token.
    """
    size, end = options.length, options.length - options.read + options.chunks * options.chunk
    whole = np.resize(tokens, (tokens.size // (size + 1), size + 1))
    whole = whole[np.arange(options.contexts) * len(whole) // options.contexts]
    pairs = whole[:, :-1] * np.int64(tokens.max() + 1) + whole[:, 1:]
    starts = np.arange(0, end - options.chunk + 1, options.chunk)
    chunks, short = starts[:, None] + np.arange(options.chunk), []
    for row, own in zip(whole, pairs, strict=True):
        # What is drafted is not known when chunks are looked for.
        query = set(own[end : size - options.drafted])
        shared = [len(query & set(own[chunk[:-1]])) for chunk in chunks]
        best = np.sort(np.argsort(np.negative(shared), kind="stable")[: options.chunks])
        short.append(np.concatenate([row[chunks[best]].ravel(), row[end:size]]))
    return whole[:, :-1], np.stack(short), whole[:, -options.drafted :]
