r"""Speculative decoding: a student drafts, its teacher verifies many tokens in one pass.

Notation: B examples, P slots of prompts, L new tokens, V classes; k drafted tokens a round; q is what
the draft's tokens were drawn from and p what the teacher would have drawn from at the same places.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax.generate import cache, decode, sampling
from kdjax.networks import Network

_DRAFT, _ACCEPT, _REPLACE = range(3)


class Speculated(NamedTuple):
    """New tokens, as `Generated` has them, and what they cost.

    `log_probs` are those of the teacher. Counts are `[B]`: `accepted` of `proposed` drafted tokens,
    in `passes` of the teacher after the prompt. A round proposes k, also where the text then ends or
    an earlier rejection leaves some of them unread.
    """

    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    accepted: jax.Array
    proposed: jax.Array
    passes: jax.Array

    @property
    def acceptance_rate(self):
        """Accepted of the proposed, over all examples."""
        return jnp.sum(self.accepted) / jnp.sum(self.proposed)

    @property
    def tokens_per_pass(self):
        """Tokens of text in one pass of the teacher, over all examples; alone it gives 1."""
        return jnp.sum(self.mask) / jnp.sum(self.passes)


def speculate(
    teacher: Network,
    teacher_variables,
    draft: Network,
    draft_variables,
    prompts,
    *,
    length: int,
    key,
    drafted: int = 4,
    mask=None,
    index=None,
    temperature=1.0,
    top_k: int | None = None,
    top_p=None,
    stop_token: int | None = None,
) -> Speculated:
    """Draws what `generate` would draw from the teacher, in distribution, with fewer of its passes.

    In a round the draft proposes k tokens, one pass of its own each and one that only fills its cache;
    the teacher scores them all in one, and `verified` says how many stay and what follows them. At
    temperature 0 the text is the teacher's own. Examples go on at their own pace.

    Args:
        teacher, draft: networks over the same classes, that take a cache and give logits.
        teacher_variables, draft_variables: theirs.
        drafted: k, at least 1.
        prompts, length, key, mask, index, temperature, top_k, top_p, stop_token: as for `generate`;
            what is drawn from, of the draft as of the teacher, is after temperature, top_k and top_p.

    Raises:
        TypeError, ValueError: as `generate`; two vocabularies, k below 1.

    Reference:
        Leviathan, Kalman, Matias, "Fast Inference from Transformers via Speculative Decoding", 2023,
        with k from 3 to 10; Chen, Borgeaud, Irving, Lespiau, Sifre, Jumper, "Accelerating Large
        Language Model Decoding with Speculative Sampling", 2023, with k = 4.
    """
    sampling.check_options(temperature=temperature, top_k=top_k, top_p=top_p)
    prompts, padding, index = decode.checked(prompts, mask, index, length)
    if drafted < 1:
        raise ValueError(f"drafted must be at least 1, got {drafted}")
    return _speculate(
        (teacher, draft), (teacher_variables, draft_variables), prompts, padding, index, key,
        temperature, top_p, length=length, drafted=drafted, top_k=top_k, stop_token=stop_token,
    )  # fmt: skip


def adjusted_log_probs(teacher_log_probs, draft_log_probs, *, margin, threshold=0.1):
    r"""The teacher's log-probabilities after a step towards a draft that knows something itself.

    .. math:: \log \hat p = \operatorname{log\,softmax}(\log p - \eta \, m \, (p - q)), \quad
        m_v = [q_v \ge a \max q]

    where p - q is the gradient of KL(q ‖ p) with respect to the teacher's logits.

    Args:
        teacher_log_probs, draft_log_probs: `[..., V]`, log p and log q.
        margin: η ≥ 0; at 0 the teacher stays what it is.
        threshold: a in [0, 1]; classes that the draft thinks less likely are left alone.

    >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.9, 0.1]))
    >>> jnp.exp(adjusted_log_probs(p, q, margin=1.0, threshold=0.0)).round(3)
    Array([0.69, 0.31], dtype=float32)

    Reference:
        Chen, Feng et al., "Long-Context Inference with Retrieval-Augmented Speculative Decoding"
        (RAPID), 2025, with η from 5 to 50 and a = 0.1: the draft reads a retrieved, short context.
    """
    p, q = jnp.exp(teacher_log_probs), jnp.exp(draft_log_probs)
    kept = q >= threshold * jnp.max(q, axis=-1, keepdims=True)
    return jax.nn.log_softmax(teacher_log_probs - margin * jnp.where(kept, p - q, 0), axis=-1)


def next_token_probs(draft_log_probs, teacher_log_probs, adjusted):
    """What the token at a drafted place is distributed as under `verified`, given those before it.

    All are `[..., V]`. With `adjusted` the teacher's own, it is the teacher's.
    """
    q, p, accepted = (jnp.exp(x) for x in (draft_log_probs, teacher_log_probs, adjusted))
    stays = jnp.minimum(q, accepted)
    left = _replacements(p, q, accepted)
    refused = 1 - jnp.sum(stays, axis=-1, keepdims=True)
    return stays + refused * left / jnp.sum(left, axis=-1, keepdims=True)


def _replacements(p, q, accepted):
    """Weights of the token that takes a refused one's place."""
    left = jnp.maximum(jnp.maximum(p - q, p - accepted), 0)
    # Where p and q agree to the last digit, rounding alone has refused: p is the limit.
    return jnp.where(jnp.sum(left, axis=-1, keepdims=True) > 0, left, p)


def verified(keys, steps, tokens, draft_log_probs, teacher_log_probs, adjusted=None):
    r"""How many drafted tokens stay, and the token that follows them: together distributed as p.

    Token y stays with probability min(1, p(y) / q(y)), as long as all before it do. The first that
    does not is replaced by a draw from max(0, p - q), normalised; after k that stay comes one from p.

    Args:
        keys: `[B]`, one of each example.
        steps: `[B]` integers, the place of the first token in its text: an example's draw at a place
            follows from its key and the place.
        tokens: `[B, k]`, drawn from q.
        draft_log_probs: `[B, k, V]`, log q.
        teacher_log_probs: `[B, k + 1, V]`, log p, the last after all drafted tokens.
        adjusted: `[B, k, V]`, what tokens are accepted by in the place of p, with draws from max(0,
            p - q, p - adjusted) where one is not: see `adjusted_log_probs`. Their distribution is then
            `next_token_probs`.

    Returns:
        `(count [B], token [B])`.

    Raises:
        ValueError: two vocabularies.
    """
    if draft_log_probs.shape[-1] != teacher_log_probs.shape[-1]:
        raise ValueError(
            f"the draft has {draft_log_probs.shape[-1]} classes, the teacher "
            f"{teacher_log_probs.shape[-1]}: over padded vocabularies, cut the logits to what both have"
        )
    drafted = tokens.shape[1]
    p, q = teacher_log_probs, draft_log_probs
    accepted = p[:, :-1] if adjusted is None else adjusted
    ratio = _at(accepted, tokens) - _at(q, tokens)
    places = steps[:, None] + jnp.arange(drafted)[None]
    keys_here = jax.vmap(jax.vmap(_folded, (None, 0, None)), (0, 0, None))
    uniform = jax.vmap(jax.vmap(jax.random.uniform))(keys_here(keys, places, _ACCEPT))
    stays = uniform < jnp.exp(jnp.minimum(ratio, 0))
    count = jnp.sum(jnp.cumprod(stays.astype(jnp.int32), axis=1), axis=1)
    p, refused = jnp.exp(_row(p, count)), (count < drafted)[:, None]
    q, accepted = (jnp.exp(_row(x, jnp.minimum(count, drafted - 1))) for x in (q, accepted))
    left = _replacements(p, jnp.where(refused, q, 0), jnp.where(refused, accepted, p))
    token = decode.draw(_streams(keys, _REPLACE), steps + count, jnp.log(left))
    return count, token


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("length", "drafted", "top_k", "stop_token")
)
def _speculate(
    networks, variables, prompts, padding, index, key, temperature, top_p, *,
    length, drafted, top_k, stop_token,
):  # fmt: skip
    (teacher, student), batch = zip(networks, variables, strict=True), len(prompts)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    rows = jnp.arange(batch)[:, None]

    def log_probs(model, held, tokens):
        logits, held = cache.extend(*model, held, tokens, padding)
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return sampling.sampling_log_probs(logits, **options), held

    def drafts(held, last, written):
        """k proposals `[k, B]`, their q, and the cache with all of them."""

        def one(carried, number):
            held, token = carried
            q, held = log_probs(student, held, token[:, None])
            token = decode.draw(_streams(keys, _DRAFT), written + number, q[:, 0])
            return (held, token), (token, q[:, 0])

        (held, _), (tokens, q) = jax.lax.scan(one, (held, last), jnp.arange(drafted + 1))
        return jnp.moveaxis(tokens, 0, 1)[:, :-1], jnp.moveaxis(q, 0, 1)[:, :-1], held

    def unfinished(carried):
        return jnp.any(carried[0])

    def advance(carried):
        going, written, last, (known, student_known), drawn = carried
        start = known["index"]
        tokens, q, student_known = drafts(student_known, last, written)
        p, known = log_probs(teacher, known, jnp.concatenate([last[:, None], tokens], axis=1))
        count, token = verified(keys, written, tokens, q, p)
        place = jnp.arange(drafted + 1)[None]
        tokens = jnp.pad(tokens, ((0, 0), (0, 1))).at[rows[:, 0], count].set(token)
        new = going[:, None] & (place <= count[:, None]) & (written[:, None] + place < length)
        if stop_token is not None:
            stops = (tokens == stop_token) & new
            new &= jnp.cumsum(stops, axis=1) - stops == 0
        at = (rows, jnp.where(new, written[:, None] + place, length))
        drawn = drawn._replace(
            tokens=drawn.tokens.at[at].set(tokens, mode="drop"),
            mask=drawn.mask.at[at].set(new, mode="drop"),
            log_probs=drawn.log_probs.at[at].set(_at(p, tokens), mode="drop"),
            accepted=drawn.accepted + jnp.where(going, count, 0),
            proposed=drawn.proposed + jnp.where(going, drafted, 0),
            passes=drawn.passes + going,
        )
        # The caches keep `last` and what stayed of the draft; `token` comes with the next pass.
        kept = start + jnp.where(going, count + 1, 0)
        caches = tuple({**held, "index": kept} for held in (known, student_known))
        written += jnp.where(going, count + 1, 0)
        last = jnp.where(going, token, last)
        going &= written < length
        if stop_token is not None:
            going &= ~jnp.any(stops & new, axis=1)
        return going, written, last, caches, drawn

    slots = prompts.shape[1] + length + drafted
    caches = tuple(cache.prefilled(*model, prompts, padding, slots) for model in (teacher, student))
    dtype = jax.eval_shape(lambda: log_probs(teacher, caches[0], prompts[:, -1:])[0]).dtype
    shape, zero = (batch, length), jnp.zeros(batch, jnp.int32)
    drawn = Speculated(
        jnp.full(shape, 0 if stop_token is None else stop_token, jnp.int32),
        jnp.zeros(shape, bool), jnp.zeros(shape, dtype), zero, zero, zero,
    )  # fmt: skip
    carried = (jnp.ones(batch, bool), zero, prompts[:, -1], caches, drawn)
    return jax.lax.while_loop(unfinished, advance, carried)[-1]


def _at(log_probs, tokens):
    """[B, S, V], [B, S] -> [B, S]."""
    return jnp.take_along_axis(log_probs, tokens[:, :, None], axis=-1)[:, :, 0]


def _row(log_probs, number):
    """[B, S, V], [B] -> [B, V]."""
    return jnp.take_along_axis(log_probs, number[:, None, None], axis=1)[:, 0]


def _folded(key, place, stream):
    return jax.random.fold_in(jax.random.fold_in(key, stream), place)


def _streams(keys, stream):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, stream)
