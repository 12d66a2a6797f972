"""Language models whose text is drawn by how far the student lags behind its teacher on each domain."""

import jax
import jax.numpy as jnp

from kdjax import losses, signals
from kdjax.losses import total_and_count
from kdjax.losses._arrays import check_fraction, check_not_negative, check_positive
from kdjax.methods.sequence import inputs_of, kept_tokens, signal_of, teacher_signal
from kdjax.train.method import Method, Term, one_phase


def reweighted_domains(factors, student_perplexity, teacher_perplexity, *, smoothing):
    r"""The share of every domain in the next steps: more for those where the student lags more.

    .. math:: r_i \leftarrow \alpha \frac{r_i e^{\ell^s_i / \ell^t_i}}{\sum_j r_j e^{\ell^s_j / \ell^t_j}}
        + \frac{1 - \alpha}{N}

    Args:
        factors: r `[N]`, above 0.
        student_perplexity, teacher_perplexity: `[N]`
        smoothing: α in [0, 1], 0 for equal shares.

    Returns:
        `[N]`, of sum 1 and at least (1 - α) / N each.

    >>> same = jnp.full(2, 3.0)
    >>> reweighted_domains(jnp.array([0.75, 0.25]), same, same, smoothing=0.5)
    Array([0.625, 0.375], dtype=float32)
    """
    gained = jnp.log(factors) + student_perplexity / teacher_perplexity
    return smoothing * jax.nn.softmax(gained) + (1 - smoothing) / len(factors)


def ddk(
    *,
    domains: int,
    every: int,
    smoothing: float = 0.5,
    weight: float = 0.2,
    temperature: float = 1.0,
    vocabulary: int | None = None,
) -> Method:
    """Cross entropy + weight · T² KL(teacher ‖ student) on rows of domains drawn by how far it lags.

    The batch has the streams `domain0`, `domain1`, ... of equally many rows; at each place one is drawn,
    by the first one's `index`, with the shares `memory["domains"]["factors"]`. They begin even and every
    so many steps follow the perplexities over the tokens drawn since (`reweighted_domains`); a domain that
    was not drawn keeps its ratio.
    Smoothing 0 is plain distillation on an even mixture; with weight 0 it has no teacher.

    Liu, Zhang, Guo, Zhang, Que, Deng et al., "DDK: Distilling Domain Knowledge for Efficient Large
    Language Models", 2024, with weight 0.2, T = 1, every 1,000 steps and smoothing 0.5; the authors
    measure the perplexities on held-out text.

    Args:
        domains: N.
        every: steps between two changes of the shares.
        smoothing: see `reweighted_domains`.
        weight, temperature: of the divergence.
        vocabulary: as in `token_kd`.
    """
    check_positive(domains=domains, every=every, temperature=temperature)
    check_fraction(smoothing=smoothing)
    check_not_negative(weight=weight)

    def objective(scope):
        held, hyper = scope.memory["domains"], scope.hyper
        rows, drawn = _drawn_rows(scope, domains, held["factors"])
        where = kept_tokens(rows)
        outputs, model = scope.apply("student", inputs_of(rows))
        student = signals.logits_of(signal_of(outputs, vocabulary))
        teacher = signals.logits_of(teacher_signal(scope, rows, vocabulary, 0, 1.0))
        labels, theirs = (
            losses.token_negative_log_likelihood(logits, rows["targets"], where=where)
            for logits in (student, teacher)
        )
        kd = losses.softened_kl_divergence(
            student, teacher, temperature=hyper["temperature"], where=where
        )
        terms = {
            "labels": Term(*total_and_count(labels, where)),
            "kd": Term(*total_and_count(kd, where), weight=hyper["weight"]),
        }
        kept = jnp.ones(labels.shape) if where is None else where
        everywhere = scope.gather((drawn, (labels, theirs, kept)))
        seen = held["seen"] + _by_domain(domains, *everywhere)
        turn = (scope.step + 1) % every == 0
        student_loss, teacher_loss, count = seen / jnp.maximum(seen[2:], 1)
        ratio = jnp.where(count > 0, jnp.exp(student_loss - teacher_loss), held["ratio"])
        factors = reweighted_domains(held["factors"], ratio, 1.0, smoothing=hyper["smoothing"])
        after = {"factors": factors, "ratio": ratio, "seen": jnp.zeros_like(seen)}
        kept_on = {"factors": held["factors"], "ratio": held["ratio"], "seen": seen}
        memory = jax.tree.map(lambda new, old: jnp.where(turn, new, old), after, kept_on)
        return terms, {"model": {"student": model}, "memory": {"domains": memory}}

    even = jnp.full(domains, 1 / domains)
    memory = {"factors": even, "ratio": jnp.ones(domains), "seen": jnp.zeros((3, domains))}
    held = {"domains": memory}
    return one_phase(
        objective, memory=held, smoothing=smoothing, weight=weight, temperature=temperature
    )


def _drawn_rows(scope, domains, factors):
    """(rows, of which domain each is `[B]`), one domain drawn for each place of the batch."""
    streams = [scope.batch[f"domain{i}"] for i in range(domains)]
    keys = scope.rng("domains", streams[0]["index"])
    drawn = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(factors)))(keys)
    own = [
        {name: rows[name] for name in ("tokens", "targets", "mask", "segments")} for rows in streams
    ]
    place = jnp.arange(len(drawn))
    return jax.tree.map(lambda *columns: jnp.stack(columns)[drawn, place], *own), drawn


def _by_domain(domains, drawn, values):
    """`[len(values), domains]`: the sums of `[B, L]` arrays over the rows of each domain."""
    sums = jnp.stack([jnp.sum(jax.lax.stop_gradient(each), axis=1) for each in values])
    return sums.astype(jnp.float32) @ jax.nn.one_hot(drawn, domains)
