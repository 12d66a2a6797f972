"""Recorded references: what other projects' loss code gave, read from every NAME.json + NAME.npz.

Two formats, told apart by the entry itself: vision entries name their arrays in `student_inputs`,
`other_inputs` and `params` and may have a float64 run; sequence entries list `inputs` and `keys`.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Run(NamedTuple):
    """What one execution gave: numbers by key, and d value / d input by input name."""

    values: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


class Entry(NamedTuple):
    """One recorded call of another project's loss.

    `arrays`: the inputs by short name, parameters as `param/NAME`. `single`, `double`: what the
    float32 and the float64 execution gave; `double` is None where only float32 was recorded.
    `not_smooth`: the recorder's note that the gradient is not to be matched at this point.
    """

    name: str
    method: str
    source: str
    arrays: dict[str, np.ndarray]
    hyperparameters: dict[str, Any]
    single: Run
    double: Run | None
    peer_quirk: str
    not_smooth: str


def read(folder):
    """Every entry of every NAME.json beside its NAME.npz in `folder`, in the files' order."""
    indices = sorted(pathlib.Path(folder).glob("*.json"))
    pairs = [(path, path.with_suffix(".npz")) for path in indices]
    pairs = [(index, arrays) for index, arrays in pairs if arrays.exists()]
    if not pairs:
        raise FileNotFoundError(f"{folder} holds no NAME.json beside a NAME.npz")
    return [entry for index, arrays in pairs for entry in read_pair(index, arrays)]


def read_pair(index, arrays):
    """The entries of one NAME.json and its NAME.npz."""
    listed = json.loads(pathlib.Path(index).read_text())["entries"]
    if isinstance(listed, Mapping):
        listed = [{**entry, "name": name} for name, entry in listed.items()]
    with np.load(arrays) as stored:
        held = {key: stored[key] for key in stored.files}
    return [_vision(e, held) if "output_key" in e else _sequence(e, held) for e in listed]


def short(key):
    """The name of an array inside its entry: the last component of its key."""
    return key.rsplit("/", 1)[-1]


def _vision(entry, held):
    arrays = {short(key): held[key] for key in entry["student_inputs"] + entry["other_inputs"]}
    arrays |= {f"param/{name}": held[key] for name, key in entry.get("params", {}).items()}
    note = entry.get("fd_note", "")
    return Entry(
        name=entry["name"],
        method=entry["method"],
        source=entry["source_repo"],
        arrays=arrays,
        hyperparameters=entry["hparams"],
        single=_run(held, entry["output_key"], entry["grad_keys"]),
        double=_run(held, entry["output_key_f64"], entry["grad_keys_f64"])
        if entry.get("output_key_f64")
        else None,
        peer_quirk=entry.get("peer_quirk", ""),
        # The recorder measured these gradients against finite differences and says which ones are
        # artefacts of a non-smooth point; notes on stop_gradients say nothing of the kind.
        not_smooth=note if "compare the value" in note or "do not match" in note else "",
    )


def _run(held, output_key, grad_keys):
    return Run({"value": held[output_key]}, {short(key): held[key] for key in grad_keys})


def _sequence(entry, held):
    source, _, what = entry["source"].partition(" ")
    values = {name: held[key] for name, key in entry["keys"].items() if name[:5] != "grad_"}
    gradients = {name[5:]: held[key] for name, key in entry["keys"].items() if name[:5] == "grad_"}
    return Entry(
        name=entry["name"],
        method=re.sub(r"\S*/| \(.*", "", what),
        source=source.partition("@")[0],
        arrays={short(key): held[key] for key in entry["inputs"]},
        hyperparameters=entry["hyperparameters"],
        single=Run(values, gradients),
        double=None,
        peer_quirk=entry.get("peer_quirk", ""),
        not_smooth="",
    )


def write_compact(folder, out):
    """A copy of `folder` for the suite: what the comparison reads and nothing else.

    Gradients are stored once, the float64 ones rounded to float32: that is within 6e-8 of them, far
    inside both tolerances, and two thirds smaller. A float32 gradient that is not the rounded float64
    one to 1e-5 of its size is kept beside it. Equal arrays are stored once.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for index in sorted(pathlib.Path(folder).glob("*.json")):
        if not index.with_suffix(".npz").exists():
            continue
        recorded = json.loads(index.read_text())
        with np.load(index.with_suffix(".npz")) as stored:
            held = {key: stored[key] for key in stored.files}
        kept = _Store()
        recorded["entries"] = [_compact(entry, held, kept) for entry in recorded["entries"]]
        np.savez_compressed(out / f"{index.stem}.npz", **kept.arrays)
        text = json.dumps(recorded, indent=0, separators=(",", ":"))
        (out / index.name).write_text(text + "\n")


_VISION_FIELDS = (
    "name",
    "method",
    "source_repo",
    "source_path",
    "student_inputs",
    "other_inputs",
    "params",
    "hparams",
    "layout",
    "reduction",
    "output_key",
    "grad_keys",
    "output_key_f64",
    "grad_keys_f64",
    "peer_quirk",
    "fd_note",
)


class _Store:
    """Arrays by key, equal ones under the first key that ends in the same name."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}
        self._keys: dict[Any, str] = {}

    def keep(self, key, array):
        same = (short(key), array.dtype.str, array.shape, array.tobytes())
        key = self._keys.setdefault(same, key)
        self.arrays[key] = array
        return key


def _compact(entry, held, kept):
    if "output_key" not in entry:
        entry["inputs"] = [kept.keep(key, held[key]) for key in entry["inputs"]]
        entry["keys"] = {name: kept.keep(key, held[key]) for name, key in entry["keys"].items()}
        return entry
    entry = {name: entry[name] for name in _VISION_FIELDS if name in entry}
    for field in ("student_inputs", "other_inputs"):
        entry[field] = [kept.keep(key, held[key]) for key in entry[field]]
    for name, key in entry.get("params", {}).items():
        entry["params"][name] = kept.keep(key, held[key])
    for field in ("output_key", "output_key_f64"):
        if field in entry:
            kept.keep(entry[field], held[entry[field]])
    singles = entry["grad_keys"]
    doubles = entry.get("grad_keys_f64", singles)
    rounded = [held[key].astype(np.float32) for key in doubles]
    entry["grad_keys"] = [
        kept.keep(single, held[single]) if not _close(held[single], x) else kept.keep(double, x)
        for single, double, x in zip(singles, doubles, rounded, strict=True)
    ]
    if "grad_keys_f64" in entry:
        pairs = zip(doubles, rounded, strict=True)
        entry["grad_keys_f64"] = [kept.keep(key, x) for key, x in pairs]
    return entry


def _close(single, rounded):
    size = np.max(np.abs(rounded), initial=0.0)
    return bool(np.all(np.abs(single - rounded) <= 1e-5 * size))
