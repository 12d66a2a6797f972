"""Our value and gradients for a recorded entry, held against what was recorded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tools.references.stress import COMPILER

# The tolerances that an independent restatement of the recorded definitions reached. In float64 what
# is below 1e-9 of an array's largest element is rounding: sums that cancel have no relative accuracy.
DOUBLE = {"rtol": 1e-5, "atol": 0.0, "floor": 1e-9}
SINGLE = {"rtol": 2e-4, "atol": 1e-6, "floor": 0.0}


class Row(NamedTuple):
    """What became of one entry; `status` is matched, differ, not covered or quirk."""

    name: str
    method: str
    source: str
    status: str
    detail: str


def compare(entry, adapter, precisions=("float32", "float64")):
    """The `Row` of one recorded entry; `adapter` is None where nobody covers it.

    An entry that was recorded in float32 alone is compared in float32, whatever `precisions` says.
    """

    def row(status, detail=""):
        return Row(entry.name, entry.method, entry.source, status, detail)

    if adapter is None:
        return row("not covered", "no adapter")
    try:
        if adapter.quirk:
            return row(*_hold_quirk(entry, adapter))
        faults = []
        if "float32" in precisions or entry.double is None:
            faults += _single_faults(entry, adapter)
        if "float64" in precisions and entry.double is not None:
            faults += _faults(
                "float64", compute(adapter, entry, np.float64), entry.double, entry, DOUBLE
            )
    except Exception as error:  # noqa: BLE001 one broken adapter must not hide the other rows
        return row("differ", f"raised {type(error).__name__}: {error}".splitlines()[0])
    if faults:
        return row("differ", "; ".join(faults))
    return row("matched", entry.not_smooth and f"the value: {entry.not_smooth}")


def compute(adapter, entry, dtype):
    """(values by key, gradients by recorded name) of the adapter in `dtype`, as NumPy arrays."""
    wide = np.dtype(dtype) == np.float64
    with jax.enable_x64(wide), jax.numpy_rank_promotion("raise"):
        arrays = {name: _placed(x, dtype) for name, x in entry.arrays.items()}
        inputs = {name: differentiated(name, arrays) for name in entry.single.gradients}
        leading = next(iter(entry.single.values), "value")

        def values_of(chosen):
            values = adapter.compute({**arrays, **chosen}, entry.hyperparameters)
            return values if isinstance(values, dict) else {leading: values}

        def leading_value(chosen):
            values = values_of(chosen)
            return values["value" if "value" in values else leading], values

        chosen = {name: arrays[name] for name in inputs.values()}
        taken, values = {}, {}
        if chosen:
            taken, values = _run(jax.grad(leading_value, has_aux=True), chosen)
        else:
            values = values_of(chosen)
        values = {name: np.asarray(value) for name, value in values.items()}
        gradients = {
            name: np.asarray(taken[source]).reshape(entry.single.gradients[name].shape)
            for name, source in inputs.items()
        }
    return values, gradients


# What a compiled adapter may raise because it looks at a number to choose its way.
_LOOKS = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _run(function, chosen):
    """One unoptimised program, since most operations of an entry are new and each costs a compile."""
    try:
        return jax.jit(function, compiler_options=COMPILER)(chosen)
    except _LOOKS:
        return function(chosen)


def differentiated(name, arrays):
    """The input that a recorded gradient belongs to; a suffix says the layout it was recorded in."""
    fitting = [known for known in arrays if name == known or name.startswith(known + "_")]
    if not fitting:
        raise KeyError(f"gradient of {name}, which is none of the inputs {sorted(arrays)}")
    return max(fitting, key=len)


def _placed(x, dtype):
    return jnp.asarray(x, dtype) if np.issubdtype(x.dtype, np.floating) else jnp.asarray(x)


def _single_faults(entry, adapter):
    ours = compute(adapter, entry, np.float32)
    theirs = entry.single
    if entry.double is not None and not _all_finite(theirs):
        # The other project left the range of float32; its float64 run says what the value is.
        theirs = entry.double
    return _faults("float32", ours, theirs, entry, SINGLE)


def _faults(precision, ours, theirs, entry, tolerance):
    values, gradients = ours
    faults = []
    for name, wanted in theirs.values.items():
        if name not in values:
            faults.append(f"{precision} {name}: the adapter gives only {sorted(values)}")
        else:
            faults += _fault(f"{precision} {name}", values[name], wanted, tolerance)
    for name, wanted in theirs.gradients.items():
        what = f"{precision} gradient of {name}"
        if entry.not_smooth:
            faults += [] if np.all(np.isfinite(gradients[name])) else [f"{what}: not finite"]
        else:
            faults += _fault(what, gradients[name], wanted, tolerance)
    return faults


def _fault(what, ours, theirs, tolerance):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if np.squeeze(ours).shape != np.squeeze(theirs).shape:
        return [f"{what}: ours has shape {ours.shape}, theirs {theirs.shape}"]
    ours = ours.reshape(theirs.shape)
    with np.errstate(invalid="ignore"):
        size = np.max(np.abs(theirs), initial=0.0)
        floor = tolerance["atol"] + tolerance["floor"] * size
        off = ~(np.abs(ours - theirs) <= tolerance["rtol"] * np.abs(theirs) + floor)
    off &= ~((ours == theirs) & np.isinf(theirs))
    if not np.any(off):
        return []
    distance = np.where(np.isfinite(ours - theirs), np.abs(ours - theirs), np.inf)
    worst = np.unravel_index(np.argmax(np.where(off, distance, -1.0)), theirs.shape)
    where = f" at {tuple(int(i) for i in worst)}, {np.sum(off)} of {off.size} off" * (off.ndim > 0)
    return [f"{what}: ours {ours[worst]:.9g}, theirs {theirs[worst]:.9g}{where}"]


def _hold_quirk(entry, adapter):
    """(status, detail) of an entry whose adapter says that the other project is wrong."""
    if not entry.peer_quirk:
        return "differ", f"claims a quirk that was not recorded: {adapter.quirk}"
    if adapter.corrected is None:
        return "differ", f"a quirk without the corrected value: {adapter.quirk}"
    values, gradients = compute(adapter, entry, np.float64)
    wanted = adapter.corrected(
        {
            name: x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x
            for name, x in entry.arrays.items()
        },
        entry.hyperparameters,
    )
    wanted = wanted if isinstance(wanted, dict) else {next(iter(entry.single.values)): wanted}
    faults = [f"corrected gives {sorted(wanted)} only"] * (
        not set(entry.single.values) <= set(wanted)
    )
    for name, value in wanted.items():
        faults += _fault(f"corrected {name}", values.get(name, np.nan), value, DOUBLE)
    for name, gradient in gradients.items():
        faults += [] if np.all(np.isfinite(gradient)) else [f"gradient of {name}: not finite"]
    return ("differ", "; ".join(faults)) if faults else ("quirk", adapter.quirk)


def _all_finite(run):
    arrays = [*run.values.values(), *run.gradients.values()]
    return all(np.all(np.isfinite(x)) for x in arrays)
