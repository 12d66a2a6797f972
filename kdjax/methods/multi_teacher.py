"""Methods with several frozen teachers, of any architectures over the same classes."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import softened_kl_divergence, weighted_teachers_divergence
from kdjax.losses._arrays import check_fraction, check_not_negative, check_positive
from kdjax.methods import classification
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.train.method import Method, Phase, one_phase, term


def weighted_teachers(
    *, weights: Mapping[str, float], temperature: float = 4.0, weight: float = 0.9
) -> Method:
    """(1 - weight) · cross-entropy + weight · T² Σ_k w_k KL(teacher_k ‖ student).

    `weights` names the teachers, networks at hand whose parameters are frozen under their names, and
    gives each its w_k, used as it is. Equal weights that sum to one are the mean over an ensemble.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)
    names = tuple(weights)
    if not names or min(weights.values()) < 0:
        raise ValueError(f"weights must name a teacher and be at least 0, got {dict(weights)}")

    def objective(scope):
        hyper = scope.hyper
        passes = [classification.transfer_pass(scope, teacher=name) for name in names]
        (student, _, updates), taught = passes[0], [each[1].logits for each in passes]
        shares = jnp.broadcast_to(hyper["weights"], (*student.logits.shape[:-1], len(names)))
        values = weighted_teachers_divergence(
            student.logits,
            jnp.stack(taught, axis=-2),
            shares,
            temperature=hyper["temperature"],
        )
        labels, _ = classification.label_term(scope, weight=1 - hyper["weight"])
        return {**labels, "kd": term(values, weight=hyper["weight"])}, updates

    given = jnp.asarray([weights[name] for name in names], jnp.float32)
    return one_phase(objective, temperature=temperature, weight=weight, weights=given)


def dempster_fusion(
    *,
    teachers: Sequence[str],
    reliability: float = 0.9,
    temperature: float = 1.0,
    weight: float = 0.9,
) -> Method:
    """(1 - weight) · cross-entropy + weight · KL(the teachers' combined evidence ‖ student).

    `teachers` are networks at hand, frozen under their names. Each gives `reliability` of its mass to
    its classes and leaves the rest open, see `combined_evidence`; with a reliability of one the target
    is the product of the teachers.

    After Ha et al., "Synergistic Fusion of Multi-Source Knowledge via Evidence Theory for High-Entropy
    Alloy Discovery", 2025, who combine substitutions of elements that way; teachers as the sources
    are this library's reading.
    """
    check_positive(temperature=temperature)
    check_fraction(reliability=reliability, weight=weight)
    names = _several(teachers)

    def objective(scope):
        hyper = scope.hyper
        passes = [classification.transfer_pass(scope, teacher=name) for name in names]
        (student, _, updates), taught = passes[0], [each[1].logits for each in passes]
        logits = jnp.stack(taught, axis=-2) / hyper["temperature"]
        target = combined_evidence(logits, hyper["reliability"])
        values = softened_kl_divergence(student.logits, target, temperature=1.0)
        labels, _ = classification.label_term(scope, weight=1 - hyper["weight"])
        return {**labels, "kd": term(values, weight=hyper["weight"])}, updates

    return one_phase(objective, reliability=reliability, temperature=temperature, weight=weight)


def combined_evidence(teachers_logits, reliability):
    r"""Log-probabilities `[..., C]` of classes from Dempster's rule over the teachers `[..., K, C]`.

    Teacher i with reliability c gives the mass c p_ik to class k and 1 - c to "any class". Dempster's
    rule multiplies the masses of what agrees and drops what contradicts; what is left on "any class"
    is shared evenly:

    .. math:: m(k) \propto \prod_i (c\, p_{ik} + 1 - c) - \prod_i (1 - c), \quad
        m(\text{any}) \propto \prod_i (1 - c), \quad t_k = m(k) + m(\text{any}) / C

    Args:
        teachers_logits: `[..., K, C]`
        reliability: c in [0, 1], a number or `[..., K]`.
    """
    count = teachers_logits.shape[-1]
    c = jnp.broadcast_to(jnp.asarray(reliability), teachers_logits.shape[:-1])[..., None]
    known = jnp.log(c) + jax.nn.log_softmax(teachers_logits)
    either = jnp.sum(jnp.logaddexp(known, jnp.log1p(-c)), axis=-2)
    unknown = jnp.sum(jnp.log1p(-c), axis=-2)
    largest = jnp.max(either, axis=-1, keepdims=True)
    shares = jnp.exp(either - largest) - jnp.exp(unknown - largest) * (1 - 1 / count)
    # Rounding may leave a contradicted class just below zero.
    return jax.nn.log_softmax(jnp.log(jnp.maximum(shares, jnp.finfo(shares.dtype).tiny)))


def rl_kd(
    *,
    teachers: Sequence[str],
    student_feature: str,
    temperature: float = 4.0,
    weight: float = 0.5,
    policy_weight: float = 1.0,
    divergence_reward: float = 0.0,
    warmup: int = 200,
) -> Method:
    """A policy draws which teachers an example gets, and is rewarded by how the student then does.

    Student: (1 - weight) · cross-entropy + weight · T² mean_k a_k KL(teacher_k ‖ student), where
    a_k ~ Bernoulli(sigmoid(policy)); for the first `warmup` steps every a_k is 1. Policy: linear in the
    student's feature, all teachers' probabilities and their cross-entropies, by REINFORCE with the
    reward -(cross-entropy + divergence_reward · divergence) of the student after its update, less its
    running mean. A `policy_weight` of 0 leaves the initial, nearly random choice. All images are
    labelled.

    Yuan, Shou, Pei, Lin, Gong, Fu, Jiang, "Reinforced Multi-Teacher Selection for Knowledge
    Distillation", 2021. Divergence rewards of 0 and 1 are their first and second; the running mean is
    this library's.
    """
    check_positive(temperature=temperature)
    check_fraction(weight=weight)
    check_not_negative(policy_weight=policy_weight, divergence_reward=divergence_reward)
    names = _several(teachers)

    def policy(shapes):
        width, classes = (shapes["student"].features[student_feature], shapes["student"].logits)
        inputs = width.shape[-1] + len(names) * (classes.shape[-1] + 1)
        network = multilayer_perceptron(len(names), widths=())
        return network, jax.ShapeDtypeStruct((1, inputs), jnp.float32)

    def losses(scope, taught, chosen):
        """(the student's Outputs and new model state, cross-entropies, divergences)."""
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["image"])
        hard = optax.softmax_cross_entropy_with_integer_labels(student.logits, batch["label"])
        soft = weighted_teachers_divergence(
            student.logits, taught, chosen / len(names), temperature=scope.hyper["temperature"]
        )
        return student, model, hard, soft

    def teach(scope):
        batch, hyper = scope.batch["labelled"], scope.hyper
        passes = [classification.teacher_outputs(scope, batch, name).logits for name in names]
        taught = jnp.stack(passes, axis=-2)
        content = scope.apply("student", batch["image"])[0].features[student_feature]
        seen = _policy_inputs(jax.lax.stop_gradient(content), taught, batch["label"])
        chance = jax.nn.sigmoid(scope.apply("policy", seen)[0].logits)
        keys = scope.rng("choice", batch["index"])
        drawn = jax.vmap(lambda key: jax.random.uniform(key, (len(names),)))(keys)
        chosen = ((drawn < chance) | (scope.step < warmup)).astype(jnp.float32)
        _, model, hard, soft = losses(scope, taught, chosen)
        terms = {
            "labels": term(hard, weight=1 - hyper["weight"]),
            "kd": term(soft, weight=hyper["weight"]),
        }
        choice = {"seen": seen, "taught": taught, "chosen": chosen}
        return terms, {"model": {"student": model}, "batch": {"choice": choice}}

    def reward(scope):
        choice, hyper = scope.batch["choice"], scope.hyper
        _, _, hard, soft = losses(scope, choice["taught"], choice["chosen"])
        rewards = -(hard + hyper["divergence_reward"] * soft)
        now = jnp.mean(scope.gather(rewards))
        expected = jnp.where(scope.step == 0, now, scope.memory["expected_reward"])
        logits = scope.apply("policy", choice["seen"])[0].logits
        log_chance = jnp.sum(
            jax.nn.log_sigmoid(jnp.where(choice["chosen"] > 0, logits, -logits)), axis=-1
        )
        learns = hyper["policy_weight"] * (scope.step >= warmup)
        terms = {"policy": term(-(rewards - expected) * log_chance, weight=learns)}
        return terms, {"memory": {"expected_reward": 0.9 * expected + 0.1 * now}}

    return Method(
        players={"policy": policy},
        phases=(Phase(teach, ("student",)), Phase(reward, ("policy",))),
        hyper={
            "temperature": temperature,
            "weight": weight,
            "policy_weight": policy_weight,
            "divergence_reward": divergence_reward,
        },
        memory={"expected_reward": jnp.zeros(())},
    )


def _policy_inputs(content, taught, labels):
    """Per example: its content, what every teacher says, and how wrong each of them is."""
    log_p = jax.nn.log_softmax(taught)
    wrong = -jnp.take_along_axis(log_p, labels[:, None, None], axis=-1)[..., 0]
    flat = jnp.exp(log_p).reshape(len(log_p), -1)
    return jnp.concatenate([content, flat, wrong], axis=-1)


def _several(teachers):
    names = tuple(teachers)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"teachers must name two networks or more, each once, got {names}")
    return names
