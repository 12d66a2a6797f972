"""Recorded relational and contrastive losses, computed with kdjax."""

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import losses
from kdjax.losses import similarity
from tools.references.registry import Example, covers, nhwc


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def pair(x):
    """Student and teacher of an entry that records one array of each, by the end of its name."""
    student = next(value for name, value in x.items() if "_s" in name)
    return student, next(value for name, value in x.items() if "_t" in name)


@covers("rkd_distance", "rkd_distance_d48")
def relational_distance(x, h):
    return jnp.mean(losses.relational_distance(*pair(x)))


@covers("rkd_angle", "rkd_angle_d48")
def relational_angle(x, h):
    return jnp.mean(losses.relational_angle(*pair(x)))


@covers("mmrazor_rkd_distance_l2n")
def relational_distance_of_unit_rows(x, h):
    s, t = (unit(x) if h["with_l2_norm"] else x for x in pair(x))
    return h["loss_weight"] * jnp.mean(losses.relational_distance(s, t))


@covers("mmrazor_rkd_angle_l2n")
def relational_angle_of_unit_rows(x, h):
    s, t = (unit(x) if h["with_l2_norm"] else x for x in pair(x))
    return h["loss_weight"] * jnp.mean(losses.relational_angle(s, t))


@covers(
    "mdistiller_rkd_25_50",
    "mdistiller_rkd_d48",
    "mdistiller_rkd_duplicate_rows",
    "repdistiller_rkd_25_50",
    "torchdistill_rkd_25_50",
    "kdzoo_rkd_25_50",
    "kdlib_rkd_half",
)
def both_relational(x, h):
    # Every project has its own names for the two weights.
    w_d = next(
        w for name, w in h.items() if "d" in name and "ang" not in name and name != "squared"
    )
    w_a = next(w for name, w in h.items() if name == "w_a" or "ang" in name)
    distance, angle = losses.relational_distance(*pair(x)), losses.relational_angle(*pair(x))
    return w_d * jnp.mean(distance) + w_a * jnp.mean(angle)


@covers("rkd_hard_darkrank")
def rank_likelihood(x, h):
    return jnp.mean(
        losses.rank_likelihood(*pair(x), scale=h["alpha"], power=h["beta"], length=h["permute_len"])
    )


@covers(
    "mdistiller_pkt",
    "mdistiller_pkt_d48",
    "repdistiller_pkt",
    "torchdistill_pkt",
    "kdzoo_pkt",
    "pkt_authors",
)
def probabilistic_affinity(x, h):
    return jnp.mean(losses.probabilistic_affinity(*pair(x), epsilon=h["eps"]))


@covers("mdistiller_sp", "mdistiller_sp_c24", "repdistiller_sp", "kdzoo_sp")
def similarity_preserving(x, h):
    s, t = pair(x)
    return jnp.mean(losses.similarity_preserving(nhwc(s), nhwc(t)))


def similarity_preserving_in_numpy(x, h):
    grams = []
    for maps in pair(x):
        rows = np.reshape(np.asarray(maps, np.float64), (len(maps), -1))
        gram = rows @ rows.T
        grams.append(gram / np.sqrt(np.sum(gram**2, axis=1, keepdims=True)))
    return np.mean((grams[0] - grams[1]) ** 2)


covers(
    "torchdistill_spkd",
    quirk="divides the rows of the Gram matrix by their L1 norm; the paper and three others by L2",
    corrected=similarity_preserving_in_numpy,
)(similarity_preserving)


@covers("kdzoo_cc")
def correlation_congruence(x, h):
    s, t = (unit(x) for x in pair(x))
    return jnp.mean(losses.correlation_congruence(s, t, gamma=h["gamma"], order=h["P_order"]))


@covers("torchdistill_cckd_gauss")
def correlation_congruence_by_norm(x, h):
    s, t = pair(x)
    values = losses.correlation_congruence(s, t, gamma=h["gamma"], order=h["max_p"])
    # The Frobenius norm over B², where the paper has the squared norm over B².
    return jnp.sqrt(s.shape[0] * jnp.sum(values)) / s.shape[0] ** 2


@covers("torchdistill_cckd_bilinear")
def bilinear_congruence_by_norm(x, h):
    s, t = pair(x)
    values = losses.correlation_congruence(s, t, gamma=0.5, order=1)
    # Order 1 is the bilinear kernel times 2γ exp(-2γ), which is 1 / e at γ = 0.5.
    return jnp.e * jnp.sqrt(s.shape[0] * jnp.sum(values)) / s.shape[0] ** 2


@covers("repdistiller_cc")
def consecutive_discrepancy(x, h):
    return jnp.mean(losses.consecutive_discrepancy(*pair(x)))


def change_between(first, second):
    """Later map minus earlier, the earlier pooled to its size, the later's channels meant in pairs."""
    first, second = nhwc(first), nhwc(second)
    size, height, width, channels = first.shape
    rows, columns = second.shape[1:3]
    blocks = first.reshape(size, rows, height // rows, columns, width // columns, channels)
    pooled = jnp.mean(blocks, axis=(2, 4))
    if channels < second.shape[-1]:
        second = (second[..., 0::2] + second[..., 1::2]) / 2
    return second - pooled


@covers("kdzoo_irg")
def instance_graph(x, h):
    vertices = losses.feature_hint(x["logits_s"], x["logits_t"])
    edges = [
        losses.instance_graph_edges(x["vec_s"], x["vec_t"]),
        losses.instance_graph_edges(nhwc(x["g_s0"]), nhwc(x["g_t0"])),
        losses.instance_graph_edges(nhwc(x["g_s1"]), nhwc(x["g_t1"])),
    ]
    transformation = losses.instance_graph_transformation(
        change_between(x["g_s0"], x["g_s1"]), change_between(x["g_t0"], x["g_t1"])
    )
    return (
        h["w_vert"] * jnp.mean(vertices)
        + h["w_edge"] * jnp.mean(jnp.stack(edges))
        + h["w_tran"] * jnp.mean(transformation)
    )


@covers("repdistiller_crd", "mdistiller_crd", "torchdistill_crd", "kdzoo_crd", "mmrazor_crd")
def contrastive_representation(x, h):
    def one_direction(anchors, bank):
        drawn = bank[x["crd_contrast_idx"]]
        dots = jnp.einsum("bd,bkd->bk", anchors, drawn, precision=jax.lax.Precision.HIGHEST)
        # The first step sets Z from its own scores and holds it constant.
        total = jnp.mean(jnp.exp(jax.lax.stop_gradient(dots) / h["nce_t"])) * h["n_data"]
        # An epsilon is added to the noise K / M in the denominators alone: M changes and, for each of
        # the K numerators, a constant is left over.
        noise = h["nce_k"] / h["n_data"]
        values = losses.noise_contrastive_estimation(
            anchors,
            drawn,
            population=h["nce_k"] / (noise + h["eps"]),
            log_normaliser=jnp.log(total),
            temperature=h["nce_t"],
        )
        return jnp.mean(values) + h["nce_k"] * np.log1p(h["eps"] / noise)

    student = one_direction(x["emb_s"], x["crd_mem_v2"])
    return student + one_direction(x["emb_t"], x["crd_mem_v1"])


def split_groups(rows):
    """(originals, transformed) of rows that come as one original and its three transformations."""
    original = np.arange(rows.shape[0]) % 4 == 0
    return rows[original], rows[~original]


def owners_of(transformed):
    return np.arange(transformed.shape[0]) // 3


@covers("torchdistill_auxsskd")
def find_the_original(x, h):
    originals, transformed = split_groups(x["ss_s"])
    owners = owners_of(transformed)
    return jnp.mean(losses.candidate_contrast(transformed, originals, owners, temperature=1.0))


@covers("torchdistill_sskd")
def self_supervised(x, h):
    originals_s, transformed_s = split_groups(x["logits_s"])
    originals_t, transformed_t = split_groups(x["logits_t"])
    heads_s, heads_t = split_groups(x["ss_s"]), split_groups(x["ss_t"])
    owners = owners_of(transformed_s)
    labels = x["labels2"]

    def mean_over(kept, values):
        return jnp.sum(jnp.where(kept, values, 0)) / jnp.sum(kept)

    log_probs = jax.nn.log_softmax(originals_s)
    cross_entropy = -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))
    distilled = jnp.mean(
        losses.softened_kl_divergence(originals_s, originals_t, temperature=h["kl_temp"])
    )
    scores = unit(heads_t[1]) @ unit(heads_t[0]).T
    kept = similarity.least_wrong(scores, owners, fraction=h["ss_ratio"])
    matched = mean_over(
        kept,
        losses.self_supervised_similarity(
            heads_s[1], heads_t[1], heads_s[0], heads_t[0], temperature=h["ss_temp"]
        ),
    )
    kept = similarity.least_wrong(transformed_t, labels[owners], fraction=h["tf_ratio"])
    transferred = mean_over(
        kept,
        losses.softened_kl_divergence(transformed_s, transformed_t, temperature=h["tf_temp"]),
    )
    terms = (cross_entropy, distilled, matched, transferred)
    return sum(weight * term for weight, term in zip(h["loss_weights"], terms, strict=True))


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def unit_rows(rng, *shape):
    rows = normal(rng, *shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embeddings(student_width, teacher_width, make=normal, **keywords):
    """A builder of student and teacher embeddings of one batch."""

    def build(rng, batch):
        arrays = make(rng, batch, student_width), make(rng, batch, teacher_width)
        return arrays, keywords

    return build


def maps(rng, batch):
    return (normal(rng, batch, 3, 3, 4), normal(rng, batch, 3, 3, 4)), {}


def tokens(rng, batch):
    return (normal(rng, batch, 5, 6), normal(rng, batch, 5, 6)), {}


def squares(rng, batch):
    return (normal(rng, batch, batch), normal(rng, batch, batch)), {}


def labelled(rng, batch):
    return (normal(rng, batch, 6), rng.integers(0, 3, batch).astype(np.int32)), {"temperature": 0.5}


def softly_labelled(rng, batch):
    targets = rng.dirichlet(np.ones(4), batch).astype(np.float32)
    return (normal(rng, batch, 6), targets), {"temperature": 0.5}


def categorised(rng, batch):
    categories = rng.integers(0, 2, batch).astype(np.int32)
    owners = (np.arange(batch) // 2).astype(np.int32)
    arrays = normal(rng, batch, 6), normal(rng, batch, 6), categories, owners
    return arrays, {"temperature": 0.5}


def with_candidates(rng, batch):
    positives = rng.integers(0, 5, batch).astype(np.int32)
    return (normal(rng, batch, 6), normal(rng, 5, 6), positives), {"temperature": 0.5}


def drawn_candidates(rng, batch):
    arrays = unit_rows(rng, batch, 6), unit_rows(rng, batch, 5, 6)
    return arrays, {"population": 40, "log_normaliser": 4.0, "temperature": 0.5}


def queued(rng, batch):
    arrays = normal(rng, batch, 6), normal(rng, batch, 6), normal(rng, 5, 6)
    return arrays, {"student_temperature": 0.5, "teacher_temperature": 0.5}


def anchored(rng, batch):
    arrays = normal(rng, batch, 6), normal(rng, batch, 6), normal(rng, 5, 6), normal(rng, 5, 6)
    return arrays, {"student_temperature": 0.5, "teacher_temperature": 0.5}


def crossed(rng, batch):
    arrays = tuple(normal(rng, batch, 6) for _ in range(4))
    return arrays, {"student_temperature": 0.5, "teacher_temperature": 0.5}


def transformed(rng, batch):
    # Two transformations of each original.
    arrays = tuple(normal(rng, rows * batch, 6) for rows in (2, 2, 1, 1))
    return arrays, {"temperature": 0.5}


def triplets(rng, batch):
    return tuple(normal(rng, batch, 6) for _ in range(3)), {}


KINK = "the maximum and the hinge have kinks"

EXAMPLES = {
    "relational_distance": Example(embeddings(6, 6)),
    "relational_angle": Example(embeddings(6, 6)),
    "similarity_preserving": Example(maps),
    "probabilistic_affinity": Example(embeddings(6, 6)),
    "correlation_congruence": Example(embeddings(6, 6, unit_rows)),
    "consecutive_discrepancy": Example(
        embeddings(6, 6), where=lambda batch: (batch - 1,), permutes=False
    ),
    "instance_graph_edges": Example(maps),
    "instance_graph_transformation": Example(maps),
    "neighbour_graph_divergence": Example(embeddings(6, 6, neighbours=3)),
    "relation_cosine": Example(tokens),
    "contextual_similarity": Example(tokens),
    "rank_likelihood": Example(embeddings(4, 4, length=3), zero_at_teacher=False),
    "listwise_likelihood": Example(
        embeddings(5, 5, length=3), classes=(0, 1), zero_at_teacher=False
    ),
    "listwise_divergence": Example(embeddings(5, 5), classes=(0, 1)),
    "info_nce": Example(embeddings(6, 6, temperature=0.5), zero_at_teacher=False),
    "symmetric_info_nce": Example(embeddings(6, 6, temperature=0.5), zero_at_teacher=False),
    "two_view_contrast": Example(embeddings(6, 6), zero_at_teacher=False),
    "supervised_contrast": Example(labelled, teacher=(), same=False, zero_at_teacher=False),
    "soft_supervised_contrast": Example(softly_labelled, same=False, zero_at_teacher=False),
    "categorised_contrast": Example(categorised, zero_at_teacher=False),
    "candidate_contrast": Example(with_candidates, same=False, zero_at_teacher=False),
    "noise_contrastive_estimation": Example(drawn_candidates, same=False, zero_at_teacher=False),
    "transported_cost": Example(
        embeddings(6, 6, iterations=20),
        zero_at_teacher=False,
        not_derivative="the transport plan is held constant",
    ),
    "queue_similarity": Example(queued),
    "anchor_similarity": Example(anchored, student=(0, 2), teacher=(1, 3)),
    "neighbour_similarity": Example(
        embeddings(6, 6, student_temperature=0.5, teacher_temperature=0.5)
    ),
    "cross_modal_affinity": Example(crossed, student=(0, 2), teacher=(1, 3)),
    "self_supervised_similarity": Example(
        transformed,
        student=(0, 2),
        teacher=(1, 3),
        where=lambda batch: (2 * batch,),
        permutes=False,
    ),
    "relative_boosting": Example(
        squares, zero_at_teacher=False, permutes=False, not_derivative=KINK
    ),
    "absolute_boosting": Example(
        squares, zero_at_teacher=False, permutes=False, not_derivative=KINK
    ),
    "triplet_margin": Example(
        triplets, teacher=(1, 2), same=False, zero_at_teacher=False, not_derivative=KINK
    ),
    "triplet_preference": Example(triplets, teacher=(1, 2), same=False, zero_at_teacher=False),
}
