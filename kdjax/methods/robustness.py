"""Methods that move robustness from a small network into the last layers of a large one."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import softened_kl_divergence
from kdjax.losses._arrays import check_not_negative, check_positive
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.train.method import Method, one_phase, term

HEADS = ("clean_head", "robust_head")


def three_heads(*, temperature: float = 4.0, weight: float = 1.0, single: bool = False) -> Method:
    """The last layers of a frozen network learn robustness, in heads of their own for either input.

    Per view, clean or perturbed: cross-entropy + weight · w · T² KL(teacher ‖ head), w = 1 - H / log C
    the teacher's certainty there. The clean head learns from clean images, the robust one from
    perturbed ones, the existing head from both, half each. `single` has only the existing head, which
    learns from perturbed images, with w = 1.

    The frozen layers are the network `trunk`, whose `embedding` the `student` takes; both heads read
    the student's `embedding`. The batch `labelled` holds `image`, `perturbed` and `label`.

    Jain, Behl, Rawat, Vineet, "Efficiently Robustify Pre-trained Models", 2023; the heads,
    what is tuned and the weighting by uncertainty are the authors', the formulas a reconstruction.
    """
    check_positive(temperature=temperature)
    check_not_negative(weight=weight)

    def head(shapes):
        student = shapes["student"]
        network = multilayer_perceptron(student.logits.shape[-1], widths=())
        return network, student.features["embedding"]

    def objective(scope):
        batch, hyper, terms = scope.batch["labelled"], scope.hyper, {}

        def add(name, logits, taught, certain, share):
            right = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            values = softened_kl_divergence(logits, taught, temperature=hyper["temperature"])
            terms[f"{name}_labels"] = term(right, weight=share)
            terms[f"{name}_kd"] = term(certain * values, weight=share * hyper["weight"])

        for view, player in zip(("image", "perturbed")[single:], HEADS, strict=False):
            trunk, _ = scope.apply("trunk", batch[view])
            student, _ = scope.apply("student", trunk.features["embedding"])
            taught = scope.apply("teacher", batch[view])[0].logits
            certain = jnp.ones(len(taught)) if single else certainty(taught)
            add(view, student.logits, taught, certain, 1.0 if single else 0.5)
            if not single:
                own, _ = scope.apply(player, student.features["embedding"])
                add(player, own.logits, taught, certain, 1.0)
        return terms, {}

    players = {} if single else dict.fromkeys(HEADS, head)
    return one_phase(objective, players, temperature=temperature, weight=weight)


def certainty(logits):
    """1 - H(softmax) / log C in [0, 1]: `[..., C]` -> `[...]`.

    >>> certainty(jnp.array([[0.0, 0.0], [0.0, 50.0]])).round(3)
    Array([0., 1.], dtype=float32)
    """
    log_p = jax.nn.log_softmax(logits)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
    return 1 - entropy / jnp.log(logits.shape[-1])


def choose_head(existing, clean, robust, *, threshold):
    """The logits of one of three heads, for every example.

    The existing head's where KL(clean ‖ robust) is below the threshold, else those of the surer of the
    other two, by entropy. It follows Jain et al., 2023; the rule is a reconstruction.

    Args:
        existing: `[..., C]` logits; clean and robust: likewise.
        threshold: a number, or `[...]`: a high percentile of `disagreement` on clean data.

    Returns:
        `[..., C]`.
    """
    surer = jnp.where((certainty(clean) >= certainty(robust))[..., None], clean, robust)
    return jnp.where((disagreement(clean, robust) < threshold)[..., None], existing, surer)


def disagreement(clean, robust):
    """KL(clean ‖ robust) of two heads' logits `[..., C]`, `[...]`."""
    flat = [x.reshape(-1, x.shape[-1]) for x in (robust, clean)]
    return softened_kl_divergence(*flat).reshape(clean.shape[:-1])
