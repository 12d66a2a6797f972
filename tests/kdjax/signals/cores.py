"""Every core, hyperparameters for it, and the public function over logits that goes with it."""

from kdjax import losses
from kdjax.losses import divergences

CORES = {
    "kl": (divergences.kl_of_log_probs, {}, losses.softened_kl_divergence),
    "reverse": (divergences.reverse_kl_of_log_probs, {}, losses.reverse_kl_divergence),
    "symmetric": (
        divergences.symmetric_kl_of_log_probs,
        {"weight": 0.3},
        losses.symmetric_kl_divergence,
    ),
    "skew": (divergences.skew_kl_of_log_probs, {"skew": 0.1}, losses.skew_kl_divergence),
    "skew reverse": (
        divergences.skew_reverse_kl_of_log_probs,
        {"skew": 0.1},
        losses.skew_reverse_kl_divergence,
    ),
    "jensen shannon": (
        divergences.generalized_jensen_shannon_of_log_probs,
        {"beta": 0.3},
        losses.generalized_jensen_shannon_divergence,
    ),
    "total variation": (
        divergences.total_variation_of_log_probs,
        {},
        losses.total_variation_distance,
    ),
    "adaptive": (
        divergences.adaptive_kl_of_log_probs,
        {"head_mass": 0.5},
        losses.adaptive_kl_divergence,
    ),
    "interpolated": (
        divergences.interpolated_kl_of_log_probs,
        {"interpolation": 0.4},
        losses.interpolated_kl_divergence,
    ),
}
