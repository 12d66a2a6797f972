"""What the comparison reads: an adapter for each recorded entry, an example for each public loss."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

import kdjax.losses
import tools.references

MACHINERY = frozenset({"__main__", "compare", "readme", "recorded", "registry", "stress"})


class Example(NamedTuple):
    """Arguments on which a public loss is stressed and probed.

    `build(rng, batch)` takes a `numpy.random.Generator` and a batch size and returns
    `(arrays, keywords)`: the positional arrays of the loss as NumPy float32 (labels as int32), and
    its keyword arguments. `student`, `teacher`: positions of the arrays that come from either side
    (what the stress cases scale, zero and duplicate). `classes`: positions of arrays whose last axis
    is classes (which then also get -inf logits). `same`: False if student and teacher arrays have
    shapes that cannot be equal. `zero_at_teacher`: the loss is zero with a zero gradient when the
    student's arrays equal the teacher's. `where`: the shape of the mask, or None without one.
    `permutes`: the leading axis is a batch whose order does not matter (values permute with it).
    `skip`: stress cases that cannot be posed for this loss, each with the reason.
    `not_derivative`: why the gradient is not the derivative everywhere near the example (a kink, a
    documented stop_gradient); finite differences are then not compared. Empty: they are.
    """

    build: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    student: tuple[int, ...] = (0,)
    teacher: tuple[int, ...] = (1,)
    classes: tuple[int, ...] = ()
    same: bool = True
    zero_at_teacher: bool = True
    where: Callable[[int], tuple[int, ...]] | None = lambda batch: (batch,)
    permutes: bool = True
    skip: Mapping[str, str] = {}
    not_derivative: str = ""


class Adapter(NamedTuple):
    """How one or more recorded entries are computed with kdjax's functions.

    `compute(x, h)` takes the entry's arrays by short name (`x["logits_s"]`; parameters as
    `x["param/NAME"]`) and its recorded hyperparameters, and returns the recorded number(s).
    `quirk`: for an entry with a `peer_quirk`, one line that says what the other project does.
    Then `compute` gives OUR, correct value, and `corrected(x, h)` is a NumPy float64 restatement of
    the correct definition that it is held against.
    """

    compute: Callable[[dict[str, Any], dict[str, Any]], Any]
    quirk: str = ""
    corrected: Callable[[dict[str, Any], dict[str, Any]], Any] | None = None


ADAPTERS: dict[str, Adapter] = {}


def covers(*names, quirk="", corrected=None):
    """Registers a function as the adapter of the entries `names`."""

    def register(compute):
        for name in names:
            if name in ADAPTERS:
                raise ValueError(f"entry {name} has two adapters")
            ADAPTERS[name] = Adapter(compute, quirk, corrected)
        return compute

    return register


def nhwc(x):
    """A recorded map `[N, C, H, W]` as kdjax has it, `[N, H, W, C]`."""
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def discover():
    """Imports every module of adapters of this package; returns (ADAPTERS, {loss: Example})."""
    examples: dict[str, Example] = {}
    for module in pkgutil.iter_modules(tools.references.__path__):
        if module.name in MACHINERY:
            continue
        found = importlib.import_module(f"tools.references.{module.name}")
        for name, example in getattr(found, "EXAMPLES", {}).items():
            if name in examples:
                raise ValueError(f"loss {name} has two examples, the second in {module.name}")
            examples[name] = example
    return ADAPTERS, examples


def public_losses():
    """{name: function} of every public loss of `kdjax.losses`, in its order."""
    return {
        name: value
        for name, value in vars(kdjax.losses).items()
        if inspect.isfunction(value) and not name.startswith("_") and name not in NOT_LOSSES
    }


# Public functions of kdjax.losses that are no losses, and why.
NOT_LOSSES = {
    "total_and_count": "reduces what losses return",
}
