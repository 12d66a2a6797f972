"""Adapters for the recorded token-level divergences, language-model objectives and their schedules.

Conventions of the other projects that are applied here, each in its own line: labels of -100 are
left out, a loss is a sum over tokens or a mean over the kept ones, cross entropy stands for forward
KL (the teacher's entropy is not subtracted), and there is no factor T² unless said.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import losses
from kdjax.losses import divergences, sequence
from tools.references.registry import Example, covers

IGNORED = -100


def kept(x):
    """[B, L] boolean of the entry's mask, or of its labels."""
    return x["mask"] > 0 if "mask" in x else x["labels"] != IGNORED


def token_mean(values, where=None):
    """The mean over the kept tokens."""
    total, count = losses.total_and_count(values, where)
    return total / count


def both(x):
    return x["student_logits"], x["teacher_logits"]


def teacher_entropy(x, where, temperature=1.0):
    """[B, L] the part of a cross entropy that a KL does not have."""
    values = divergences.entropy_of_log_probs(jax.nn.log_softmax(x["teacher_logits"] / temperature))
    return jnp.where(where, values, 0)


def hard(logits, labels, where):
    """[...] cross entropy with the labels that `where` keeps."""
    labels = jnp.where(where, labels, 0)
    return losses.token_negative_log_likelihood(logits, labels, where=where)


def jensen_shannon(student_logits, teacher_logits, where, beta, temperature=1.0):
    """The divergence of GKD as TRL and Liger have it: without the factor T²."""
    values = losses.generalized_jensen_shannon_divergence(
        student_logits, teacher_logits, beta=beta, temperature=temperature, where=where
    )
    return values / temperature**2


# TRL: GKD, its server form, its chunked form; Liger's fused and plain forms.


@covers(
    *(f"trl_gkd_b{beta}_T{t}" for beta in (0.0, 0.1, 0.5, 0.9, 1.0) for t in (1.0, 2.0)),
    "trl_gkd_b0.5_T1.0_sum",
    "trl_gkd_b0.5_T1.0_mean",
    "trl_gkd_b0.5_items20",
)
def trl_gkd(x, h):
    s, t = both(x)
    values = jensen_shannon(s, t, kept(x), h["beta"], h.get("temperature", 1.0))
    total, count = losses.total_and_count(values, kept(x))
    classes = s.shape[-1]
    denominators = {"batchmean": count, "sum": 1, "mean": count * classes}
    return total / h.get("num_items_in_batch", denominators[h.get("reduction", "batchmean")])


@covers(*(f"trl_gkd_jsd_beta{beta}" for beta in (0.0, 0.1, 0.5, 0.9, 1.0)))
def trl_gkd_jsd(x, h):
    where = x["tok_lab"] != h["ignore_index"]
    return token_mean(jensen_shannon(x["tok_s"], x["tok_t"], where, h["beta"], h["T"]), where)


def projected(x, side, scale=1.0, softcap=None):
    """Logits of a hidden state and its head, scaled, then softly capped."""
    logits = scale * jnp.matmul(x[f"{side}_hidden"], x[f"{side}_head"].T, precision="highest")
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)


@covers(
    *(f"trl116_chunked_b{beta}_T{t}" for beta in (0.0, 0.1, 0.5, 0.9, 1.0) for t in (1.0, 2.0)),
    "trl116_chunked_b0.5_softcap3_scale0.5_items20",
)
def trl_chunked(x, h):
    where = kept(x).reshape(-1)
    s = projected(x, "student", h.get("student_logit_scale", 1.0), _cap(h, "student"))
    t = projected(x, "teacher", h.get("teacher_logit_scale", 1.0), _cap(h, "teacher"))
    values = jensen_shannon(s, t, where, h["beta"], h["temperature"])
    total, count = losses.total_and_count(values, where)
    log_q = jax.nn.log_softmax(s / h["temperature"])
    entropy = jnp.sum(jnp.where(where, divergences.entropy_of_log_probs(log_q), 0))
    return {"value": total / h.get("num_items_in_batch", count), "entropy_sum": entropy}


def _cap(h, side):
    return h.get(f"{side}_final_logit_softcapping")


@covers(
    *(
        f"liger_fljsd_b{beta}_{kind}_c{chunk}"
        for beta in (0.0, 0.5, 0.9, 1.0)
        for kind in ("T1.0_h0.5", "T2.0_h0.0")
        for chunk in (4, 1024)
    ),
    *(
        f"liger_unfused_jsd_b{beta}_{kind}"
        for beta in (0.0, 0.5, 0.9, 1.0)
        for kind in ("T1.0_h0.5", "T2.0_h0.0")
    ),
)
def liger_jsd(x, h):
    s, t, labels = projected(x, "student"), projected(x, "teacher"), x["labels"].reshape(-1)
    where = labels != IGNORED
    soft = token_mean(jensen_shannon(s, t, where, h["beta"], h["temperature"]), where)
    cross_entropy = token_mean(hard(s, labels, where), where)
    return h["weight_hard_loss"] * cross_entropy + h["weight_soft_loss"] * soft


@covers(*(f"liger_torch_jsd_b{beta}" for beta in (0.0, 0.5, 0.9, 1.0)))
def liger_torch_jsd(x, h):
    return token_mean(jensen_shannon(*both(x), kept(x), h["beta"]), kept(x))


@covers("liger_torch_tvd")
def liger_torch_tvd(x, h):
    values = losses.total_variation_distance(*both(x), where=kept(x))
    return token_mean(values, kept(x))


def _liger_cosine_corrected(x, h):
    s = x["student_hidden"] @ x["student_head"].T
    t = x["teacher_hidden"] @ x["teacher_head"].T
    labels = x["labels"].reshape(-1)
    rows = np.flatnonzero(labels != IGNORED)
    s, t, labels = s[rows], t[rows], labels[rows]
    norms = np.sqrt((s**2).sum(1) * (t**2).sum(1))
    soft = np.mean(1 - (s * t).sum(1) / norms)
    cross_entropy = -np.mean(_log_softmax(s)[np.arange(len(rows)), labels])
    return h["weight_hard_loss"] * cross_entropy + h["weight_soft_loss"] * COSINE_BETA * soft


# The default of the other project's module, which the entry names instead of the number.
COSINE_BETA = 0.5


@covers(
    "liger_flcos_b1",
    quirk="sums the cosine distances of masked tokens too, and divides by the kept ones",
    corrected=_liger_cosine_corrected,
)
def liger_cosine(x, h):
    s, t, labels = projected(x, "student"), projected(x, "teacher"), x["labels"].reshape(-1)
    where = labels != IGNORED
    soft = token_mean(losses.logit_cosine_distance(s, t, where=where), where)
    cross_entropy = token_mean(hard(s, labels, where), where)
    return h["weight_hard_loss"] * cross_entropy + h["weight_soft_loss"] * COSINE_BETA * soft


# MiniLLM in TRL.


@covers("trl_minillm_single_step")
def minillm_single_step(x, h):
    temperature = h["temperature"]
    values = losses.reverse_kl_divergence(*both(x), temperature=temperature, where=kept(x))
    return token_mean(values, kept(x)) / temperature**2


@covers(
    *(f"trl_minillm_advantage_{kind}" for kind in ("g0.0_ln0", "g0.9_ln1", "g1.0_ln1", "g0.9_ln0"))
)
def minillm_advantage(x, h):
    where, discount = kept(x), h["gamma"]
    log_q, log_p = (sequence.token_log_probs(logits, x["tokens"]) for logits in both(x))
    advantages = sequence.reverse_kl_returns(log_q, log_p, discount=discount, where=where)
    if discount > 0 and h["length_normalization"]:
        # TRL counts discounted tokens, and a masked one as 1e-4 of a token.
        lengths = jnp.where(where, 1.0, 1e-4).astype(advantages.dtype)
        advantages = advantages / sequence.discounted_returns(lengths, discount=discount)
    elif discount > 0:
        # TRL discounts by the absolute position.
        advantages = advantages * discount ** jnp.arange(advantages.shape[1])[None]
    return {"value": jnp.sum(advantages), "advantages": advantages}


# DistiLLM, torchtune, TAID's repository: masked means, cross entropy for forward KL.


@covers("distillm_forward_kl", "taid_repo_fkl", "torchtune_ForwardKLLoss")
@covers("torchtune_ForwardKLWithChunkedOutputLoss")
def forward_cross_entropy(x, h):
    where = kept(x)
    values = losses.softened_kl_divergence(*both(x), where=where)
    return token_mean(values + teacher_entropy(x, where), where)


@covers("distillm_reverse_kl", "taid_repo_rkl", "torchtune_ReverseKLLoss")
def reverse_kl(x, h):
    return token_mean(losses.reverse_kl_divergence(*both(x), where=kept(x)), kept(x))


@covers("distillm_symmetric_kl_lam0.9", "distillm_symmetric_kl_lam0.5", "torchtune_SymmetricKLLoss")
def symmetric_kl(x, h):
    # torchtune's ratio is the share of the forward direction.
    weight = 1 - h["sym_kd_ratio"] if "sym_kd_ratio" in h else h["lam"]
    where = kept(x)
    values = losses.symmetric_kl_divergence(*both(x), weight=weight, where=where)
    return token_mean(values + (1 - weight) * teacher_entropy(x, where), where)


@covers(*(f"distillm_js_distance_lam{share}" for share in (0.1, 0.5, 0.9)))
@covers("taid_repo_js_tw0.1", "taid_repo_js_tw0.5")
def weighted_jensen_shannon(x, h):
    # DistiLLM's λ is the student's share of the mixture, TAID's weight the teacher's.
    beta = 1 - h["lam"] if "lam" in h else h["teacher_weight"]
    return token_mean(jensen_shannon(*both(x), kept(x), beta), kept(x))


@covers("distillm_tv_distance", "taid_repo_tvd")
def total_variation(x, h):
    return token_mean(losses.total_variation_distance(*both(x), where=kept(x)), kept(x))


@covers("distillm_skewed_forward_kl_lam0.1", "distillm_skewed_forward_kl_lam0.5")
@covers("taid_repo_skew_fkl0.1")
def skew_cross_entropy(x, h):
    where, skew = kept(x), h.get("lam", h.get("target_weight"))
    values = losses.skew_kl_divergence(*both(x), skew=skew, where=where)
    return token_mean(values + teacher_entropy(x, where), where)


@covers("distillm_skewed_reverse_kl_lam0.1", "distillm_skewed_reverse_kl_lam0.5")
@covers("taid_repo_skew_rkl0.1")
def skew_reverse_kl(x, h):
    where, skew = kept(x), h.get("lam", h.get("target_weight"))
    return token_mean(losses.skew_reverse_kl_divergence(*both(x), skew=skew, where=where), where)


def _distillm2(kinds, position):
    names = [f"distillm2_{kind}_{position}_{end}" for kind in kinds for end in ("sum", "avg")]

    def compute(x, h):
        labels = x["labels"][:, 1:]
        where = labels != IGNORED
        s, t = (logits[:, :-1] for logits in both(x))
        log_q, log_p = (
            jax.nn.log_softmax(jnp.where(where[..., None], logits, 0)) for logits in (s, t)
        )
        if h["loss_type"] == "gkd":
            # The project's GKD baseline mixes nine parts of the teacher with one of the student.
            of_teacher = of_student = jensen_shannon(s, t, where, 0.9)
        else:
            of_teacher = losses.skew_kl_divergence(s, t, skew=h["base_alpha_1"], where=where)
            # Unlike the first version the student is a constant inside the mixture.
            log_m = divergences.log_mixture(
                jax.lax.stop_gradient(log_q), log_p, weight=h["base_alpha_2"]
            )
            of_student = jnp.where(where, divergences.reverse_kl_of_log_probs(log_q, log_m), 0)
        likelihoods = (-hard(logits, labels, where) for logits in (s, t))
        outputs = [jnp.sum(values, axis=1) for values in (*likelihoods, of_teacher, of_student)]
        if h["average_log_prob"]:
            outputs = [values / jnp.sum(where, axis=1) for values in outputs]
        answers = outputs[2] if position == "teapos" else outputs[3]
        return {"value": jnp.sum(answers), "per_sequence": answers, "n_outputs": len(outputs)}

    return covers(*names)(compute)


_KINDS = ("distillm_v1_a0.1_0.1", "distillm_v2_a0.1_0.1", "distillm_v2_a0.3_0.2", "gkd_a0.1_0.1")
distillm2_of_teacher = _distillm2(_KINDS, "teapos")
distillm2_of_student = _distillm2(_KINDS, "refpos")


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _adaptive_corrected(x, h):
    log_q, log_p = _log_softmax(x["student_logits"]), _log_softmax(x["teacher_logits"])
    values = []
    for b, i in zip(*np.nonzero(x["mask"]), strict=True):
        q, p = np.exp(log_q[b, i]), np.exp(log_p[b, i])
        mass, head = 0.0, 0.0
        for rank, c in enumerate(np.argsort(-p)):
            mass += p[c]
            if rank == 0 or mass <= h["head_threshold"]:
                head += abs(p[c] - q[c])
        share = head / np.abs(p - q).sum()
        forward = -(p * log_q[b, i]).sum()
        reverse = (q * (log_q[b, i] - log_p[b, i])).sum()
        values.append(share * forward + (1 - share) * reverse)
    return np.mean(values)


@covers(
    "taid_repo_akl0.5",
    quirk="builds the head in sorted order and applies it to unsorted gaps; weights pass gradients",
    corrected=_adaptive_corrected,
)
def taid_adaptive(x, h):
    where, head_mass = kept(x), h["head_threshold"]
    log_q, log_p = (jax.nn.log_softmax(logits) for logits in both(x))
    share = divergences.head_gap_share(log_q, log_p, head_mass=head_mass)
    values = losses.adaptive_kl_divergence(*both(x), head_mass=head_mass, where=where)
    return token_mean(values + share * teacher_entropy(x, where), where)


def _decoupled_corrected(x, h):
    heat = h["temperature"]
    values = []
    for b, i in zip(*np.nonzero(x["mask"]), strict=True):
        label = x["labels"][b, i]
        q, p = (
            np.exp(_log_softmax(x[side][b, i] / heat))
            for side in ("student_logits", "teacher_logits")
        )
        target = p[label] * np.log(p[label] / q[label])
        target += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        q, p = (np.delete(r, label) / np.delete(r, label).sum() for r in (q, p))
        values.append(heat**2 * (h["alpha"] * target + h["beta"] * (p * np.log(p / q)).sum()))
    return np.mean(values)


@covers(
    "taid_repo_dkd_a1_b0.5_T2",
    quirk="divides by all positions, also the padded ones that it does not sum",
    corrected=_decoupled_corrected,
)
def taid_decoupled(x, h):
    where = kept(x)
    values = losses.decoupled_divergence(
        *both(x),
        jnp.where(where, x["labels"], 0),
        alpha=h["alpha"],
        beta=h["beta"],
        temperature=h["temperature"],
        where=where,
    )
    return token_mean(values, where)


@covers("taid_t0.0", "taid_t0.4", "taid_t0.7", "taid_t1.0")
def taid(x, h):
    where, t = kept(x), h["t"]
    values = losses.interpolated_kl_divergence(*both(x), interpolation=t, where=where)
    log_q, log_p = (jax.nn.log_softmax(logits) for logits in both(x))
    target = divergences.interpolated_log_probs(log_q, log_p, interpolation=t)
    return token_mean(values + divergences.entropy_of_log_probs(target), where)


@covers("taid_update_t_adaptive", "taid_update_t_linear")
def taid_schedule(x, h):
    states = [sequence.taid_start(h["t_start"])]
    for step, loss in enumerate(x["losses"]):
        states.append(
            sequence.taid_update(
                states[-1],
                loss,
                step / h["num_train_steps"],
                start=h["t_start"],
                end=h["t_end"],
                rate=0.0 if h["disable_adaptive"] else h["alpha"],
                smoothing=h["beta"],
            )
        )
    return {
        "t": jnp.stack([state.interpolation for state in states[1:]]),
        "momentum": jnp.stack([state.momentum for state in states[1:]]),
    }


# AKL's authors, and DSKD: sums over the kept tokens, no T².


@covers("akl_original_mu0.5")
def adaptive_kl(x, h):
    values = losses.adaptive_kl_divergence(*both(x), head_mass=h["mu"], where=kept(x))
    log_q, log_p = (jax.nn.log_softmax(logits) for logits in both(x))
    share = divergences.head_gap_share(log_q, log_p, head_mass=h["mu"])
    return {"value": token_mean(values, kept(x)), "head_ratio": share, "tail_ratio": 1 - share}


def _token_sum(x, core, temperature):
    """The sum of a core over the kept tokens, softened but without the factor T²."""
    log_q, log_p, _ = divergences.softened(*both(x), temperature, kept(x))
    return jnp.sum(jnp.where(kept(x), core(log_q, log_p), 0))


@covers("dskd_forward_kl_T1.0", "dskd_forward_kl_T2.0")
def dskd_forward_kl(x, h):
    return _token_sum(x, divergences.kl_of_log_probs, h["kd_temperature"])


@covers("dskd_reverse_kl_T1.0", "dskd_reverse_kl_T2.0")
def dskd_reverse_kl(x, h):
    return _token_sum(x, divergences.reverse_kl_of_log_probs, h["kd_temperature"])


@covers("dskd_adaptive_kl_T1.0", "dskd_adaptive_kl_T2.0")
def dskd_adaptive_kl(x, h):
    def core(log_q, log_p):
        # DSKD sums from the least probable class up: the class that crosses α belongs to the head.
        p, q = jnp.exp(log_p), jnp.exp(log_q)
        order = jnp.argsort(p, axis=-1)
        gap = jnp.take_along_axis(jnp.abs(p - q), order, axis=-1)
        tail = jnp.cumsum(jnp.take_along_axis(p, order, axis=-1), -1) < h["adaptive_kl_alpha"]
        share = jnp.sum(jnp.where(tail, gap, 0), axis=-1) / jnp.sum(gap, axis=-1)
        weight = jax.lax.stop_gradient(jnp.where(kept(x), share, 0.5))
        return divergences.symmetric_kl_of_log_probs(log_q, log_p, weight=weight)

    return _token_sum(x, core, h["kd_temperature"])


@covers("dskd_skewed_forward_kl_T1.0", "dskd_skewed_forward_kl_T2.0")
def dskd_skewed_forward_kl(x, h):
    def core(log_q, log_p):
        return divergences.skew_kl_of_log_probs(log_q, log_p, skew=h["skew_lambda"])

    return _token_sum(x, core, h["kd_temperature"])


@covers("dskd_skewed_reverse_kl_T1.0", "dskd_skewed_reverse_kl_T2.0")
def dskd_skewed_reverse_kl(x, h):
    def core(log_q, log_p):
        return divergences.skew_reverse_kl_of_log_probs(log_q, log_p, skew=h["skew_lambda"])

    return _token_sum(x, core, h["kd_temperature"])


@covers("dskd_js_divergence_T1.0", "dskd_js_divergence_T2.0")
def dskd_js_divergence(x, h):
    def core(log_q, log_p):
        return divergences.generalized_jensen_shannon_of_log_probs(log_q, log_p, beta=0.5)

    return _token_sum(x, core, h["kd_temperature"])


# ModelOpt, tunix, MaxText, EasyDeL: these have the factor T².


@covers("modelopt_logits_T1.0_none", "modelopt_logits_T2.0_none")
def modelopt_logits(x, h):
    values = losses.softened_kl_divergence(*both(x), temperature=h["temperature"], where=kept(x))
    return token_mean(values, kept(x))


@covers("modelopt_logits_T1.0_batchmean", "modelopt_logits_T2.0_batchmean")
def modelopt_logits_batchmean(x, h):
    # Every token counts, and the sum is divided by their number without the batch's.
    values = losses.softened_kl_divergence(*both(x), temperature=h["temperature"])
    return jnp.sum(values) / values.shape[0]


@covers("modelopt_mft_thr0.2_T1.0", "modelopt_mft_thr0.2_T2.0")
def modelopt_mft(x, h):
    return jnp.mean(_modelopt_mft(*both(x), x["tokens"], h["threshold"], h["temperature"]))


@covers("modelopt_mft")
def modelopt_mft_vision(x, h):
    values = _modelopt_mft(x["logits_s"], x["logits_t"], x["labels"], h["threshold"], h["T"])
    return jnp.mean(values)


def _modelopt_mft(s, t, labels, threshold, temperature):
    """The divergence with a threshold lowered by what ModelOpt's 1e-7 in a denominator takes."""
    p = jax.nn.softmax(t / temperature)
    of_label = jnp.take_along_axis(p, labels[..., None], axis=-1)[..., 0]
    lead = jnp.max(p, axis=-1) - of_label
    whole = jnp.where(lead > 0, 1 + lead, 1 - of_label)
    gain = jnp.where(lead > 0, lead + threshold, jnp.minimum(threshold, 1 - of_label))
    lowered = jnp.maximum(gain * whole / (whole + 1e-7) - lead, 0)
    return losses.minifinetuning_divergence(
        s, t, labels, threshold=lowered, temperature=temperature
    )


@covers("tunix_logit_T2.0_a0.5_k0", "tunix_logit_T1.0_a1.0_k0", "tunix_logit_T1.0_a0.0_k0")
@covers("tunix_logit_T2.0_a1.0_k8")
def tunix_logit(x, h):
    s, t = both(x)
    if h["distill_top_k"]:
        top, classes = jax.lax.top_k(t, h["distill_top_k"])
        soft = losses.renormalized_top_k_kl_divergence(
            s, top, classes, temperature=h["temperature"]
        )
    else:
        soft = losses.softened_kl_divergence(s, t, temperature=h["temperature"])
    cross_entropy = losses.token_negative_log_likelihood(s, x["tokens"])
    # No mask: the mean over every position.
    return jnp.mean(h["alpha"] * soft + (1 - h["alpha"]) * cross_entropy)


@covers("maxtext_dense_T2.0_a0.5", "maxtext_dense_T1.0_a1.0", "maxtext_dense_T3.0_a0.9")
@covers("maxtext_sparse8_T2.0_a0.5", "maxtext_sparse8_T1.0_a1.0", "maxtext_sparse8_T3.0_a0.9")
def maxtext(x, h):
    where, s, heat = kept(x), x["student_logits"], h["temperature"]
    if "teacher_logits" in x:
        soft = losses.softened_kl_divergence(*both(x), temperature=heat, where=where)
    else:
        top, classes = x["teacher_topk_logprobs"], x["teacher_topk_ids"]
        soft = losses.renormalized_top_k_kl_divergence(
            s, top, classes, temperature=heat, where=where
        )
    cross_entropy = losses.token_negative_log_likelihood(s, x["tokens"], where=where)
    return token_mean(h["alpha"] * soft + (1 - h["alpha"]) * cross_entropy, where)


@covers("maxtext_feature_cosine_b0.7", "maxtext_feature_l2_b0.7")
def maxtext_feature(x, h):
    where, width = kept(x), x["student_hidden"].shape[-1]
    f_s, f_t = x["student_hidden"], x["teacher_hidden"][:, :width]
    distance = (
        losses.feature_cosine_distance
        if h["feature_loss_type"] == "cosine"
        else losses.feature_hint
    )
    features = distance(f_s, f_t, where=where.reshape(-1))
    soft = losses.softened_kl_divergence(*both(x), temperature=h["temperature"], where=where)
    return token_mean(soft, where) + h["beta_feature"] * token_mean(features, where.reshape(-1))


@covers("maxtext_schedule")
def maxtext_schedule(x, h):
    # kdjax takes its schedules from optax. The steps that were recorded, as shares of the whole.
    start, end, whole = h["start"], h["end"], h["max_steps"]
    steps = whole * jnp.array([0.0, 0.1, 0.5, 0.9, 1.0, 1.5])
    return {
        "constant": jnp.stack([optax.constant_schedule(start)(step) for step in steps]),
        "linear": optax.linear_schedule(start, end, whole)(steps),
        "cosine": optax.cosine_decay_schedule(start, whole, alpha=end / start)(steps),
    }


@covers("easydel_distill_T4.0_a0.9_hard1", "easydel_distill_T1.0_a1.0_hard0")
def easydel_distill(x, h):
    where = kept(x) & (x["labels"] != IGNORED)
    soft = losses.softened_kl_divergence(*both(x), temperature=h["temperature"], where=where)
    cross_entropy = hard(x["student_logits"], x["labels"], where)
    weight = 1 - h["alpha"] if h["use_hard_labels"] else 0.0
    return token_mean(h["alpha"] * soft + weight * cross_entropy, where)


def _easydel_corrected(x, h):
    beta, heat = h["beta"], h["temperature"]
    log_q = _log_softmax(x["student_logits"] / heat)
    log_p = _log_softmax(x["teacher_logits"] / heat)
    q, p = np.exp(log_q), np.exp(log_p)
    if beta in (0, 1):
        values = p * (log_p - log_q) if beta == 0 else q * (log_q - log_p)
    else:
        log_m = np.log(beta * p + (1 - beta) * q)
        values = beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)
    return heat**2 * values.sum(-1)[x["mask"] > 0].mean()


@covers(
    *(f"easydel_gjsd_b{beta}_T1.0" for beta in (0.0, 0.1, 0.9, 1.0)),
    quirk="exchanges teacher and student in the mixture and in the weights, against its paper",
    corrected=_easydel_corrected,
)
@covers("easydel_gjsd_b0.5_T1.0")
def easydel_gjsd(x, h):
    heat = h["temperature"]
    values = heat**2 * jensen_shannon(*both(x), kept(x), h["beta"], heat)
    return token_mean(values, kept(x))


# Examples: what the stress table and the property tests call each loss with.


def _logits(*more, **keywords):
    def build(rng, batch):
        s, t = (2 * rng.standard_normal((batch, 6)).astype(np.float32) for _ in range(2))
        return (s, t, *(draw(rng, batch) for draw in more)), dict(keywords)

    return build


def _labels(rng, batch):
    return rng.integers(0, 6, batch).astype(np.int32)


def _tokens(length, high=6):
    return lambda rng, batch: rng.integers(0, high, (batch, length)).astype(np.int32)


def _arrays(*shapes, scale=1.0, sign=None):
    def build(rng, batch):
        drawn = [scale * rng.standard_normal((batch, *shape)) for shape in shapes]
        drawn = [sign * np.abs(x) if sign else x for x in drawn]
        return tuple(x.astype(np.float32) for x in drawn), {}

    return build


def _policy(rng, batch):
    (log_q, log_b), _ = _arrays((5,), (5,), sign=-1)(rng, batch)
    return (log_q, log_b, rng.standard_normal((batch, 5)).astype(np.float32)), {}


def _likelihood(rng, batch):
    logits = 2 * rng.standard_normal((batch, 6)).astype(np.float32)
    return (logits, _labels(rng, batch)), {}


def _weighted(rng, batch):
    logits = 2 * rng.standard_normal((batch, 4, 6)).astype(np.float32)
    weights = rng.uniform(0.1, 1, batch).astype(np.float32)
    return (logits, _tokens(4)(rng, batch), weights), {}


def _scored(rng, batch):
    scores = rng.standard_normal((batch, 5)).astype(np.float32)
    return (scores, rng.integers(0, 8, (batch, 5)).astype(np.float32)), {}


def _three(rng, batch):
    return _arrays((4, 6), (4, 6), (4, 6), scale=2.0)(rng, batch)


def _tokens_kept(batch):
    return (batch, 4)


EXAMPLES = {
    "reverse_kl_divergence": Example(_logits(temperature=2.0), classes=(0, 1)),
    "symmetric_kl_divergence": Example(_logits(weight=0.3), classes=(0, 1)),
    "skew_kl_divergence": Example(_logits(), classes=(0, 1)),
    "skew_reverse_kl_divergence": Example(_logits(), classes=(0, 1)),
    "generalized_jensen_shannon_divergence": Example(_logits(beta=0.3), classes=(0, 1)),
    "total_variation_distance": Example(_logits(), classes=(0, 1)),
    "adaptive_kl_divergence": Example(
        _logits(), classes=(0, 1), not_derivative="the weights of the directions are constants"
    ),
    "interpolated_kl_divergence": Example(
        _logits(interpolation=0.4),
        classes=(0, 1),
        not_derivative="the student inside the target is a constant",
    ),
    "minifinetuning_divergence": Example(_logits(_labels), classes=(0, 1), zero_at_teacher=False),
    "logit_cosine_distance": Example(_logits(), classes=(0, 1)),
    "token_negative_log_likelihood": Example(
        _likelihood, teacher=(), classes=(0,), same=False, zero_at_teacher=False
    ),
    "weighted_negative_log_likelihood": Example(
        _weighted,
        teacher=(),
        classes=(0,),
        same=False,
        zero_at_teacher=False,
        where=_tokens_kept,
    ),
    "clipped_policy_gradient": Example(
        _policy, zero_at_teacher=False, where=lambda batch: (batch, 5)
    ),
    "minimum_word_error": Example(
        _scored,
        teacher=(),
        classes=(0,),
        same=False,
        zero_at_teacher=False,
        skip={"one_class": "the errors have an entry for each hypothesis too"},
    ),
    "direct_preference": Example(_arrays((2,), (2,)), zero_at_teacher=False),
    "candidate_ranking": Example(_arrays((4,), (4,)), zero_at_teacher=False),
    "self_evolution_divergence": Example(
        _logits(_labels, threshold=1.0),
        classes=(0, 1),
        zero_at_teacher=False,
        not_derivative="the target of a hard token is a constant",
    ),
    "blended_divergence": Example(_logits(_labels), classes=(0, 1), zero_at_teacher=False),
    "negative_calibrated_divergence": Example(_three, classes=(0, 1, 2), where=_tokens_kept),
}
