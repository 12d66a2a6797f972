"""Adapters and examples of `kdjax.losses.transformer`, and of losses on single hidden states."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses
from tools.references.registry import Example, covers


def _tokens(x):
    """[N, L] of the kept tokens, or None."""
    return jnp.asarray(x["mask"]) > 0 if "mask" in x else None


def _mean(values, where):
    total, count = losses.total_and_count(values, where)
    return total / count


def _without_padding_scores(attention, where):
    """Without a mask, scores at or below -1e-3 are taken for padding and set to zero."""
    return attention if where is not None else jnp.where(attention <= -1e-3, 0, attention)


def _attention_difference(attention_s, attention_t, where):
    attention_s = _without_padding_scores(attention_s, where)
    attention_t = _without_padding_scores(attention_t, where)
    values = losses.attention_mean_squared_error(attention_s, attention_t, where=where)
    return _mean_over_pairs(values, where)


def _mean_over_pairs(values, where):
    """Every pair of tokens counts alike: a token weighs as much as its example has tokens."""
    if where is None:
        return jnp.mean(values)
    lengths = jnp.sum(where, axis=1, keepdims=True)
    return jnp.sum(lengths * values) / jnp.sum(jnp.square(lengths))


@covers("textbrewer_att_mse_loss", "textbrewer_att_mse_loss_mask")
def attention_difference(x, h):
    return _attention_difference(x["att_s"], x["att_t"], _tokens(x))


@covers("textbrewer_att_mse_sum_loss", "textbrewer_att_mse_sum_loss_mask")
def attention_difference_of_sums(x, h):
    summed = (jnp.sum(x[name], axis=1, keepdims=True) for name in ("att_s", "att_t"))
    return _attention_difference(*summed, _tokens(x))


def _attention_cross_entropy(scores_s, scores_t, where):
    """Cross-entropy over the carried keys of distributions that are normalised over all keys.

    With P the teacher's mass on the carried keys and p its distribution among them, that is
    P (KL(p || q) + H(p)): our divergence head by head, then what the convention adds.
    """
    heads = scores_s.shape[1]
    if where is None:
        carried = scores_t > -1e-3
    else:
        carried = jnp.broadcast_to(where[:, None, None], scores_t.shape)
    among = jnp.where(carried, scores_t, -jnp.inf)
    alone = (-1, 1, *scores_s.shape[2:])
    divergence = losses.attention_kl_divergence(scores_s.reshape(alone), among.reshape(alone))
    divergence = divergence.reshape(scores_s.shape[:3])
    mass = jnp.sum(jnp.where(carried, jax.nn.softmax(scores_t), 0), axis=-1)
    p = jnp.where(carried, jax.nn.softmax(scores_t), 0) / jnp.where(mass > 0, mass, 1)[..., None]
    entropy = -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0), axis=-1)
    values = mass * (divergence + entropy)
    queries = None if where is None else jnp.repeat(where[:, None], heads, axis=1)
    return _mean(values, queries)


@covers("textbrewer_att_ce_loss", "textbrewer_att_ce_loss_mask")
def attention_cross_entropy(x, h):
    return _attention_cross_entropy(jnp.asarray(x["att_s"]), jnp.asarray(x["att_t"]), _tokens(x))


@covers("textbrewer_att_ce_mean_loss", "textbrewer_att_ce_mean_loss_mask")
def attention_cross_entropy_of_means(x, h):
    means = (jnp.mean(x[name], axis=1, keepdims=True) for name in ("att_s", "att_t"))
    return _attention_cross_entropy(*means, _tokens(x))


def _per_token(loss, x):
    """A loss per example with tokens as examples, averaged over the kept ones."""
    h_s, h_t = (x[name].reshape(-1, x[name].shape[-1]) for name in ("hid_s", "hid_t"))
    where = _tokens(x)
    where = None if where is None else where.reshape(-1)
    return _mean(loss(h_s, h_t, where=where), where)


@covers("textbrewer_hid_mse_loss", "textbrewer_hid_mse_loss_mask")
def hidden_difference(x, h):
    return _per_token(losses.feature_hint, x)


@covers("textbrewer_cos_loss", "textbrewer_cos_loss_mask")
def hidden_cosine(x, h):
    return _per_token(losses.feature_cosine_distance, x)


@covers("textbrewer_pkd_loss", "textbrewer_pkd_loss_mask")
def first_token_distance(x, h):
    # The mask has no say over the first token.
    return 2 * jnp.mean(losses.feature_cosine_distance(x["hid_s"][:, 0], x["hid_t"][:, 0]))


@covers("textbrewer_fsp_loss", "textbrewer_fsp_loss_mask")
def flow_of_tokens(x, h):
    """Tokens are the pixels of a map one pixel wide; a padded token is one of zeros."""
    where = _tokens(x)
    where = jnp.ones(x["hid_s"].shape[:2], bool) if where is None else where
    names = ("hid_s", "hid_t", "hid_s2", "hid_t2")
    maps = (jnp.where(where[..., None], x[name], 0)[:, :, None] for name in names)
    padded = where.shape[1] / jnp.sum(where, axis=1)
    # A mean over the matrix, where ours is a sum; a mean over the kept tokens, where ours is over all.
    entries = x["hid_s"].shape[-1] * x["hid_s2"].shape[-1]
    return jnp.mean(jnp.square(padded) * losses.solution_flow(*maps)) / entries


@covers("textbrewer_mmd_loss", "textbrewer_mmd_loss_mask")
def gram_of_tokens(x, h):
    states = (x[name] for name in ("hid_s", "hid_t24", "hid_s2", "hid_t24b"))
    where = _tokens(x)
    return _mean_over_pairs(losses.token_gram_distance(*states, where=where), where)


def _normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def _two_attentions(rng, batch):
    return tuple(_normal(rng, batch, 2, 5, 5) for _ in range(2)), {}


def _two_vectors(rng, batch):
    return tuple(_normal(rng, batch, 2, 5, 3) for _ in range(2)), {}


def _hidden(number):
    def build(rng, batch):
        return tuple(_normal(rng, batch, 5, 3) for _ in range(number)), {}

    return build


def _two_hidden_and_codes(rng, batch):
    states, _ = _hidden(2)(rng, batch)
    return (*states, _normal(rng, 4, 3)), {"temperature": 2.0}


def _per_token_of(batch):
    return (batch, 5)


# Attention is square over tokens: it has no one class while it has several tokens.
_SQUARE = {"one_class": "keys are as many as queries"}

EXAMPLES = {
    "attention_mean_squared_error": Example(
        _two_attentions, classes=(0, 1), where=_per_token_of, skip=_SQUARE
    ),
    "attention_kl_divergence": Example(
        _two_attentions, classes=(0, 1), where=_per_token_of, skip=_SQUARE
    ),
    "token_relation_divergence": Example(_two_vectors, where=_per_token_of),
    "token_gram_distance": Example(_hidden(4), student=(0, 2), teacher=(1, 3), where=_per_token_of),
    "codebook_divergence": Example(_two_hidden_and_codes, where=_per_token_of),
}
