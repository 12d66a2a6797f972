"""Distillation of classifiers of tokens on texts that are made in the space of the embeddings.

`batch["labelled"]` holds `tokens` `[B, L]`, `label` and `index` `[B]`. Tokens below `special` (padding, the
first token) stay where they are. Student and teacher have one vocabulary and name their table of
embeddings `embedding` `[V, D]`. What is made of a text is labelled by the teacher, not by the text's own
label: cross-entropy + KL(teacher ‖ student) + weight · KL(teacher ‖ student) on the made texts.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import softened_kl_divergence
from kdjax.losses._arrays import check_fraction, check_not_negative
from kdjax.train.method import Method, one_phase, term


def projected_tokens(points, table, tokens, *, special=2):
    """The tokens whose embeddings are nearest in angle to points `[B, L, D]`, `[B, L]`.

    Special tokens stay, and nothing becomes one.

    Args:
        table: `[V, D]` embeddings.
        tokens: `[B, L]` what stood there.
        special: how many tokens of the vocabulary, its first, are special.
    """
    near = jnp.einsum("bld,vd->blv", points, _directions(table))
    near = jnp.where(jnp.arange(len(table))[None, None] < special, -jnp.inf, near)
    return jnp.where(tokens < special, tokens, jnp.argmax(near, axis=-1))


def token_kd_alone() -> Method:
    """Cross-entropy + KL(teacher ‖ student): nothing is made."""
    return _method(None, 0.0)


def augpro_mix(*, weight: float = 1.0) -> Method:
    r"""Texts between two of the batch: :math:`\lambda E[x_i] + (1 - \lambda) E[x_j]`, projected.

    λ is uniform. Wang, Wu, Liu, Liu, Hou, Yu, Li, Ji, "Augmentation with Projection: Towards an
    Effective and Efficient Data Augmentation Paradigm for Distillation", 2023; the table is
    the teacher's here.
    """

    def made(scope, tokens):
        table = scope.frozen["teacher"]["embedding"]
        share, other = _pairs(scope, tokens)
        points = share * table[tokens] + (1 - share) * table[tokens[other]]
        return _both(scope, projected_tokens(points, table, tokens))

    return _method(made, weight)


def augpro_fgsm(*, weight: float = 1.0, size: float = 0.1) -> Method:
    r"""Texts up the teacher's loss: :math:`E[x] + \eta \operatorname{sign} \nabla L`, projected.

    As `augpro_mix`; η, `size`, must be large, since a small move projects back to the same token.
    """
    check_not_negative(size=size)

    def made(scope, tokens):
        label, own = scope.batch["labelled"]["label"], scope.frozen["teacher"]
        read = functools.partial(_logits, scope, "teacher")
        return _both(scope, ascended_tokens(read, own, tokens, label, scope.hyper["size"]))

    method = _method(made, weight)
    return method._replace(hyper={**method.hyper, "size": size})


def mix_kd(*, weight: float = 1.0) -> Method:
    """Embeddings between two texts of the batch, as they are: each network's own, by the same share.

    Liang, Hao, Shen, Zhou, Chen, Chen, Carin, "MixKD: Towards Efficient Distillation of Large-scale
    Language Models", 2021, here without the mixed labels.
    """

    def made(scope, tokens):
        share, other = _pairs(scope, tokens)

        def logits(name, params):
            table, read = params["embedding"], functools.partial(_logits, scope, name)
            points = share * table[tokens] + (1 - share) * table[tokens[other]]
            return logits_at(read, params, points)

        return logits("student", scope.params["student"]), logits(
            "teacher", scope.frozen["teacher"]
        )

    return _method(made, weight)


def swapped_kd(*, weight: float = 1.0, share: float = 0.2, special: int = 2) -> Method:
    """Texts of which a share of the tokens is any other: what a projection has to be better than."""
    check_fraction(share=share)

    def made(scope, tokens):
        size, index = len(scope.frozen["teacher"]["embedding"]), scope.batch["labelled"]["index"]
        shape = tokens.shape[1:]
        keys = (scope.rng(name, index) for name in ("places", "tokens"))
        drawn, others = (
            jax.vmap(draw)(k)
            for draw, k in zip(
                (
                    lambda key: jax.random.uniform(key, shape),
                    lambda key: jax.random.randint(key, shape, special, size),
                ),
                keys,
                strict=True,
            )
        )
        return _both(scope, jnp.where((tokens >= special) & (drawn < share), others, tokens))

    return _method(made, weight)


def ascended_tokens(read, params, tokens, label, size):
    """Tokens `[B, L]` nearest to what `augpro_fgsm` moves their embeddings to.

    `read(params, tokens)` gives the logits of a classifier.
    """
    table = params["embedding"]

    def loss(points):
        logits = logits_at(read, params, points)
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    points = table[tokens]
    return projected_tokens(points + size * jnp.sign(jax.grad(loss)(points)), table, tokens)


def logits_at(read, params, points):
    """The logits of a classifier that reads points `[B, L, D]` in the place of its tokens' embeddings.

    Args:
        read: `read(params, tokens)`, its logits.

    Raises:
        ValueError: texts longer than the vocabulary.
    """
    table, length = params["embedding"], points.shape[1]
    if length > len(table):
        raise ValueError(f"texts of {length} tokens need a vocabulary of as many, got {len(table)}")

    def one(own):
        # Each text has a table of its own, whose first tokens are the places in it.
        given = {**params, "embedding": table.at[:length].set(own)}
        return read(given, jnp.arange(length)[None])[0]

    return jax.vmap(one)(points)


def _logits(scope, name, params, tokens):
    return scope.apply(name, tokens, params=params, train=False)[0].logits


def _method(made, weight):
    check_not_negative(weight=weight)

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["tokens"])
        teacher, _ = scope.apply("teacher", batch["tokens"])
        labels = optax.softmax_cross_entropy_with_integer_labels(student.logits, batch["label"])
        terms = {
            "labels": term(labels),
            "kd": term(softened_kl_divergence(student.logits, teacher.logits, temperature=1.0)),
        }
        if made is not None:
            own, theirs = made(scope, batch["tokens"])
            values = softened_kl_divergence(own, jax.lax.stop_gradient(theirs), temperature=1.0)
            # What is made of one text may be made of another too.
            terms["made"] = term(values, weight=scope.hyper["weight"], couples=True)
        return terms, {"model": {"student": model}}

    hyper = {} if made is None else {"weight": weight}
    return one_phase(objective, **hyper)


def _both(scope, tokens):
    return tuple(scope.apply(name, tokens)[0].logits for name in ("student", "teacher"))


def _pairs(scope, tokens):
    """(each text's share in a mixture `[B, 1, 1]`, whom it is mixed with `[B]`)."""
    index = scope.batch["labelled"]["index"]
    share = jax.vmap(jax.random.uniform)(scope.rng("share", index))
    return share[:, None, None], jax.random.permutation(scope.rng("other"), len(tokens))


def _directions(table):
    return table / jnp.maximum(jnp.linalg.norm(table, axis=1, keepdims=True), 1e-6)
