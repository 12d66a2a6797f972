"""Losses for knowledge transfer: pure functions, arrays in, arrays out.

Student before teacher; hyperparameters by keyword; every axis that the definition does not reduce is
kept; computed in at least float32; `where` masks. `total_and_count` reduces.
"""

from kdjax.losses.activation_boundaries import activation_boundary, partial_squared_distance
from kdjax.losses.attention import (
    attention_guided_distance,
    attention_transfer,
    channel_attentive_distance,
    gradient_attention,
)
from kdjax.losses.channels import channel_affinity, channel_correlation, pearson_feature_distance
from kdjax.losses.contrastive import (
    candidate_contrast,
    categorised_contrast,
    info_nce,
    noise_contrastive_estimation,
    soft_supervised_contrast,
    supervised_contrast,
    symmetric_info_nce,
    transported_cost,
    two_view_contrast,
)
from kdjax.losses.correlation import (
    batch_level_correlation,
    channel_relation,
    class_level_correlation,
    gram_mahalanobis_distance,
    inter_class_relation,
    intra_class_relation,
    spatial_relation,
)
from kdjax.losses.cross_tokenizer import (
    hybrid_logit_distance,
    merged_universal_logit_distance,
    universal_logit_distance,
)
from kdjax.losses.data_free import (
    negative_activation,
    negative_information_entropy,
    one_hot_cross_entropy,
)
from kdjax.losses.dense import (
    affine_invariant_depth,
    attention_mask_distance,
    attention_residual,
    box_projection_distance,
    category_similarity,
    channel_wise_divergence,
    cross_image_relation,
    focal_feature_difference,
    intra_class_variation,
    mask_dice_distance,
    pairwise_similarity,
    residual_hint,
)
from kdjax.losses.divergences import (
    adaptive_kl_divergence,
    generalized_jensen_shannon_divergence,
    interpolated_kl_divergence,
    logit_cosine_distance,
    minifinetuning_divergence,
    reverse_kl_divergence,
    skew_kl_divergence,
    skew_reverse_kl_divergence,
    softened_kl_divergence,
    symmetric_kl_divergence,
    total_variation_distance,
)
from kdjax.losses.domain import (
    central_moment_discrepancy,
    conditional_mean_discrepancy,
    correlation_alignment,
    free_energy_excess,
    information_maximization,
    maximum_mean_discrepancy,
    mean_discrepancy,
    moment_distance,
    sliced_wasserstein_distance,
)
from kdjax.losses.features import (
    factor_transfer,
    feature_cosine_distance,
    feature_hint,
    hierarchical_context,
    implicit_field_distance,
    layer_normalised_hint,
    log_power_distance,
    variational_information,
)
from kdjax.losses.flow import singular_vector_flow, solution_flow
from kdjax.losses.kernels import kernel_matching, neuron_selectivity
from kdjax.losses.logit_transforms import (
    aggregate_views,
    permute_other_classes,
    probability_shift,
    standardise_logits,
)
from kdjax.losses.logits import (
    decoupled_divergence,
    jacobian_matching,
    label_log_probability_error,
    logit_absolute_error,
    logit_distance,
    logit_squared_error,
    non_target_class_divergence,
    normalised_soft_cross_entropy,
    pseudo_label_cross_entropy,
    soft_cross_entropy,
    target_class_divergence,
)
from kdjax.losses.margins import (
    absolute_boosting,
    relative_boosting,
    triplet_margin,
    triplet_preference,
)
from kdjax.losses.multi_label import asymmetric_multi_label, independent_cross_entropy
from kdjax.losses.multiple_instance import attention_diversity, bag_margin
from kdjax.losses.ranking import (
    listwise_divergence,
    listwise_likelihood,
    minimum_word_error,
    rank_likelihood,
)
from kdjax.losses.reduction import total_and_count
from kdjax.losses.relational import (
    consecutive_discrepancy,
    contextual_similarity,
    correlation_congruence,
    instance_graph_edges,
    instance_graph_transformation,
    neighbour_graph_divergence,
    probabilistic_affinity,
    relation_cosine,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from kdjax.losses.row_weights import (
    average_precision_weighted_divergence,
    confidence_weighted_cross_entropy,
    weighted_soft_label_cross_entropy,
)
from kdjax.losses.self_distillation import (
    corrected_teacher_divergence,
    customised_soft_label_cross_entropy,
    guided_squared_error,
    virtual_teacher_divergence,
)
from kdjax.losses.sequence import (
    blended_divergence,
    candidate_ranking,
    clipped_policy_gradient,
    direct_preference,
    negative_calibrated_divergence,
    self_evolution_divergence,
    token_negative_log_likelihood,
    weighted_negative_log_likelihood,
)
from kdjax.losses.similarity import (
    anchor_similarity,
    cross_modal_affinity,
    neighbour_similarity,
    queue_similarity,
    self_supervised_similarity,
)
from kdjax.losses.sparse import (
    logistic_ranking,
    ranking_hinge,
    renormalized_top_k_kl_divergence,
    top_k_jensen_shannon_divergence,
    top_k_kl_divergence,
    top_k_total_variation_distance,
)
from kdjax.losses.teachers import (
    centred_cross_entropy,
    entropy_weighted_divergence,
    fused_spatial_divergence,
    hardest_negative_divergence,
    labelled_partitioned_divergence,
    partitioned_divergence,
    reliable_peer_divergence,
    weighted_teachers_divergence,
)
from kdjax.losses.transformer import (
    attention_kl_divergence,
    attention_mean_squared_error,
    codebook_divergence,
    token_gram_distance,
    token_relation_divergence,
)

# The losses whose value mixes the examples of a batch: they need the global batch on every device.
COUPLING = frozenset(
    {
        "absolute_boosting",
        "average_precision_weighted_divergence",
        "bag_margin",
        "batch_level_correlation",
        "categorised_contrast",
        "central_moment_discrepancy",
        "class_level_correlation",
        "conditional_mean_discrepancy",
        "confidence_weighted_cross_entropy",
        "consecutive_discrepancy",
        "correlation_alignment",
        "correlation_congruence",
        "cross_image_relation",
        "cross_modal_affinity",
        "customised_soft_label_cross_entropy",
        "gram_mahalanobis_distance",
        "info_nce",
        "information_maximization",
        "instance_graph_edges",
        "instance_graph_transformation",
        "intra_class_relation",
        "kernel_matching",
        "log_power_distance",
        "maximum_mean_discrepancy",
        "mean_discrepancy",
        "moment_distance",
        "negative_information_entropy",
        "neighbour_graph_divergence",
        "neighbour_similarity",
        "pearson_feature_distance",
        "probabilistic_affinity",
        "rank_likelihood",
        "relational_angle",
        "relational_distance",
        "relative_boosting",
        "self_supervised_similarity",
        "similarity_preserving",
        "sliced_wasserstein_distance",
        "soft_supervised_contrast",
        "spatial_relation",
        "supervised_contrast",
        "symmetric_info_nce",
        "transported_cost",
        "two_view_contrast",
    }
)
