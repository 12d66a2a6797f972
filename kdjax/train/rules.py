r"""Rules: how the gradients of several terms become one update, and what acts behind the optimiser.

A rule is a `Phase`'s `rule(grads {term: {player: tree}}, values, memory) -> (grads, memory)`.
Notation: g_i is the gradient of the i-th term, its weight included, as one vector over all leaves of
all players that the phase trains, and P `[K, K]` with P_ij = ⟨g_i, g_j⟩ is their Gram matrix.
Every rule here but `two_momenta` returns Σ_i w_i g_i with weights w that it finds from P alone. P is
computed in at least float32; the result has the dtypes of the gradients. A term that is zero, or was
given weight zero, leaves the others as they are, except that it is a stationary point of
`multiple_gradient_descent`.

`shared`, where a rule has it, names the leaves it is about by regular expressions searched in
`"PLAYER/path/to/leaf"`: the body of a network with a head per term. The other leaves get the sum of
all terms. Empty, it means every leaf.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Grads = Mapping[str, Any]
Rule = Callable[[Mapping[str, Grads], Mapping[str, jax.Array], Mapping[str, Any]], tuple[Any, Any]]

_EXACT = jax.lax.Precision.HIGHEST


def average_gradient_memory(*, reference: str | Sequence[str]) -> Rule:
    r"""A-GEM: the task's gradient without its part against the gradient on remembered examples.

    .. math:: \tilde g = g - \frac{\min(\langle g, r \rangle, 0)}{\|r\|^2} \, r

    so that ⟨g̃, r⟩ is at least 0: the loss on the memory does not rise, to first order. r is the sum
    of the gradients of the `reference` terms, g that of all others; the reference terms constrain
    and are not themselves minimised.

    Args:
        reference: the term on remembered examples, or several.

    Raises:
        ValueError: at the first trace, an unknown term, no term besides the reference.

    >>> rule = average_gradient_memory(reference="memory")
    >>> grads = {"task": {"w": jnp.array([1.0, -1.0])}, "memory": {"w": jnp.array([0.0, 2.0])}}
    >>> rule(grads, {}, {})[0]["w"]
    Array([1., 0.], dtype=float32)

    Reference:
        Chaudhry, Ranzato, Rohrbach, Elhoseiny, "Efficient Lifelong Learning with A-GEM", 2019, with
        a random batch of the memory for the reference.
    """

    def weights(names, gram):
        inside = _named(names, reference, "average_gradient_memory: reference")
        constraint = jnp.asarray(inside, gram.dtype)
        task, against = 1 - constraint, _dot(gram, constraint)
        conflict, size = jnp.minimum(_dot(task, against), 0), _dot(constraint, against)
        return task - conflict / jnp.where(size > 0, size, 1) * constraint

    return _gram_rule(weights)


def gradient_episodic_memory(*, task: str | Sequence[str], margin: float = 0.5) -> Rule:
    r"""GEM: the nearest gradient that raises no remembered task's loss, one constraint per task.

    .. math:: \tilde g = g + \sum_k v_k g_k, \quad
        v = \arg\min_{v \ge \gamma} \tfrac12 v^\top P v + \sum_k v_k \langle g, g_k \rangle

    where some ⟨g, g_k⟩ is negative, else g̃ = g. This is the dual of: the g̃ nearest to g (for γ = 0)
    with ⟨g̃, g_k⟩ ≥ 0 for all k. g sums the `task` terms; every other term is a constraint k. The
    dual is solved by an active-set method of fixed length, exactly up to rounding.

    Args:
        task: the term that is minimised, or several.
        margin: γ ≥ 0, favours directions that also improve the remembered tasks.

    Raises:
        ValueError: a negative margin; at the first trace, an unknown term, no constraint.

    >>> rule = gradient_episodic_memory(task="task", margin=0.0)
    >>> grads = {"task": {"w": jnp.array([-1.0, -1.0, 3.0])}, "first": {"w": jnp.array([1.0, 0, 0])},
    ...          "second": {"w": jnp.array([0, 1.0, 0])}}
    >>> rule(grads, {}, {})[0]["w"].round(5)
    Array([0., 0., 3.], dtype=float32)

    Reference:
        Lopez-Paz, Ranzato, "Gradient Episodic Memory for Continual Learning", 2017, with γ = 0.5.
    """
    if margin < 0:
        raise ValueError(f"margin must be at least 0, got {margin}")

    def weights(names, gram):
        inside = _named(names, task, "gradient_episodic_memory: task")
        chosen = jnp.asarray(inside, gram.dtype)
        rows = np.flatnonzero(np.logical_not(inside))
        quadratic, along = gram[np.ix_(rows, rows)], _dot(gram[rows], chosen)
        least = jnp.full(len(rows), margin, gram.dtype)
        # In u = v - γ the bound is u ≥ 0, and the linear term gains P γ.
        v = least + _nonnegative_minimum(quadratic, along + _dot(quadratic, least))
        return chosen.at[rows].set(jnp.where(jnp.any(along < 0), v, 0))

    return _gram_rule(weights)


def multiple_gradient_descent(*, shared: Sequence[str] = ()) -> Rule:
    r"""MGDA: the shortest convex combination of the terms' gradients, a common descent direction.

    .. math:: \tilde g = \sum_i \alpha_i g_i, \quad
        \alpha = \arg\min_{\alpha \ge 0, \, \sum_i \alpha_i = 1} \tfrac12 \alpha^\top P \alpha

    ⟨g̃, g_i⟩ ≥ ‖g̃‖² for every term: no loss rises, to first order, and g̃ = 0 where none can fall
    without another rising. The weights are found by an active-set method of fixed length, exactly up
    to rounding; for two terms that is the closed form
    α_1 = clip(⟨g_2 - g_1, g_2⟩ / ‖g_1 - g_2‖², 0, 1). The result shrinks with the number of terms:
    weights sum to one.

    Args:
        shared: the leaves that the terms share, see the module docstring.

    Raises:
        ValueError: at the first trace, a pattern of `shared` that matches no leaf.

    >>> grads = {"a": {"w": jnp.array([2.0, 0.0])}, "b": {"w": jnp.array([0.0, 2.0])}}
    >>> multiple_gradient_descent()(grads, {}, {})[0]["w"]
    Array([1., 1.], dtype=float32)

    Reference:
        Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", 2012;
        for networks Sener, Koltun, "Multi-Task Learning as Multi-Objective Optimization", 2018, who
        took the body of the network as `shared`.
    """

    def weights(names, gram):
        # Scaling u to sum one turns the minimum of ½ u'Pu - Σu over u ≥ 0 into that of the simplex.
        u = _nonnegative_minimum(gram, -jnp.ones(len(names), gram.dtype))
        return u / jnp.sum(u)

    return _gram_rule(weights, shared)


def gradient_surgery(*, shared: Sequence[str] = (), order: str | None = None) -> Rule:
    r"""PCGrad: the sum of the terms' gradients, each without its parts against the others.

    .. math:: \tilde g = \sum_i \tilde g_i, \quad
        \tilde g_i \leftarrow \tilde g_i - \frac{\min(\langle \tilde g_i, g_j \rangle, 0)}{\|g_j\|^2}
        \, g_j \ \text{ for each } j \ne i \text{ in turn, from } \tilde g_i = g_i

    For more than two terms the result depends on the order of the j, which the authors draw anew.

    Args:
        shared: the leaves that the terms share, see the module docstring.
        order: the name in `memory` of a permutation `[K]` of the terms sorted by name, which an
            objective draws with `jax.random.permutation(scope.rng("order"), K)` and hands over as
            `updates["memory"]`. None takes them sorted by name: for two terms it is all the same.

    Raises:
        ValueError: at the first trace, a pattern of `shared` that matches no leaf, an `order` that is
            not in memory.

    >>> grads = {"a": {"w": jnp.array([1.0, 0.0])}, "b": {"w": jnp.array([-1.0, 1.0])}}
    >>> gradient_surgery()(grads, {}, {})[0]["w"]
    Array([0.5, 1.5], dtype=float32)

    Reference:
        Yu, Kumar, Gupta, Levine, Hausman, Finn, "Gradient Surgery for Multi-Task Learning", 2020.
    """

    def weights(names, gram, memory):
        if order is not None and order not in memory:
            raise ValueError(
                f"gradient_surgery: no {order!r} in memory, which has {sorted(memory)}"
            )
        turns = jnp.arange(len(names)) if order is None else memory[order]
        if turns.shape != (len(names),):
            raise ValueError(
                f"gradient_surgery: memory[{order!r}] must order the terms {names}, got {turns.shape}"
            )
        total = jnp.zeros(len(names), gram.dtype)
        for i in range(len(names)):
            row = jnp.zeros_like(total).at[i].set(1)
            for j in turns:
                conflict = jnp.where(j == i, 0, jnp.minimum(_dot(row, gram[:, j]), 0))
                size = gram[j, j]
                row = row.at[j].add(-conflict / jnp.where(size > 0, size, 1))
            total += row
        return total

    return _gram_rule(weights, shared, reads_memory=True)


def two_momenta(
    *,
    distillation: str | Sequence[str],
    momentum: float = 0.9,
    difference: float = 0.075,
    shared: Sequence[str] = (),
    name: str = "momenta",
) -> Rule:
    r"""DOT: a momentum for the task and a longer one for distillation; plain SGD takes their sum.

    .. math:: v_{task} \leftarrow (\mu - \Delta) v_{task} + g_{task}, \quad
        v_{kd} \leftarrow (\mu + \Delta) v_{kd} + g_{kd}, \quad \tilde g = v_{task} + v_{kd}

    The optimiser must be `optax.sgd` without momentum, and `memory[name]` starts as
    `zero_momenta(players)`. Δ = 0 is SGD with momentum μ. The authors add weight decay to the task's
    gradient before its momentum: give it as one more term.

    Args:
        distillation: the distillation term, or several; g_task sums all others.
        momentum: μ
        difference: Δ, with 0 ≤ μ - Δ and μ + Δ < 1.
        shared: the leaves that both sides reach, see the module docstring; the others keep μ.
        name: where the two momenta are kept in memory.

    Raises:
        ValueError: momenta outside [0, 1); at the first trace, an unknown term, no term of the task,
            no momenta in memory.

    >>> rule = two_momenta(distillation="kd", momentum=0.5, difference=0.25)
    >>> memory = {"momenta": zero_momenta("student")({"student": jnp.zeros(())})}
    >>> grads = {"labels": {"student": jnp.array(4.0)}, "kd": {"student": jnp.array(8.0)}}
    >>> _, memory = rule(grads, {}, memory)
    >>> float(rule(grads, {}, memory)[0]["student"])  # 4 + 4 / 4 + 8 + 8 · 3 / 4
    19.0

    Reference:
        Zhao, Cui, Song, Liang, "DOT: A Distillation-Oriented Trainer", 2023, with μ = 0.9 and Δ
        between 0.05 and 0.09; 0.075 on CIFAR-100.
    """
    for side, value in (("task", momentum - difference), ("distillation", momentum + difference)):
        if not 0 <= value < 1:
            raise ValueError(f"the momentum of {side} must be in [0, 1), got {value:g}")

    def rule(grads, values, memory):
        del values  # momenta see gradients alone
        inside = np.array(_named(sorted(grads), distillation, "two_momenta: distillation"))
        if name not in memory:
            raise ValueError(
                f"two_momenta keeps memory[{name!r}], which has only {sorted(memory)}: start it "
                "as zero_momenta(players)"
            )
        some = next(iter(grads.values()))
        everywhere, on_shared = _shared(some, ()), _shared(some, shared)
        new = {}
        for side, sign, belongs in (("task", -1, ~inside), ("distillation", 1, inside)):
            gradient = _combined(grads, jnp.asarray(belongs, jnp.float32), everywhere)
            new[side] = jax.tree.map(
                lambda v, g, both, sign=sign: (
                    (momentum + sign * (difference if both else 0)) * v + g
                ).astype(v.dtype),
                memory[name][side], gradient, on_shared,
            )  # fmt: skip
        total = jax.tree.map(jnp.add, new["task"], new["distillation"])
        return total, {**memory, name: new}

    return rule


def zero_momenta(*players: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What `two_momenta` keeps, before the first step: `Method(memory={"momenta": zero_momenta(...)})`.

    Args:
        players: what the phase trains.

    Returns:
        `make(params {player: tree}) -> {"task": {player: zeros}, "distillation": {player: zeros}}`.
    """

    def make(params):
        return {
            side: {player: jax.tree.map(jnp.zeros_like, params[player]) for player in players}
            for side in ("task", "distillation")
        }

    return make


def null_space_projection(*, name: str = "bases") -> Callable[..., Any]:
    r"""A `Phase`'s `project`: updates without the part that acts on remembered inputs of a layer.

    .. math:: \Delta W \leftarrow \Delta W - B B^\top \Delta W

    for a kernel W `[I, O]` and B `[I, R]` with orthonormal columns that span the inputs x of the layer
    which must be preserved: x'W then stays, whatever the optimiser made of the gradient. (Before an
    optimiser with a scale per weight, as Adam has, the projection would be lost again.)

    Args:
        name: `memory[name] = {player: {"path/to/kernel": B}}`. I is the product of all axes of the
            kernel but the last. Columns of zeros do nothing: keep R fixed and fill them as tasks come.
            Leaves without a basis, biases say, are updated as they are.

    Returns:
        `project(updates {player: tree}, memory) -> updates`.

    Raises:
        ValueError: at the first trace, nothing at `name`, a basis of a leaf that is not there or has
            other inputs.

    >>> basis = jnp.array([[1.0], [0.0]])
    >>> project = null_space_projection()
    >>> memory = {"bases": {"student": {"kernel": basis}}}
    >>> project({"student": {"kernel": jnp.ones((2, 2))}}, memory)["student"]["kernel"]
    Array([[0., 0.],
           [1., 1.]], dtype=float32)

    Reference:
        Saha, Garg, Roy, "Gradient Projection Memory for Continual Learning", 2021, whose B holds
        95 to 99 % of the energy of the inputs; behind Adam as in Wang, Li, Sun, Xu, "Training
        Networks in Null Space of Feature Covariance for Continual Learning", 2021.
    """

    def project(updates, memory):
        if name not in memory:
            raise ValueError(f"null_space_projection: no {name!r} in memory: {sorted(memory)}")
        wanted = {
            f"{player}/{path}": basis
            for player, bases in memory[name].items()
            for path, basis in bases.items()
        }
        paths = [_path(path) for path, _ in jax.tree.leaves_with_path(updates)]
        unknown = sorted(set(wanted) - set(paths))
        if unknown:
            raise ValueError(f"null_space_projection: no leaves {unknown}; there are {paths}")

        def one(path, update):
            basis = wanted.get(_path(path))
            return update if basis is None else _without(update, basis, _path(path))

        return jax.tree_util.tree_map_with_path(one, updates)

    return project


def _without(update, basis, path):
    inputs = math.prod(update.shape[:-1])
    if basis.ndim != 2 or basis.shape[0] != inputs:
        raise ValueError(
            f"{path} {update.shape} has {inputs} inputs: its basis must be [{inputs}, R], got "
            f"{basis.shape}"
        )
    rows = update.reshape(inputs, -1)
    kept = rows - _dot(basis, _dot(basis.T, rows))
    return kept.reshape(update.shape).astype(update.dtype)


def _gram_rule(weights, shared=(), *, reads_memory=False):
    """The rule that sums gradients with `weights(sorted term names, P[, memory])`."""

    def rule(grads, values, memory):
        del values  # these rules see gradients alone
        names = sorted(grads)
        chosen = _shared(grads[names[0]], shared)
        gram = _gram([grads[name] for name in names], chosen)
        found = weights(names, gram, memory) if reads_memory else weights(names, gram)
        return _combined(grads, found, chosen), memory

    return rule


def _gram(trees, chosen):
    """P over the chosen leaves, `[K, K]` in at least float32."""
    total = 0.0
    for use, *leaves in zip(*map(jax.tree.leaves, [chosen, *trees]), strict=True):
        if use:
            rows = jnp.stack([x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves])
            axes = tuple(range(1, rows.ndim))
            total = total + jnp.tensordot(rows, rows, (axes, axes), precision=_EXACT)
    return total


def _combined(grads, weights, chosen):
    """Σ_i w_i g_i over the chosen leaves and Σ_i g_i over the others."""
    trees = [grads[name] for name in sorted(grads)]

    def one(use, *leaves):
        wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
        factors = weights.astype(wide) if use else jnp.ones(len(leaves), wide)
        total = sum(w * leaf.astype(wide) for w, leaf in zip(factors, leaves, strict=True))
        return total.astype(leaves[0].dtype)

    return jax.tree.map(one, chosen, *trees)


def _shared(tree, patterns):
    """The tree of booleans that says which leaves the patterns name; all for no patterns."""
    names = [_path(path) for path, _ in jax.tree.leaves_with_path(tree)]
    idle = [pattern for pattern in patterns if not any(re.search(pattern, n) for n in names)]
    if idle:
        raise ValueError(f"patterns {idle} match no parameter; there are {names}")
    found = [not patterns or any(re.search(pattern, n) for pattern in patterns) for n in names]
    return jax.tree.unflatten(jax.tree.structure(tree), found)


def _path(path):
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def _named(names, chosen, argument):
    """Which of the terms `names` are the chosen ones: some, and not all."""
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    unknown = sorted(set(chosen) - set(names))
    if unknown or not chosen or set(chosen) == set(names):
        wrong = f"{unknown} are no terms" if unknown else "must name some of the terms and not all"
        raise ValueError(f"{argument}={chosen}: {wrong}; there are {names}")
    return [name in chosen for name in names]


def _dot(left, right):
    return jnp.matmul(left, right, precision=_EXACT)


def _nonnegative_minimum(quadratic, linear):
    """argmin over u ≥ 0 of ½ u'Pu + c'u, for P positive semi-definite.

    The active-set method of Lawson and Hanson, at a fixed number of rounds so that it lives inside
    jit and vmap: a round solves for the free variables and then frees the one that gains most, or, if
    some of them would turn negative, goes as far as it can and fixes those at zero.
    """
    size, rounding = len(linear), jnp.finfo(quadratic.dtype).eps
    diagonal = jnp.diagonal(quadratic)
    # A row of zeros counts as small as the smallest, so that its c is not lost beside the others'.
    smallest = jnp.min(jnp.where(diagonal > 0, diagonal, jnp.inf))
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 1)
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, smallest))
    p = quadratic / (scale[:, None] * scale[None, :])
    c = linear / scale
    largest = jnp.max(jnp.abs(c))
    c = c / jnp.where(largest > 0, largest, 1)
    tolerance = 10 * size * rounding

    def improved(_, carry):
        u, free = carry
        both = free[:, None] & free[None, :]
        # The ridge makes repeated rows of P solvable; it is rounding beside the diagonal of ones.
        system = jnp.where(both, p, 0) + jnp.diag(jnp.where(free, 4 * rounding, 1))
        goal = jnp.linalg.solve(system, jnp.where(free, -c, 0))
        negative = free & (goal <= 0)
        blocked = jnp.any(negative)
        gap = jnp.where(negative & (u > 0), u - goal, 1)
        ratios = jnp.where(negative, jnp.where(u > 0, u / gap, 0), jnp.inf)
        stride = jnp.where(blocked, jnp.min(ratios), 1)
        u = jnp.where(free, u + stride * (goal - u), 0)
        gain = jnp.where(free, -jnp.inf, -(_dot(p, u) + c))
        enters = (jnp.arange(size) == jnp.argmax(gain)) & (gain > tolerance)
        free = jnp.where(blocked, free & ~(negative & (ratios <= stride)), free | enters)
        return jnp.where(free, jnp.maximum(u, 0), 0), free

    start = (jnp.zeros_like(c), jnp.zeros(size, bool))
    u, _ = jax.lax.fori_loop(0, 6 * size, improved, start)
    return u * largest / scale
