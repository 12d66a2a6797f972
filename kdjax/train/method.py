"""What a method is: the players it brings, the phases of its step, and the terms they minimise."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from kdjax.losses import total_and_count

Objective = Callable[[Any], tuple[Mapping[str, "Term"], Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Term:
    """One named part of a loss: sum_k weight_k · total_k / count_k is what a step minimises.

    `total` is differentiated. `count` and `weight` are not; `weight` may depend on the step, on
    memory and on frozen outputs, and `count` must not depend on trained parameters. `couples` says
    that the value mixes examples; `gathered` that the objective handed it the global batch
    (`scope.gather`), which a coupling term needs under pmap.
    """

    total: jax.Array
    count: jax.Array
    weight: Any = 1.0
    couples: bool = False
    gathered: bool = False


def term(values, *, where=None, weight=1.0, couples=False, gathered=False) -> Term:
    """The term of a loss's values `[...]`, counted over what `where` keeps."""
    total, count = total_and_count(values, where)
    return Term(total, count, weight, couples, gathered)


class Phase(NamedTuple):
    """One update of some players: an objective, who it trains, and how gradients become updates.

    `objective(scope) -> (terms, updates)`, `terms = {name: Term}`, `updates` a dict with any of
    `"model"` (`{player: new model state}`), `"memory"` (`{name: tree}`) and `"batch"` (`{stream:
    arrays}`, seen by the later phases of the same step).
    A phase that trains nobody may have no terms: it makes data for the next or fills a memory.
    `rule(grads {term: {player: tree}}, values {term: scalar}, memory) -> (grads {player: tree},
    memory)` combines one gradient per term, at a backward pass per term. `project(updates {player:
    tree}, memory) -> updates` acts behind the optimiser. `micro_batches` splits the batch and
    accumulates to the full batch's gradient; `repeats` runs the phase that often on one batch. Under
    pmap, what goes into updates must be the same on every device (`scope.gather`).
    """

    objective: Objective
    trains: tuple[str, ...]
    rule: Callable[..., Any] | None = None
    project: Callable[..., Any] | None = None
    micro_batches: int = 1
    repeats: int = 1


class Method(NamedTuple):
    """A published method: `phases` over the networks at hand and over the players it brings itself.

    `players` maps a name to `make(shapes) -> (Network, inputs)`: `shapes` holds the `Outputs` of
    every network at hand as `ShapeDtypeStruct`s, so that a projector is sized without a batch, and
    `inputs` are the shapes it is initialised with. `hyper` are the numbers that reach the objective
    as traced leaves of the state (`scope.hyper`), so that trials of a method share one program.
    `averages` maps a player to its moving average's decay, a function of the step. `memory` maps a
    name to the initial tree of what the phases remember between steps, or to a function that makes it
    from the initial `{player: params}`.
    """

    players: Mapping[str, Callable[..., Any]]
    phases: tuple[Phase, ...]
    hyper: Mapping[str, Any] = {}
    averages: Mapping[str, Callable[..., Any]] = {}
    memory: Mapping[str, Any] = {}


def one_phase(
    objective: Objective,
    players: Mapping[str, Callable[..., Any]] | None = None,
    *,
    trains: tuple[str, ...] | None = None,
    averages: Mapping[str, Callable[..., Any]] | None = None,
    memory: Mapping[str, Any] | None = None,
    **hyper: Any,
) -> Method:
    """A method that updates all it trains together: the student and the method's own players by default.

    >>> from kdjax.methods.supervised import supervised
    >>> supervised().phases[0].trains
    ('student',)
    """
    players = players or {}
    phase = Phase(objective, ("student", *players) if trains is None else trains)
    return Method(players, (phase,), hyper, averages or {}, memory or {})


def join(*methods: Method) -> Method:
    """One method that minimises the terms of several in one update.

    The methods must have one phase each, train without rules and agree on micro-batches and repeats;
    names of players, hyperparameters, averages, memories and terms must differ.
    """
    for method in methods:
        if len(method.phases) != 1 or method.phases[0].rule or method.phases[0].project:
            raise ValueError("join takes methods of one phase without a rule or projection")
    phases = [method.phases[0] for method in methods]
    for name in ("micro_batches", "repeats"):
        settings = [getattr(phase, name) for phase in phases]
        if len(set(settings)) > 1:
            raise ValueError(f"joined methods must agree on {name}, got {settings}")

    def objective(scope):
        terms: dict[str, Term] = {}
        updates: dict[str, dict[str, Any]] = {}
        for phase in phases:
            new_terms, new_updates = phase.objective(scope)
            terms = _disjoint("terms", terms, new_terms)
            for kind, tree in new_updates.items():
                # Joined objectives share a forward pass, and with it one new model state.
                updates[kind] = {**updates.get(kind, {}), **tree}
        return terms, updates

    merged: dict[str, dict[str, Any]] = {}
    for name in ("players", "hyper", "averages", "memory"):
        merged[name] = {}
        for method in methods:
            merged[name] = _disjoint(name, merged[name], getattr(method, name))
    trains = tuple(dict.fromkeys(player for phase in phases for player in phase.trains))
    return Method(phases=(phases[0]._replace(objective=objective, trains=trains),), **merged)


def _disjoint(what, left, right):
    shared = sorted(set(left) & set(right))
    if shared:
        raise ValueError(f"joined methods both have {what} named {shared}: rename one of them")
    return {**left, **right}
