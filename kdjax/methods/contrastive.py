"""Methods that tell an example's own teacher embedding, or its regions', from those of others."""

import math

import jax
import jax.numpy as jnp

from kdjax.losses import (
    categorised_contrast,
    info_nce,
    noise_contrastive_estimation,
    softened_kl_divergence,
    transported_cost,
)
from kdjax.losses._arrays import check_not_negative, check_positive, unit
from kdjax.methods import classification
from kdjax.networks.projectors import PROJECTED, linear_player, linear_projector
from kdjax.train.method import Method, one_phase, term

SIDES = ("student", "teacher")


def wcord(
    *,
    student_feature: str,
    teacher_feature: str,
    width: int = 64,
    temperature: float = 0.07,
    global_weight: float = 0.8,
    local_weight: float = 0.05,
    epsilon: float = 0.1,
    spectral: bool = True,
) -> Method:
    """Cross-entropy + both forms of a Wasserstein distance between embeddings of equal width.

    A linear head on either side maps to unit vectors. The global (dual) term is contrastive
    estimation in both directions under heads whose kernels have spectral norm one (by one power
    iteration a step, its vectors in memory); the local (primal) term is the cost of an entropic transport plan. The other
    examples of the batch are the negatives, in place of the authors' memory bank; the estimator's
    normaliser is that of the first batch. Without `spectral` and `local_weight` it is CRD.

    Chen, Wang, Gan, Liu, Henao, Carin, "Wasserstein Contrastive Representation Distillation", 2021.
    Their heads have 128 dimensions; the numbers here are those of Tian et al., "Contrastive
    Representation Distillation", 2020, where theirs could not be read.
    """
    check_positive(temperature=temperature, epsilon=epsilon)
    check_not_negative(global_weight=global_weight, local_weight=local_weight)
    features = {"student": student_feature, "teacher": teacher_feature}

    def head(side):
        def make(shapes):
            name, given = features[side], shapes[side].features
            wanted = {"unit": jax.ShapeDtypeStruct((1, width), jnp.float32)}
            network = linear_projector(given, wanted, pair=(name, "unit"))
            return network, given[name]

        return make

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        memory, embeddings = {}, {}
        for side, outputs in zip(SIDES, (student, teacher), strict=True):
            rows, _ = scope.apply(f"{side}_head", outputs.features[features[side]])
            embeddings[side] = rows.features[PROJECTED]
            if spectral:
                dense = scope.params[f"{side}_head"]["dense"]
                vector = scope.memory[f"{side}_vector"]
                norm, memory[f"{side}_vector"] = _spectral_norm(dense["kernel"], vector)
                bias = dense["bias"][None]
                embeddings[side] = (embeddings[side] - bias) / norm + bias
        s, t = scope.gather([unit(embeddings[side]) for side in SIDES])
        memory["log_normaliser"] = _log_normaliser(scope, s, t, temperature)
        estimates = [
            noise_contrastive_estimation(
                one, _candidates(other), population=len(one), temperature=temperature,
                log_normaliser=memory["log_normaliser"],
            )
            for one, other in ((s, t), (t, s))
        ]  # fmt: skip
        shared = {"couples": True, "gathered": True}
        labels, _ = classification.label_term(scope)
        terms = {
            "global": term(sum(estimates), weight=scope.hyper["global_weight"], **shared),
            "local": term(
                transported_cost(s, t, epsilon=epsilon),
                weight=scope.hyper["local_weight"],
                **shared,
            ),
        }
        return {**labels, **terms}, {**updates, "memory": memory}

    def vector(side):
        def make(params):
            inputs = params[f"{side}_head"]["dense"]["kernel"].shape[0]
            return jnp.full(inputs, 1 / jnp.sqrt(inputs))

        return make

    return one_phase(
        objective,
        {f"{side}_head": head(side) for side in SIDES},
        memory={
            "log_normaliser": jnp.zeros(()),
            **({f"{side}_vector": vector(side) for side in SIDES} if spectral else {}),
        },
        global_weight=global_weight,
        local_weight=local_weight,
    )


def _spectral_norm(kernel, vector):
    """(the largest singular value by one power iteration from `vector`, the next vector)."""
    fixed = jax.lax.stop_gradient(kernel)
    left = unit((vector @ fixed)[None])[0]
    right = unit((fixed @ left)[None])[0]
    return right @ kernel @ left, right


def _log_normaliser(scope, s, t, temperature):
    """log(B · mean(exp(s · t / τ))) of the first batch, remembered from then on."""
    now = jax.nn.logsumexp(s @ t.T / temperature) - jnp.log(len(s))
    return jax.lax.stop_gradient(jnp.where(scope.step == 0, now, scope.memory["log_normaliser"]))


def _candidates(rows):
    """`[B, B, D]`: for every example its own row first, then those of the others."""
    size = len(rows)
    return rows[(jnp.arange(size)[:, None] + jnp.arange(size)[None]) % size]


def msdcrd(
    *,
    student_feature: str,
    teacher_feature: str,
    windows: tuple[int, ...] = (1, 2, 4),
    temperature: float = 0.1,
    kd_temperature: float = 4.0,
    kd_weight: float = 1.0,
    weight: float = 1.0,
    channels: bool = True,
) -> Method:
    """Cross-entropy + KD + contrasts of the regions of two feature maps, at several window sizes.

    A linear head takes the student's maps to the teacher's width. For every window size both maps are
    averaged over windows; a region is consistent if the teacher's own head gives it the class that the
    teacher gives the image, else complementary. A region is told from the regions of other images of
    its category, and, with `channels`, a channel over the regions of a category from other channels.
    There is no bank: everything comes from one batch. With the whole map as the only window and
    without `channels` it is InfoNCE between the images' embeddings.

    Features are maps `[B, H, W, C]` or patch tokens behind one class token `[B, 1 + N, C]` on a square
    grid; the teacher's parameters have a dense `head` that reads the mean of the map.

    Raises:
        ValueError: at the first trace, windows that do not divide the map, tokens that are no square.

    Wang, Chen, Wang, "Contrastive Representation Distillation via Multi-Scale Feature Decoupling", 2025
    (MSDCRD); the formulas and the numbers are a reconstruction from its summaries.
    """
    check_positive(temperature=temperature, kd_temperature=kd_temperature)
    check_not_negative(kd_weight=kd_weight, weight=weight)

    def head(shapes):
        taught = shapes["teacher"].features[teacher_feature]
        return linear_player(shapes["student"].features[student_feature], taught.shape[-1])

    def objective(scope):
        student, teacher, updates = classification.transfer_pass(scope)
        aligned, _ = scope.apply("projector", student.features[student_feature])
        maps = [aligned.features[PROJECTED], teacher.features[teacher_feature]]
        s, t, logits = scope.gather([*map(_grid, maps), teacher.logits])
        classify = scope.frozen["teacher"]["head"]
        values = jnp.zeros(())
        for window in windows:
            regions = [_windows(x, window) for x in (s, t)]
            count = len(regions[0]) // len(s)
            owners = jnp.repeat(jnp.arange(len(s)), count)
            chosen = jnp.argmax(regions[1] @ classify["kernel"] + classify["bias"][None], axis=-1)
            consistent = chosen == jnp.repeat(jnp.argmax(logits, axis=-1), count)
            categories = consistent.astype(jnp.int32)
            values += jnp.mean(
                categorised_contrast(*regions, categories, owners, temperature=temperature)
            )
            for category in (consistent, ~consistent) if channels else ():
                columns = [jnp.where(category[:, None], x, 0).T for x in regions]
                values += jnp.mean(info_nce(*columns, temperature=temperature)) / 2
        taught = softened_kl_divergence(student.logits, teacher.logits, temperature=kd_temperature)
        labels, _ = classification.label_term(scope)
        terms = {
            "kd": term(taught, weight=kd_weight),
            "contrast": term(
                values[None], weight=scope.hyper["weight"], couples=True, gathered=True
            ),
        }
        return {**labels, **terms}, updates

    return one_phase(objective, {"projector": head}, weight=weight)


def _grid(x):
    """`[B, H, W, C]` of maps as they are, or of patch tokens behind a class token."""
    if x.ndim == 4:
        return x
    side = math.isqrt(x.shape[1] - 1)
    if side**2 != x.shape[1] - 1:
        raise ValueError(f"a feature of shape {x.shape} is no class token and a square of patches")
    return x[:, 1:].reshape(len(x), side, side, x.shape[-1])


def _windows(x, size):
    """Means over windows of `size` squared, `[B · (H / size) · (W / size), C]`."""
    b, height, width, c = x.shape
    if height % size or width % size:
        raise ValueError(f"windows of {size} must divide the map of {height} by {width}")
    blocks = x.reshape(b, height // size, size, width // size, size, c)
    return blocks.mean((2, 4)).reshape(-1, c)
