"""Recorded losses on class logits, and on batches of them, computed with kdjax's."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import losses
from tools.references.registry import Example, covers, nhwc


def label_cross_entropy(logits, labels):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def mean_kl(student, teacher, temperature):
    return jnp.mean(losses.softened_kl_divergence(student, teacher, temperature=temperature))


# Knowledge distillation and its sums with the label's cross-entropy.


@covers(
    "mdistiller_kd_T4",
    "mdistiller_kd_T1",
    "lskd_kd_plain_T2",
    "repdistiller_kd_T4",
    "kdzoo_st_T4",
    "modelopt_logits_T4",
)
def softened_kl(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], h["T"])


@covers("mdistiller_kd_T4_big_logits")
def softened_kl_of_big_logits(x, h):
    return mean_kl(x["logits_s_big"], x["logits_t_big"], h["T"])


@covers("mmrazor_kl_T4")
def mmrazor_kl(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], h["tau"])


@covers("bigvision_kl_T4", "bigvision_kl_T1")
def big_vision_kl(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], float(h["t"]))


@covers("keras_logits_KLDivergence_T4")
def keras_kl(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], _keras_temperature(h))


def _corrected_keras(x, h):
    temperature = _keras_temperature(h)
    q, p = (_np_softmax(x[name] / temperature) for name in ("logits_s", "logits_t"))
    return temperature**2 * np.mean(np.sum(p * np.log(p / q), axis=-1))


@covers(
    "keras_logits_kl_T4_default_WRONG",
    quirk="the default takes KL of raw logits over T as if they were probabilities, without T²",
    corrected=_corrected_keras,
)
def keras_default(x, h):
    return keras_kl(x, h)


@covers("modelopt_logits_seq_T2")
def token_kl(x, h):
    return mean_kl(x["tok_s"], x["tok_t"], h["T"])


@covers("cirkd_kd_pixel")
def pixel_kl(x, h):
    return mean_kl(nhwc(x["seg_s"]), nhwc(x["seg_t"]), float(h["T"]))


@covers("mmrazor_kl_seg_T2")
def pixel_kl_sum(x, h):
    student, teacher = nhwc(x["seg_s"]), nhwc(x["seg_t"])
    # They sum over the pixels of a map.
    return mean_kl(student, teacher, h["tau"]) * student.shape[1] * student.shape[2]


@covers("torchdistill_kd_a05_T4")
def torchdistill_kd(x, h):
    hard = label_cross_entropy(x["logits_s"], x["labels"])
    return h["alpha"] * hard + h["beta"] * mean_kl(x["logits_s"], x["logits_t"], h["T"])


@covers("at_authors_distillation")
def weighted_kd(x, h):
    hard = label_cross_entropy(x["logits_s"], x["labels"])
    return h["alpha"] * mean_kl(x["logits_s"], x["logits_t"], h["T"]) + (1 - h["alpha"]) * hard


@covers("kdzoo_dml")
def mutual_learning(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], 1.0)


@covers("kdzoo_dml_both")
def mutual_learning_of_both(x, h):
    one, other = x["logits_s"], x["logits_s_strong"]
    detached = jax.lax.stop_gradient
    return mean_kl(one, detached(other), 1.0) + mean_kl(other, detached(one), 1.0)


@covers("kdzoo_bss_T3", "torchdistill_skd_instance")
def kl_without_square(x, h):
    return mean_kl(x["logits_s"], x["logits_t"], h["T"]) / h["T"] ** 2  # they leave T² out


@covers("kdlib_cskd")
def class_wise_self_distillation(x, h):
    return mean_kl(x["logits_s"], x["logits_s_strong"], h["T"])


@covers("kdlib_self_training")
def self_training(x, h):
    hard = label_cross_entropy(x["logits_s"], x["labels"])
    soft = mean_kl(x["logits_s"], x["logits_t"] / h["T"], 1.0)  # they soften the teacher alone
    return (1 - h["w"]) * hard + h["w"] * soft


# Cross-entropies, squared errors and distances.


@covers("textbrewer_kd_ce_T8", "textbrewer_kd_ce_T4")
def textbrewer_soft_cross_entropy(x, h):
    values = losses.soft_cross_entropy(x["logits_s"], x["logits_t"], temperature=h["T"])
    return jnp.mean(values) / h["T"] ** 2  # they leave T² out


@covers("clskd_kd")
def weighted_soft_cross_entropy(x, h):
    values = losses.soft_cross_entropy(x["logits_s"], x["logits_t"], temperature=h["temp"])
    return h["alpha"] * jnp.mean(values)


@covers("mmrazor_kd_soft_ce_T4")
def mmrazor_soft_cross_entropy(x, h):
    values = losses.soft_cross_entropy(x["logits_s"], x["logits_t"], temperature=h["tau"])
    return jnp.mean(values) / (1.0 if h["mult_tem_square"] else h["tau"] ** 2)


@covers("skds_pixelwise")
def pixel_soft_cross_entropy(x, h):
    student, teacher = nhwc(x["seg_s"]), nhwc(x["seg_t"])
    # They divide by the pixels and sum over the batch.
    return jnp.mean(losses.soft_cross_entropy(student, teacher)) * student.shape[0]


@covers("mmrazor_hard_ce", "bigvision_hard")
def pseudo_label(x, h):
    return jnp.mean(losses.pseudo_label_cross_entropy(x["logits_s"], x["logits_t"]))


@covers("bigvision_hard_ls0.1")
def smoothed_pseudo_label(x, h):
    smoothing, classes = h["ls"], x["logits_s"].shape[-1]
    values = losses.pseudo_label_cross_entropy(
        x["logits_s"], x["logits_t"], label_smoothing=smoothing
    )
    target = np.r_[1 - smoothing, np.full(classes - 1, smoothing / (classes - 1))]
    return jnp.mean(values) + np.sum(target * np.log(target))  # they subtract the target's entropy


@covers("textbrewer_kd_mse_T4")
def softened_squared_error(x, h):
    return jnp.mean(losses.logit_squared_error(x["logits_s"] / h["T"], x["logits_t"] / h["T"]))


@covers("keras_logits_mse_T4")
def keras_squared_error(x, h):
    temperature = _keras_temperature(h)
    return softened_squared_error(x, {"T": temperature})


@covers("kdzoo_logits")
def squared_error(x, h):
    return jnp.mean(losses.logit_squared_error(x["logits_s"], x["logits_t"]))


@covers("bigvision_l2")
def summed_squared_error(x, h):
    return squared_error(x, h) * x["logits_s"].shape[-1]  # they sum over classes


@covers("bigvision_euclidean")
def euclidean(x, h):
    return jnp.mean(losses.logit_distance(x["logits_s"], x["logits_t"]))


@covers("bigvision_logsoftmax_euclidean")
def log_probability_euclidean(x, h):
    student, teacher = jax.nn.log_softmax(x["logits_s"]), jax.nn.log_softmax(x["logits_t"])
    return jnp.mean(losses.logit_distance(student, teacher))


@covers("kdzoo_sobolev")
def sobolev(x, h):
    def gradients(weights):
        def label_logit(pixels, label):
            return (jnp.tanh(pixels) @ weights)[label]

        return jax.vmap(jax.grad(label_logit))(x["x_img"], x["labels"])

    return jnp.mean(losses.jacobian_matching(gradients(x["W_s"]), gradients(x["W_t"])))


# Decoupled, normalised, weighted.


@covers("mdistiller_dkd", "mdistiller_dkd_tckd_only", "mdistiller_dkd_nckd_only")
def decoupled(x, h):
    return _decoupled(x["logits_s"], x["logits_t"], x["labels"], h, h["T"])


@covers("mdistiller_dkd_big_logits_T1")
def decoupled_of_big_logits(x, h):
    return _decoupled(x["logits_s_big"], x["logits_t_big"], x["labels4"], h, h["T"])


@covers("mmrazor_dkd")
def mmrazor_decoupled(x, h):
    return _decoupled(x["logits_s"], x["logits_t"], x["labels"], h, h["tau"])


@covers("clskd_dkd")
def clskd_decoupled(x, h):
    return _decoupled(x["logits_s"], x["logits_t"], x["labels"], h, h["temp"])


@covers("lskd_dkd_stand")
def standardised_decoupled(x, h):
    student, teacher = _standardised(x["logits_s"], x["logits_t"])
    return _decoupled(student, teacher, x["labels"], h, h["T"])


@covers("clskd_nkd", "clskd_nkd_T3")
def normalised(x, h):
    values = losses.normalised_soft_cross_entropy(
        x["logits_s"], x["logits_t"], x["labels"], gamma=h["gamma"], temperature=h["temp"]
    )
    return jnp.mean(values)


@covers("clskd_wsld")
def weighted_soft_labels(x, h):
    values = losses.weighted_soft_label_cross_entropy(
        x["logits_s"], x["logits_t"], x["labels"], temperature=h["temp"]
    )
    return h["alpha"] * jnp.mean(values)


@covers("mmrazor_wsld")
def mmrazor_weighted_soft_labels(x, h):
    return weighted_soft_labels(x, {"temp": h["tau"], "alpha": h["loss_weight"]})


# Standardised logits.


@covers("lskd_kd_stand_T2")
def standardised_kl(x, h):
    return mean_kl(*_standardised(x["logits_s"], x["logits_t"], h["eps"]), h["T"])


@covers("lskd_kd_stand_const_row")
def standardised_kl_of_a_constant_row(x, h):
    return mean_kl(*_standardised(x["logits_s_const"], x["logits_t"], h["eps"]), h["T"])


@covers("torchdistill_logitstd_a0.1")
def standardised_kd(x, h):
    hard = label_cross_entropy(x["logits_s"], x["labels"])
    return h["alpha"] * hard + h["beta"] * standardised_kl(x, h)


# Relations inside the batch.


# Where the authors and mmrazor add this under a covariance, torchdistill only clamps.
EPSILON = 1e-8


@covers("torchdistill_dist_T1", "torchdistill_dist_T4")
def torchdistill_stronger_teacher(x, h):
    return _dist(x["logits_s"], x["logits_t"], h)


@covers("dist_hunto_T1", "dist_hunto_T4_b2", "mmrazor_dist")
def stronger_teacher(x, h):
    h = {"beta": 1.0, "gamma": 1.0, **h}
    return _dist(x["logits_s"], x["logits_t"], h, epsilon=EPSILON)


@covers("dist_hunto_seg")
def dense_stronger_teacher(x, h):
    classes = x["seg_s"].shape[1]
    student, teacher = (nhwc(x[name]).reshape(-1, classes) for name in ("seg_s", "seg_t"))
    h = {"beta": 1.0, "gamma": 1.0, "tau": 1.0, **h}
    return _dist(student, teacher, h, epsilon=EPSILON)


def _corrected_dist_plus(x, h):
    q, p = (_np_softmax(x[name] / h["tau"]) for name in ("logits_s", "logits_t"))
    maps = [np.moveaxis(x[name], 1, -1) for name in ("fmap_s", "fmap_t")]
    channels = [f.reshape(-1, f.shape[-1]) for f in maps]
    places = [f.sum(axis=-1).reshape(f.shape[0], -1).T for f in maps]
    inter, intra = _np_relation(q, p), _np_relation(q.T, p.T)
    return (
        h["tau"] ** 2 * (h["beta"] * inter + h["gamma"] * intra)
        + h["iota"] * _np_relation(*channels)
        + h["kappa"] * _np_relation(*places)
    )


@covers(
    "torchdistill_distplus",
    quirk="adds the channels' correlation instead of 1 - it: equal features cost most",
    corrected=_corrected_dist_plus,
)
def stronger_adaptive_teacher(x, h):
    student, teacher = nhwc(x["fmap_s"]), nhwc(x["fmap_t"])
    return (
        _dist(x["logits_s"], x["logits_t"], h)
        + h["iota"] * jnp.mean(losses.channel_relation(student, teacher))
        + h["kappa"] * jnp.mean(losses.spatial_relation(student, teacher))
    )


@covers("mlkd_bc_T4")
def batch_level(x, h):
    values = losses.batch_level_correlation(x["logits_s"], x["logits_t"], temperature=h["T"])
    return jnp.mean(values)


@covers("mlkd_cc_T4")
def class_level(x, h):
    values = losses.class_level_correlation(x["logits_s"], x["logits_t"], temperature=h["T"])
    return jnp.mean(values)


@covers("torchdistill_skd_direction")
def direction(x, h):
    values = losses.gram_mahalanobis_distance(x["logits_s"], x["logits_t"], tikhonov=h["tikhonov"])
    return jnp.mean(values)


def _corrected_multi_level(x, h):
    """Every term on its own view, and each mask on the axis that it was made for."""
    temperatures = (h["T"], 3.0, 5.0, 2.0, 6.0)
    weak, strong = x["logits_s"], x["logits_s_strong"]
    teacher, teacher_strong = x["logits_t"], x["logits_t_strong"]
    rows = np.arange(len(weak))
    hard = -np.mean(
        np.log(_np_softmax(weak))[rows, x["labels"]]
        + np.log(_np_softmax(strong))[rows, x["labels"]]
    )
    confidence = _np_softmax(teacher)
    unsure = confidence.max(axis=1) <= np.median(confidence.max(axis=1))
    rare = confidence.sum(axis=0) <= np.median(confidence.sum(axis=0))
    normal = _np_standardise if h.get("logit_stand") else np.asarray

    def kl(student, teacher, temperature):
        q, p = (_np_softmax(normal(z) / temperature) for z in (student, teacher))
        return temperature**2 * np.sum(p * np.log(p / q), axis=1)

    total = 0.0
    for temperature in temperatures:
        q, p = _np_softmax(weak / temperature), _np_softmax(teacher / temperature)
        total += np.mean(unsure * kl(weak, teacher, temperature))
        total += np.mean(kl(strong, teacher_strong, temperature))
        total += np.mean(unsure * np.sum((q @ q.T - p @ p.T) ** 2, axis=1))
        total += np.mean(rare * np.sum((q.T @ q - p.T @ p) ** 2, axis=1))
    return h["CE_WEIGHT"] * hard + h["KD_WEIGHT"] * total


@covers(
    "mlkd_full_forward",
    "lskd_mlkd_full_stand",
    quirk="masks scale a batch mean, they choose no rows; T = 2, 6 of the strong view use the weak",
    corrected=_corrected_multi_level,
)
def multi_level(x, h):
    weak, strong = x["logits_s"], x["logits_s_strong"]
    teacher, teacher_strong = x["logits_t"], x["logits_t_strong"]
    confidence = jax.nn.softmax(teacher)
    best, mass = jnp.max(confidence, axis=1), jnp.sum(confidence, axis=0)
    unsure, rare = best <= jnp.median(best), mass <= jnp.median(mass)
    normal = losses.standardise_logits if h.get("logit_stand") else jnp.asarray
    total = 0.0
    for temperature in (h["T"], 3.0, 5.0, 2.0, 6.0):
        rows = losses.softened_kl_divergence(
            normal(weak), normal(teacher), temperature=temperature, where=unsure
        )
        batch = losses.batch_level_correlation(weak, teacher, temperature=temperature)
        classes = losses.class_level_correlation(weak, teacher, temperature=temperature)
        total += jnp.mean(rows) + jnp.mean(jnp.where(unsure, batch, 0))
        total += jnp.mean(jnp.where(rare, classes, 0))
        total += mean_kl(normal(strong), normal(teacher_strong), temperature)
    hard = label_cross_entropy(weak, x["labels"]) + label_cross_entropy(strong, x["labels"])
    return h["CE_WEIGHT"] * hard + h["KD_WEIGHT"] * total


# Without a teacher, with a corrected one, and for generators.


@covers("kdlib_virtual_teacher")
def virtual_teacher(x, h):
    values = losses.virtual_teacher_divergence(
        x["logits_s"], x["labels"], correct_probability=h["correct_prob"], temperature=h["T"]
    )
    hard = label_cross_entropy(x["logits_s"], x["labels"])
    return (1 - h["w"]) * hard + h["w"] * jnp.mean(values)


def _corrected_label_smoothing(x, h):
    student, teacher, labels = x["logits_s"], x["logits_t"], x["labels"]
    rows, classes = np.arange(len(labels)), student.shape[1]
    q, target = _np_softmax(student / h["T"]), _np_softmax(teacher / h["T"])
    wrong = teacher.argmax(axis=1) != labels
    target[wrong] = (1 - h["correct_prob"]) / (classes - 1)
    target[rows[wrong], labels[wrong]] = h["correct_prob"]
    soft = h["T"] ** 2 * np.mean(np.sum(target * np.log(target / q), axis=1))
    hard = -h["T"] * np.mean(np.log(q[rows, labels]))
    return (1 - h["w"]) * hard + h["w"] * soft


@covers(
    "kdlib_lsr",
    quirk="gives the KL the target where its log-prediction belongs, and takes no logarithm",
    corrected=_corrected_label_smoothing,
)
def corrected_teacher(x, h):
    values = losses.corrected_teacher_divergence(
        x["logits_s"],
        x["logits_t"],
        x["labels"],
        correct_probability=h["correct_prob"],
        temperature=h["T"],
    )
    hard = h["T"] * label_cross_entropy(x["logits_s"] / h["T"], x["labels"])
    return (1 - h["w"]) * hard + h["w"] * jnp.mean(values)


@covers("clskd_uskd")
def own_soft_labels(x, h):
    weak = x["vec_s"] @ x["param/fc.weight"].T + x["param/fc.bias"][None]
    values = losses.customised_soft_label_cross_entropy(
        x["logits_s"], weak, x["labels"], alpha=h["alpha"], beta=h["beta"], mu=h["mu"]
    )
    return jnp.mean(values)


@covers("mmrazor_dafl_onehot")
def one_hot(x, h):
    return jnp.mean(losses.one_hot_cross_entropy(x["logits_s"]))


@covers("mmrazor_dafl_entropy")
def information_entropy(x, h):
    return losses.negative_information_entropy(x["logits_s"]) / jnp.log(10.0)  # base 10


@covers("mmrazor_dafl_activation")
def activation(x, h):
    return jnp.mean(losses.negative_activation(nhwc(x["fmap_s"])))


def _decoupled(student, teacher, labels, h, temperature):
    values = losses.decoupled_divergence(
        student, teacher, labels, alpha=h["alpha"], beta=h["beta"], temperature=temperature
    )
    return jnp.mean(values)


def _standardised(student, teacher, epsilon=1e-7):
    return (losses.standardise_logits(logits, epsilon=epsilon) for logits in (student, teacher))


def _dist(student, teacher, h, epsilon=0.0):
    settings = {"temperature": float(h["tau"]), "epsilon": epsilon}
    inter = losses.inter_class_relation(student, teacher, **settings)
    intra = losses.intra_class_relation(student, teacher, **settings)
    return h["beta"] * jnp.mean(inter) + h["gamma"] * jnp.mean(intra)


def _keras_temperature(h):
    """Recorded only in the words of its note."""
    return float(re.search(r"temperature ([\d.]*\d)", h["note"])[1])


def _np_softmax(logits):
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def _np_standardise(logits):
    mean = logits.mean(axis=-1, keepdims=True)
    return (logits - mean) / (logits.std(axis=-1, ddof=1, keepdims=True) + 1e-7)


def _np_relation(a, b):
    """1 - the mean over rows of their Pearson correlation."""
    return 1 - np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(a, b, strict=True)])


CLASSES = 7


def _logits(rng, *shape):
    return (3 * rng.standard_normal(shape)).astype(np.float32)


def _labels(rng, batch):
    return rng.integers(CLASSES, size=batch).astype(np.int32)


def _pair(**keywords):
    def build(rng, batch):
        return (_logits(rng, batch, CLASSES), _logits(rng, batch, CLASSES)), keywords

    return build


def _labelled_pair(**keywords):
    def build(rng, batch):
        pair = (_logits(rng, batch, CLASSES), _logits(rng, batch, CLASSES))
        return (*pair, _labels(rng, batch)), keywords

    return build


def _maps(rng, batch):
    return (_logits(rng, batch, 3, 4, CLASSES), _logits(rng, batch, 3, 4, CLASSES)), {}


def _three(*labels):
    def build(rng, batch):
        rows = tuple(_logits(rng, batch, CLASSES) for _ in range(3))
        return (*rows, *(draw(rng, batch) for draw in labels)), {"temperature": 2.0}

    return build


def _alone(rng, batch):
    return (_logits(rng, batch, CLASSES),), {}


BOTH = (0, 1)
DETACHED = "a weight that is part of the definition passes no gradient"

EXAMPLES = {
    "softened_kl_divergence": Example(_pair(temperature=2.0), classes=BOTH),
    "soft_cross_entropy": Example(_pair(temperature=2.0), classes=BOTH, zero_at_teacher=False),
    "pseudo_label_cross_entropy": Example(
        _pair(label_smoothing=0.1), classes=BOTH, zero_at_teacher=False
    ),
    "logit_squared_error": Example(_pair(), classes=BOTH),
    "logit_absolute_error": Example(_pair(), classes=BOTH),
    "logit_distance": Example(_pair(), classes=BOTH),
    "target_class_divergence": Example(_labelled_pair(temperature=2.0), classes=BOTH),
    "non_target_class_divergence": Example(_labelled_pair(temperature=2.0), classes=BOTH),
    "decoupled_divergence": Example(_labelled_pair(), classes=BOTH),
    "normalised_soft_cross_entropy": Example(
        _labelled_pair(temperature=2.0), classes=BOTH, zero_at_teacher=False
    ),
    "label_log_probability_error": Example(
        lambda rng, batch: (
            (
                _logits(rng, batch, CLASSES),
                -np.abs(_logits(rng, batch)),
                _labels(rng, batch),
            ),
            {},
        ),
        classes=(0,),
        same=False,
        zero_at_teacher=False,
    ),
    "jacobian_matching": Example(
        lambda rng, batch: ((_logits(rng, batch, 3, 4), _logits(rng, batch, 3, 4)), {})
    ),
    "standardise_logits": Example(
        _alone,
        teacher=(),
        classes=(0,),
        same=False,
        zero_at_teacher=False,
        where=None,
        skip={
            "infinite_both": "the result is logits, and -inf stays",
            "infinite_student": "the result is logits, and -inf stays",
        },
    ),
    "probability_shift": Example(
        lambda rng, batch: ((_logits(rng, batch, CLASSES), _labels(rng, batch)), {}),
        teacher=(),
        same=False,
        zero_at_teacher=False,
        where=None,
    ),
    "permute_other_classes": Example(
        lambda rng, batch: (
            (
                _logits(rng, batch, CLASSES),
                rng.uniform(size=(batch, CLASSES)).astype(np.float32),
            ),
            {},
        ),
        teacher=(),
        same=False,
        zero_at_teacher=False,
        where=None,
    ),
    "aggregate_views": Example(
        lambda rng, batch: ((_logits(rng, batch, 4, 4, CLASSES),), {}),
        teacher=(),
        same=False,
        zero_at_teacher=False,
        where=None,
    ),
    "inter_class_relation": Example(_pair(temperature=2.0), classes=BOTH),
    "intra_class_relation": Example(_pair(temperature=2.0), classes=BOTH),
    "channel_relation": Example(_maps, where=lambda batch: (batch, 3, 4)),
    "spatial_relation": Example(_maps),
    "batch_level_correlation": Example(_pair(temperature=2.0), classes=BOTH),
    "class_level_correlation": Example(_pair(temperature=2.0), classes=BOTH),
    "gram_mahalanobis_distance": Example(_pair(tikhonov=0.1), classes=BOTH),
    "one_hot_cross_entropy": Example(
        _alone, teacher=(), classes=(0,), same=False, zero_at_teacher=False
    ),
    "negative_information_entropy": Example(
        _alone, teacher=(), classes=(0,), same=False, zero_at_teacher=False
    ),
    "negative_activation": Example(
        lambda rng, batch: ((_logits(rng, batch, 3, 4, 5),), {}),
        teacher=(),
        same=False,
        zero_at_teacher=False,
    ),
    "virtual_teacher_divergence": Example(
        lambda rng, batch: ((_logits(rng, batch, CLASSES), _labels(rng, batch)), {}),
        teacher=(),
        classes=(0,),
        same=False,
        zero_at_teacher=False,
    ),
    "corrected_teacher_divergence": Example(
        _labelled_pair(temperature=4.0), classes=BOTH, zero_at_teacher=False
    ),
    "customised_soft_label_cross_entropy": Example(
        _labelled_pair(),
        student=BOTH,
        teacher=(),
        classes=BOTH,
        same=False,
        zero_at_teacher=False,
        not_derivative=DETACHED,
    ),
    "guided_squared_error": Example(_labelled_pair(), classes=BOTH, zero_at_teacher=False),
    "weighted_soft_label_cross_entropy": Example(
        _labelled_pair(), classes=BOTH, zero_at_teacher=False, not_derivative=DETACHED
    ),
    "confidence_weighted_cross_entropy": Example(
        _labelled_pair(), classes=BOTH, zero_at_teacher=False
    ),
    "average_precision_weighted_divergence": Example(
        _labelled_pair(k=4, tolerance=1), classes=BOTH
    ),
    "weighted_teachers_divergence": Example(
        lambda rng, batch: (
            (
                _logits(rng, batch, CLASSES),
                _logits(rng, batch, 3, CLASSES),
                rng.uniform(size=(batch, 3)).astype(np.float32),
            ),
            {"temperature": 2.0},
        ),
        classes=BOTH,
        same=False,
        zero_at_teacher=False,
    ),
    "partitioned_divergence": Example(
        _three(), teacher=(1, 2), classes=(0, 1, 2), same=False, zero_at_teacher=False
    ),
    "labelled_partitioned_divergence": Example(
        _three(_labels), teacher=(1, 2), classes=(0, 1, 2), same=False, zero_at_teacher=False
    ),
    "entropy_weighted_divergence": Example(_pair(), classes=BOTH),
    "reliable_peer_divergence": Example(_labelled_pair(), classes=BOTH),
    "hardest_negative_divergence": Example(
        lambda rng, batch: (
            (
                _logits(rng, batch, CLASSES),
                _logits(rng, batch, 3, CLASSES),
                _labels(rng, batch),
            ),
            {},
        ),
        classes=BOTH,
        same=False,
        zero_at_teacher=False,
    ),
    "fused_spatial_divergence": Example(
        lambda rng, batch: (
            (*_maps(rng, batch)[0], _logits(rng, batch, CLASSES)),
            {"spatial_share": 0.3},
        ),
        teacher=(1, 2),
        classes=(0, 1, 2),
        same=False,
        zero_at_teacher=False,
        where=lambda batch: (batch, 3, 4),
    ),
    "centred_cross_entropy": Example(
        lambda rng, batch: (
            (_logits(rng, batch, CLASSES), _logits(rng, batch, CLASSES), _logits(rng, CLASSES)),
            {},
        ),
        classes=(0, 1, 2),
        zero_at_teacher=False,
    ),
}
