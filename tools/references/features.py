"""Adapters and examples of the feature losses: hints, attention, boundaries, channels, kernels, flow.

Recorded maps are `[N, C, H, W]`; `nhwc` turns them. Where a project reduces or scales otherwise than
the loss, that is the line in the adapter's return.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses
from kdjax.losses import _maps
from tools.references import torch_ops
from tools.references.registry import Example, covers, nhwc

# Attention transfer and its neighbours.


def _squared_attention(student, teacher, power):
    """The authors' code: the squared distance, divided by the number of positions."""
    distances = losses.attention_transfer(student, teacher, power=power)
    return jnp.mean(jnp.square(distances)) / _positions(student)


@covers(
    "mdistiller_at",
    "mdistiller_at_zero_map",
    "repdistiller_at",
    "rkd_at",
    "kdzoo_at",
    "mmrazor_at",
    "cirkd_at",
    "at_authors",
    "torchdistill_at_code",
)
def attention(x, h):
    student = x["fmap_s_zero"] if "fmap_s_zero" in x else x["fmap_s"]
    return _squared_attention(nhwc(student), nhwc(x["fmap_t"]), h.get("p", 2))


@covers("mdistiller_at_pool")
def attention_pooled(x, h):
    student, teacher = nhwc(x["fmap_s"]), nhwc(x["fmap_t_12"])
    teacher = _maps.adaptive_average_pool(teacher, *student.shape[1:3])
    return _squared_attention(student, teacher, h["p"])


@covers("mdistiller_at_multi")
def attention_of_stages(x, h):
    return sum(_squared_attention(*pair, h["p"]) for pair in _stages(x))


@covers("torchdistill_at_paper")
def attention_as_published(x, h):
    return jnp.mean(losses.attention_transfer(nhwc(x["fmap_s"]), nhwc(x["fmap_t"])))


def _attention_in_numpy(x, h):
    maps = [np.mean(np.abs(x[name]) ** h["norm_type"], axis=1) for name in ("fmap_s", "fmap_t")]
    s, t = (m.reshape(len(m), -1) for m in maps)
    s, t = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (s, t))
    return np.mean((s - t) ** 2)


@covers(
    "kdlib_at",
    quirk="normalises the whole [C, H, W] block instead of a map summed over channels",
    corrected=_attention_in_numpy,
)
def attention_over_channels(x, h):
    return _squared_attention(nhwc(x["fmap_s"]), nhwc(x["fmap_t"]), h["norm_type"])


@covers("kdzoo_afd")
def channel_attentive(x, h):
    student, teacher = nhwc(x["fmap_s"]), nhwc(x["fmap_t"])
    pooled = jnp.mean(teacher, axis=(1, 2), keepdims=True)
    hidden = jax.nn.relu(torch_ops.convolve(pooled, **torch_ops.weights(x, "attention.0")))
    scores = torch_ops.convolve(hidden, **torch_ops.weights(x, "attention.2"))[:, 0, 0]
    weights = jax.nn.sigmoid(scores)
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    # This project's own eps, not recorded among the hyperparameters.
    values = losses.channel_attentive_distance(student, teacher, weights, epsilon=1e-6)
    return jnp.mean(values)


def _tanh_head_gradient(maps, weight, labels):
    """d z_label / d maps of logits z = mean over positions of tanh(maps), times `weight`."""
    columns = weight.T[labels][:, None, None, :]
    return (1 - jnp.tanh(maps) ** 2) * columns / _positions(maps)


def _gradient_attention_in_numpy(x, h):
    def activation(maps, weight):
        positions = maps.shape[2] * maps.shape[3]
        gradients = (1 - np.tanh(maps) ** 2) * weight[:, x["labels"]].T[:, :, None, None]
        channel = np.mean(gradients / positions, axis=(2, 3))
        out = np.maximum(np.einsum("bc,bchw->bhw", channel, maps), 0).reshape(len(maps), -1)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)

    difference = activation(x["fmap_s"], x["W16_s"]) - activation(x["fmap_t"], x["W16_t"])
    return np.mean(np.abs(difference))


@covers(
    "kdzoo_lwm",
    quirk="weights the gradient by the pooled gradient where Grad-CAM weights the features",
    corrected=_gradient_attention_in_numpy,
)
def gradient_attention(x, h):
    student, teacher = nhwc(x["fmap_s"]), nhwc(x["fmap_t"])
    values = losses.gradient_attention(
        student,
        teacher,
        _tanh_head_gradient(student, x["W16_s"], x["labels"]),
        _tanh_head_gradient(teacher, x["W16_t"], x["labels"]),
    )
    return jnp.mean(values) / _positions(student)


@covers("mmrazor_fbkd_loss_only")
def attention_guided(x, h):
    student, teacher = nhwc(x["fmap_s"]), nhwc(x["fmap_t"])
    spatial_s, spatial_t = (jnp.mean(jnp.abs(a), axis=-1) for a in (student, teacher))
    pooled_s, pooled_t = (jnp.mean(a, axis=(1, 2)) for a in (student, teacher))
    related_s, related_t = (
        jnp.einsum("nhwc,nhwd->ncd", a, a, precision="highest") / _positions(a)
        for a in (student, teacher)
    )
    mask = jax.lax.stop_gradient((spatial_s + spatial_t) / 2)
    # This project takes each root over the whole batch and leaves the channel attention out.
    guided = losses.attention_guided_distance(student, teacher, mask, jnp.ones_like(pooled_s))
    return (
        h["mask_l2"] * jnp.sqrt(jnp.sum(jnp.square(guided)))
        + h["channel"] * _batch_distance(pooled_s, pooled_t)
        + h["spatial"] * _batch_distance(spatial_s, spatial_t)
        + h["nonlocal"] * _batch_distance(related_s, related_t)
    )


def _batch_distance(student, teacher):
    return jnp.sqrt(jnp.sum(losses.feature_hint(student, teacher)) * _size(student))


# Hints: the mean squared difference behind different small networks.


@covers("repdistiller_hint")
def hint(x, h):
    return jnp.mean(losses.feature_hint(x["fmap_s"], x["fmap_t"]))


@covers("keras_feature_mse")
def hint_of_vectors(x, h):
    return jnp.mean(losses.feature_hint(x["logits_s"], x["logits_t"]))


@covers("keras_feature_cosine")
def negative_cosine(x, h):
    return jnp.mean(losses.feature_cosine_distance(x["logits_s"], x["logits_t"]) - 1)


@covers("mmrazor_l2_norm")
def distance_of_unit_maps(x, h):
    return jnp.mean(2 * losses.feature_cosine_distance(x["fmap_s"], x["fmap_t"]))


@covers("rkd_fitnet_vec")
def hint_behind_linear(x, h):
    projected = torch_ops.linear(x["vec_s"], x["param/transform.weight"][:, :, 0, 0])
    return jnp.mean(losses.feature_hint(projected, x["vec_t48"]))


@covers("mdistiller_fitnet_convreg_train")
def hint_behind_regressor(x, h):
    projected = torch_ops.convolve(nhwc(x["fmap_s_c12"]), **torch_ops.weights(x, "conv"))
    projected = torch_ops.batch_norm_in_training(projected, **torch_ops.weights(x, "bn"))
    if h["use_relu"]:
        projected = jax.nn.relu(projected)
    return jnp.mean(losses.feature_hint(projected, nhwc(x["fmap_t_c24"])))


@covers("simkd_mse_eval")
def hint_behind_bottleneck(x, h):
    maps = nhwc(x["fmap_s"])
    for convolution, normalisation in ((0, 1), (3, 4), (6, 7)):
        maps = torch_ops.convolve(maps, **torch_ops.weights(x, f"transfer.{convolution}"))
        maps = torch_ops.batch_norm(maps, **torch_ops.weights(x, f"transfer.{normalisation}"))
        maps = jax.nn.relu(maps)
    return jnp.mean(losses.feature_hint(maps, nhwc(x["fmap_t_c24"])))


@covers("clskd_srrl")
def hint_and_teacher_head(x, h):
    maps = torch_ops.convolve(nhwc(x["fmap_s"]), **torch_ops.weights(x, "Connectors.0"))
    maps = jax.nn.relu(torch_ops.batch_norm(maps, **torch_ops.weights(x, "Connectors.1")))
    student, teacher = jnp.mean(maps, axis=(1, 2)), jnp.mean(nhwc(x["fmap_t_c24"]), axis=(1, 2))
    logits = jnp.matmul(student, x["W24"], precision="highest")
    features = losses.feature_hint(student, teacher)
    return jnp.mean(h["alpha"] * features + h["beta"] * losses.feature_hint(logits, x["logits_t"]))


@covers("semckd_loss")
def hints_of_layer_pairs(x, h):
    first, second = x["fmap_s"], x["g_s1"]
    student = ((first, second), (0.5 * first, 2 * second))
    teacher = (x["fmap_t"], x["g_t1"])
    pairs = [
        [losses.feature_hint(s, t) for s, t in zip(row, teacher, strict=True)] for row in student
    ]
    hints = jnp.stack([jnp.stack(row, axis=-1) for row in pairs], axis=1)
    return jnp.mean(jnp.sum(x["semw"] * hints, axis=2))


@covers("mmrazor_mgd")
def hint_of_generated(x, h):
    # This project sums over the map and weights inside.
    hints = losses.feature_hint(x["fmap_s"], x["fmap_t"])
    return h["alpha_mgd"] * _size(x["fmap_t"]) * jnp.mean(hints)


def _generated(x, kept):
    """The student's map aligned, masked and completed by MGD's generator."""
    maps = torch_ops.convolve(nhwc(x["fmap_s"]), **torch_ops.weights(x, "align")) * kept
    hidden = jax.nn.relu(torch_ops.convolve(maps, **torch_ops.weights(x, "generation.0")))
    return torch_ops.convolve(hidden, **torch_ops.weights(x, "generation.2"))


@covers("clskd_mgd")
def hint_of_masked_channels(x, h):
    kept = nhwc(x["unif_mask"]) >= h["lambda_mgd"]
    teacher = nhwc(x["fmap_t_c24"])
    hints = losses.feature_hint(_generated(x, kept), teacher)
    return h["alpha_mgd"] * _size(teacher) * jnp.mean(hints)


@covers("modelopt_mgd")
def hint_of_masked_positions(x, h):
    kept = nhwc(x["unif_mask_hw"]) <= 1 - h["lambda"]
    hints = losses.feature_hint(_generated(x, kept), nhwc(x["fmap_t_c24"]))
    return h["alpha"] * jnp.mean(hints)


# Hierarchical context, factors, Gaussian likelihoods, powers.


@covers("mdistiller_hcl", "torchdistill_hcl", "reviewkd_authors_hcl")
def hierarchical_context(x, h):
    levels = tuple(h["levels"] if "levels" in h else h["output_sizes"])
    return jnp.mean(_context(nhwc(x["fmap_s"]), nhwc(x["fmap_t"]), levels))


@covers("mdistiller_hcl_multi")
def hierarchical_context_of_stages(x, h):
    return sum(jnp.mean(_context(*pair, tuple(h["levels"]))) for pair in _stages(x))


@covers("mdistiller_reviewkd_abf_eval")
def hierarchical_context_of_fused(x, h):
    residual = torch_ops.resize_nearest(nhwc(x["fmap_s"]), h["shape"], h["shape"])
    maps = torch_ops.convolve(nhwc(x["fmap_s_c12"]), **torch_ops.weights(x, "conv1.0"))
    maps = torch_ops.batch_norm(maps, **torch_ops.weights(x, "conv1.1"))
    both = jnp.concatenate([maps, residual], axis=-1)
    gates = jax.nn.sigmoid(torch_ops.convolve(both, **torch_ops.weights(x, "att_conv.0")))
    fused = maps * gates[..., :1] + residual * gates[..., 1:]
    fused = torch_ops.resize_nearest(fused, h["out_shape"], h["out_shape"])
    fused = torch_ops.convolve(fused, **torch_ops.weights(x, "conv2.0"))
    fused = torch_ops.batch_norm(fused, **torch_ops.weights(x, "conv2.1"))
    return jnp.mean(_context(fused, nhwc(x["fmap_t_c24"]), (4, 2, 1)))


def _context(student, teacher, levels):
    return losses.hierarchical_context(student, teacher, levels=levels)


@covers("torchdistill_ft_l1", "torchdistill_ft_l2", "kdzoo_ft", "mmrazor_ft", "torchdistill_kta_l1")
def factor_transfer(x, h):
    if h.get("p", 1) == 2:
        # The Euclidean distance of unit vectors, in place of the mean absolute difference.
        return jnp.mean(jnp.sqrt(2 * losses.feature_cosine_distance(x["fmap_s"], x["fmap_t"])))
    return jnp.mean(losses.factor_transfer(x["fmap_s"], x["fmap_t"]))


@covers("repdistiller_ft")
def factor_transfer_of_attention(x, h):
    student, teacher = (jnp.mean(x[name] ** h["p1"], axis=1) for name in ("fmap_s", "fmap_t"))
    return jnp.mean(losses.factor_transfer(student, teacher))


def _three_layers(maps, x, prefix):
    """The regressor of VID: three 1x1 convolutions with ReLU between them."""
    maps = jax.nn.relu(torch_ops.convolve(maps, **torch_ops.weights(x, f"{prefix}.0")))
    maps = jax.nn.relu(torch_ops.convolve(maps, **torch_ops.weights(x, f"{prefix}.2")))
    return torch_ops.convolve(maps, **torch_ops.weights(x, f"{prefix}.4"))


@covers("mdistiller_vid", "repdistiller_vid", "kdzoo_vid")
def variational_information(x, h):
    scale = next(x[k] for k in ("param/1.weight", "param/log_scale", "param/alpha") if k in x)
    prefix = "0" if "param/0.0.weight" in x else "regressor"
    log_variance = jnp.log(jax.nn.softplus(scale.reshape(-1)) + h["eps"])
    mean = _three_layers(nhwc(x["fmap_s"]), x, prefix)
    values = losses.variational_information(mean, nhwc(x["fmap_t_c24"]), log_variance)
    return jnp.mean(values)


@covers("torchdistill_vid")
def variational_information_of_vectors(x, h):
    log_variance = jnp.log(jnp.exp(x["log_var"]) + 0.1)
    return jnp.mean(losses.variational_information(x["vec_s"], x["vec_t"], log_variance))


@covers("torchdistill_padl2")
def prime_aware(x, h):
    # Twice the likelihood; this project adds its eps to the variance that divides, not to the log.
    log_variance = jnp.log(jnp.exp(x["log_var"]) + h["eps"])
    values = losses.variational_information(x["vec_s"], x["vec_t"], log_variance)
    return jnp.mean(2 * values) + jnp.mean(x["log_var"] - log_variance)


@covers("torchdistill_srd")
def log_power_and_logits(x, h):
    features = losses.log_power_distance(x["vec_s"], x["vec_t"], exponent=h["exponent"])
    logits = losses.softened_kl_divergence(x["logits_s"], x["logits_t"], temperature=h["T"])
    return 2 * features + jnp.mean(logits)


@covers("srd_authors_rep")
def log_power_of_standardised(x, h):
    student = torch_ops.linear(x["vec_s"], **torch_ops.weights(x, "embed"))
    student, teacher = (
        torch_ops.batch_norm_in_training(v, eps=h["bn_eps"]) for v in (student, x["vec_t48"])
    )
    return losses.log_power_distance(student, teacher, exponent=h["exponent"])


# Activation boundaries and partial distances: sums over neurons, scaled by each project.


@covers("repdistiller_ab", "mmrazor_ab")
def activation_boundary(x, h):
    values = losses.activation_boundary(x["fmap_s"], x["fmap_t"], margin=h["margin"])
    return jnp.mean(values) / 1000 * 3


@covers("repdistiller_ab_multi")
def activation_boundary_of_stages(x, h):
    stages = _stages(x)
    values = [jnp.mean(losses.activation_boundary(*pair, margin=h["margin"])) for pair in stages]
    weights = [2.0 ** (i - len(stages) + 1) for i in range(len(stages))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / 1000 * 3


@covers("torchdistill_dab")
def activation_boundary_of_example(x, h):
    return jnp.mean(losses.activation_boundary(x["fmap_s"], x["fmap_t"], margin=h["margin"]))


@covers("kdzoo_ab")
def activation_boundary_of_neuron(x, h):
    values = losses.activation_boundary(x["fmap_s"], x["fmap_t"], margin=h["margin"])
    return jnp.mean(values) / _size(x["fmap_s"])


def _partial(x):
    margin = x["margin"].reshape(-1)
    return losses.partial_squared_distance(nhwc(x["fmap_s"]), nhwc(x["fmap_t"]), margin)


@covers("mdistiller_ofd_feat")
def partial_distance(x, h):
    return jnp.mean(_partial(x))


@covers("ofd_authors")
def partial_distance_of_batch(x, h):
    return jnp.sum(_partial(x))


@covers("mmrazor_ofd")
def partial_distance_scaled(x, h):
    return jnp.mean(_partial(x)) / h["mul_factor"]


@covers("kdzoo_ofd_eval")
def partial_distance_of_neuron(x, h):
    teacher = nhwc(x["fmap_t"])
    negative = teacher < 0
    margin = jnp.sum(jnp.where(negative, teacher, 0), axis=(0, 1, 2))
    margin = margin / jnp.sum(negative, axis=(0, 1, 2))
    student = torch_ops.convolve(nhwc(x["fmap_s"]), **torch_ops.weights(x, "connector.0"))
    student = torch_ops.batch_norm(student, **torch_ops.weights(x, "connector.1"))
    return jnp.mean(losses.partial_squared_distance(student, teacher, margin)) / _size(teacher)


# Channels, kernels and flow.


@covers("torchdistill_ickd")
def channel_correlation(x, h):
    # This project divides the sum over the batch by C B^2 where the definition has C^2 B.
    values = losses.channel_correlation(nhwc(x["fmap_s"]), nhwc(x["fmap_t"]))
    return jnp.mean(values) * x["fmap_s"].shape[1] / x["fmap_s"].shape[0]


@covers("torchdistill_affinity")
def channel_affinity(x, h):
    return jnp.mean(losses.channel_affinity(nhwc(x["fmap_s"]), nhwc(x["fmap_t"])))


@covers("mmrazor_pkd", "mmrazor_pkd_resize")
def pearson_distance(x, h):
    student = nhwc(x["fmap_s"])
    teacher = nhwc(x["fmap_t_12"] if "fmap_t_12" in x else x["fmap_t"])
    if h.get("resize_stu"):
        student = torch_ops.resize_bilinear(student, *teacher.shape[1:3])
    # This project divides by the unbiased deviation, √(n / (n - 1)) times ours, plus its eps.
    count = student.shape[0] * _positions(student)
    ratio = (count - 1) / count
    epsilon = h.get("eps", 1e-6) * ratio**0.5
    return ratio * jnp.mean(losses.pearson_feature_distance(student, teacher, epsilon=epsilon))


@covers("mdistiller_nst", "mdistiller_nst_c24", "repdistiller_nst", "kdzoo_nst")
def neuron_selectivity(x, h):
    teacher = x["fmap_t_c24"] if "fmap_t_c24" in x else x["fmap_t"]
    return jnp.mean(losses.neuron_selectivity(nhwc(x["fmap_s"]), nhwc(teacher)))


def _flow_pairs(x, pool):
    """(earlier student, earlier teacher, later student, later teacher), pooled to the smaller map."""
    stages = _stages(x)
    for (a_s, a_t), (b_s, b_t) in itertools.pairwise(stages):
        height, width = (min(a_s.shape[i], b_s.shape[i]) for i in (1, 2))
        yield tuple(pool(maps, height, width) for maps in (a_s, a_t, b_s, b_t))


@covers("repdistiller_fsp", "kdzoo_fsp")
def solution_flow(x, h):
    total = 0.0
    for maps in _flow_pairs(x, _maps.adaptive_average_pool):
        entries = maps[0].shape[-1] * maps[2].shape[-1]
        total = total + jnp.mean(losses.solution_flow(*maps)) / entries
    return total


@covers("torchdistill_fsp")
def solution_flow_by_column(x, h):
    # The norm of each column of the difference: the flow into one later channel at a time.
    total = 0.0
    for a_s, a_t, b_s, b_t in _flow_pairs(x, torch_ops.adaptive_max_pool):
        columns = [
            losses.solution_flow(a_s, a_t, b_s[..., i : i + 1], b_t[..., i : i + 1])
            for i in range(b_s.shape[-1])
        ]
        total = total + jnp.mean(sum(jnp.sqrt(column) for column in columns))
    return total


def _singular_flow_in_numpy(x, h):
    rank = h["k"]
    relations = {"s": [], "t": []}
    for stage in _stage_names(x):
        student, teacher = (
            np.moveaxis(x[name], 1, -1).reshape(len(x[name]), -1, x[name].shape[1])
            for name in stage
        )
        found = []
        for s, t in zip(student, teacher, strict=True):
            values, v_t = np.linalg.svd(t, full_matrices=False)[1:]
            v_t = v_t[:rank] * np.where(v_t[:rank].sum(1, keepdims=True) < 0, -1, 1)
            v_s = np.linalg.svd(s, full_matrices=False)[2][: rank + 3]
            cosines = v_s @ v_t.T
            chosen = np.argmax(np.abs(cosines), axis=0)
            v_s = v_s[chosen] * np.sign(cosines[chosen, np.arange(rank)])[:, None]
            scale = (values[:rank] / np.linalg.norm(values[:rank]))[:, None]
            found.append((v_s * scale, v_t * scale))
        relations["s"].append(np.stack([s for s, _ in found]))
        relations["t"].append(np.stack([t for _, t in found]))

    def between(vectors):
        return [
            np.exp(-((later[:, :, :, None] - earlier[:, :, None, :]) ** 2) / 8)
            for earlier, later in itertools.pairwise(vectors)
        ]

    pairs = zip(between(relations["s"]), between(relations["t"]), strict=True)
    return sum(np.sum((s - t) ** 2) / len(s) for s, t in pairs)


def _singular_flow(x, h):
    stages = _stages(x)
    pairs = [(*a, *b) for a, b in itertools.pairwise(stages)]
    return sum(jnp.mean(losses.singular_vector_flow(*maps, rank=h["k"])) for maps in pairs)


covers(
    "mdistiller_kdsvd",
    quirk="takes the vectors of a [C H, W] matrix, with signs and gradients left to the solver",
    corrected=_singular_flow_in_numpy,
)(_singular_flow)
covers(
    "repdistiller_kdsvd",
    quirk="leaves the signs of the vectors and their gradients to the solver",
    corrected=_singular_flow_in_numpy,
)(_singular_flow)


def _stage_names(x):
    return [(f"g_s{i}", f"g_t{i}") for i in range(sum(name.startswith("g_s") for name in x))]


def _stages(x):
    """[(student, teacher)] maps of the recorded stages, channel-last."""
    return [(nhwc(x[s]), nhwc(x[t])) for s, t in _stage_names(x)]


def _positions(maps):
    return maps.shape[1] * maps.shape[2]


def _size(x):
    """Numbers in one example."""
    return x[0].size


# Examples.


def _normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def _features(rng, batch):
    return (_normal(rng, batch, 6), _normal(rng, batch, 6)), {}


def _two_maps(rng, batch):
    return (_normal(rng, batch, 4, 4, 3), _normal(rng, batch, 4, 4, 3)), {}


def _maps_of_two_widths(rng, batch):
    return (_normal(rng, batch, 4, 4, 3), _normal(rng, batch, 4, 4, 5)), {}


def _maps_and_gradients(rng, batch):
    return tuple(_normal(rng, batch, 3, 3, 4) for _ in range(4)), {}


def _maps_of_two_layers(rng, batch):
    earlier = tuple(_normal(rng, batch, 3, 3, 4) for _ in range(2))
    return earlier + tuple(_normal(rng, batch, 3, 3, 5) for _ in range(2)), {}


def _maps_and_channel_attention(rng, batch):
    maps, _ = _two_maps(rng, batch)
    return (*maps, np.abs(_normal(rng, batch, 3))), {}


def _maps_and_attentions(rng, batch):
    maps, _ = _two_maps(rng, batch)
    return (*maps, np.abs(_normal(rng, batch, 4, 4)), np.abs(_normal(rng, batch, 3))), {}


def _maps_and_margin(rng, batch):
    maps, _ = _two_maps(rng, batch)
    return (*maps, -np.abs(_normal(rng, 3))), {}


def _features_and_log_variance(rng, batch):
    features, _ = _features(rng, batch)
    return (*features, _normal(rng, 6)), {}


def _features_of_two_widths_and_gates(rng, batch):
    gates = rng.uniform(0.2, 0.8, 7).astype(np.float32)
    return (_normal(rng, batch, 5), _normal(rng, batch, 7), gates), {}


def _tokens(rng, batch):
    return (_normal(rng, batch, 3, 6), _normal(rng, batch, 3, 6)), {}


EXAMPLES = {
    "activation_boundary": Example(_two_maps, zero_at_teacher=False),
    "attention_guided_distance": Example(_maps_and_attentions),
    "attention_transfer": Example(_two_maps),
    "channel_affinity": Example(_two_maps),
    "channel_attentive_distance": Example(_maps_and_channel_attention),
    "channel_correlation": Example(_two_maps),
    "factor_transfer": Example(_features),
    "feature_cosine_distance": Example(_features),
    "feature_hint": Example(_features),
    # The gradients are the second pair: at equal maps and equal gradients the loss is zero.
    "gradient_attention": Example(_maps_and_gradients, student=(0, 2), teacher=(1, 3)),
    "hierarchical_context": Example(_two_maps),
    "implicit_field_distance": Example(_features),
    "kernel_matching": Example(
        _features_of_two_widths_and_gates, same=False, zero_at_teacher=False
    ),
    "layer_normalised_hint": Example(_tokens, where=lambda batch: (batch, 3)),
    # At equal features the sum inside the logarithm is zero.
    "log_power_distance": Example(_features, zero_at_teacher=False),
    "neuron_selectivity": Example(_maps_of_two_widths, same=False),
    # The teacher's own negative responses below the margin are raised to it.
    "partial_squared_distance": Example(_maps_and_margin, zero_at_teacher=False),
    "pearson_feature_distance": Example(_two_maps),
    "singular_vector_flow": Example(_maps_of_two_layers, student=(0, 2), teacher=(1, 3)),
    "solution_flow": Example(_maps_of_two_layers, student=(0, 2), teacher=(1, 3)),
    "variational_information": Example(_features_and_log_variance, zero_at_teacher=False),
}
