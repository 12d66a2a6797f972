"""What the comparison reads: an adapter for each recorded entry, an example for each public loss."""

from collections.abc import Callable
from typing import Any, NamedTuple


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
    """

    build: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
    student: tuple[int, ...] = (0,)
    teacher: tuple[int, ...] = (1,)
    classes: tuple[int, ...] = ()
    same: bool = True
    zero_at_teacher: bool = True
    where: Callable[[int], tuple[int, ...]] | None = lambda batch: (batch,)
    permutes: bool = True


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
