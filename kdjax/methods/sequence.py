"""Methods over sequences: `batch["sequence"]` holds `tokens` `[B, L]` and perhaps a `mask` `[B, L]`.

Whatever else it holds (`segments`, `positions`) reaches the networks with the tokens. A masked token
counts nothing.
"""

from collections.abc import Callable
from typing import Any

from kdjax.losses._arrays import check_positive
from kdjax.losses.divergences import kl_of_log_probs
from kdjax.signals import HiddenHead, chunked_divergence
from kdjax.train.method import Method, Phase, Term


def token_kd(
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    per_shard: Callable[..., Any] = lambda function: function,
) -> Method:
    """T² KL(teacher ‖ student) at every token, from hidden states and heads a chunk at a time.

    Both networks give the features `hidden` `[B, L, D]` and `head` `[D, V]`; no logits of all tokens
    are formed, by either side. `per_shard` is `kdjax.train.per_shard(mesh)` where a batch is split:
    `chunk` is then the tokens in memory on each part of it.

    Sanh, Debut, Chaumond, Wolf, "DistilBERT, a distilled version of BERT", 2019, among others; the
    divergence of Hinton et al. at every token.
    """
    check_positive(temperature=temperature)

    def divergence(examples, shared):
        student, teacher = (
            HiddenHead(examples[name], shared[name]) for name in ("student", "teacher")
        )
        return chunked_divergence(
            kl_of_log_probs,
            student,
            teacher,
            temperature=shared["temperature"],
            where=examples.get("mask"),
            chunk=chunk,
        )

    def objective(scope):
        batch = dict(scope.batch["sequence"])
        examples = {"mask": batch.pop("mask")} if "mask" in batch else {}
        shared = {"temperature": scope.hyper["temperature"]}
        student, model = scope.apply("student", batch)
        teacher, _ = scope.apply("teacher", batch)
        for name, outputs in (("student", student), ("teacher", teacher)):
            examples[name], shared[name] = outputs.features["hidden"], outputs.features["head"]
        total, count = per_shard(divergence)(examples, shared)
        return {"kd": Term(total, count)}, {"model": {"student": model}}

    hyper = {"temperature": temperature}
    return Method(players={}, phases=(Phase(objective, ("student",)),), hyper=hyper)
