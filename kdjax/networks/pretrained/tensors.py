"""Safetensors files, mapped into memory: a slice of a tensor reads the pages that it lies on.

The layout: eight bytes n, little-endian; n bytes of JSON, name -> dtype, shape, data_offsets; the
values, row by row, back to back. Everything is checked when a file is opened, before a value is
read.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kdjax.networks.pretrained.architecture import LayoutError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_LONGEST_HEADER = 100_000_000  # what the format's own reader allows


class Stored(NamedTuple):
    """A tensor in a file: `array()` maps it, without reading it."""

    name: str
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int

    def array(self) -> np.ndarray:
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.dtype)
        count = math.prod(self.shape) * self.dtype.itemsize
        raw = np.memmap(self.file, np.uint8, "r", self.start, (count,))
        return raw.view(np.ndarray).view(self.dtype).reshape(self.shape)


def open_file(file: Path) -> dict[str, Stored]:
    """The tensors of one file by name.

    Raises:
        LayoutError: a file that is no safetensors file (a pickle is never loaded), is truncated, names
            a tensor twice, or whose tensors overlap or leave gaps.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        head, first = stream.read(8), stream.read(1)
        if head.startswith(_PICKLED) and first != b"{":
            raise LayoutError(
                f"{file.name} is a pickle, which can run any code when it is read: it is not loaded"
            )
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(_LONGEST_HEADER, size - 8):
            raise LayoutError(f"{file.name} is truncated or no safetensors file: {size} bytes")
        header = first + stream.read(length - 1)
    try:
        entries = json.loads(header, object_pairs_hook=_once(file))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(
            f"{file.name} is no safetensors file: its header is no JSON ({error})"
        ) from None
    if not isinstance(entries, dict):
        raise LayoutError(f"{file.name} is no safetensors file: its header is no JSON object")
    entries.pop("__metadata__", None)
    stored, spans = {}, []
    for name, entry in entries.items():
        dtype, shape, (start, stop) = _entry(file, name, entry)
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise LayoutError(
                f"{file.name}: tensor {name!r} {dtype} {shape} has {stop - start} bytes"
            )
        spans.append((start, stop, name))
        stored[name] = Stored(name, file, dtype, shape, 8 + length + start)
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise LayoutError(
                f"{file.name}: tensor {name!r} starts at byte {start} of the values, not at {end}"
            )
        end = stop
    if 8 + length + end != size:
        # The tensor that the file's end cuts off, which names what is lost.
        lost = [name for _, stop, name in sorted(spans) if 8 + length + stop > size]
        what = f"truncated: tensor {lost[0]!r} lies past its end" if lost else "too long"
        raise LayoutError(
            f"{file.name} is {what}: {size} bytes, its header says {8 + length + end}"
        )
    return stored


def open_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of a folder by name: of `model.safetensors`, or of the shards that its index lists.

    Raises:
        LayoutError: no safetensors files (pickled weights are never loaded), a shard that is missing,
            a tensor that is not where the index says, is not in the index or is in two shards; and
            as `open_file`.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise LayoutError(f"{folder} has both {SINGLE} and {INDEX}: which of them is meant?")
    if single.exists():
        return open_file(single)
    if not index.exists():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise LayoutError(
                f"{folder} has its weights as pickles {pickles}, which can run any code when they "
                f"are read: convert them to {SINGLE} first"
            )
        raise LayoutError(f"{folder} has neither {SINGLE} nor {INDEX}")
    places = _weight_map(index)
    missing = sorted({file for file in places.values() if not (folder / file).is_file()})
    if missing:
        lost = [name for name, file in places.items() if file in missing]
        raise LayoutError(
            f"{folder} lacks the shards {missing}, where {INDEX} puts {len(lost)} tensors, "
            f"{lost[0]!r} first"
        )
    stored: dict[str, Stored] = {}
    for file in sorted(set(places.values())):
        for name, tensor in open_file(folder / file).items():
            if name in stored:
                raise LayoutError(
                    f"tensor {name!r} is in two shards, {stored[name].file.name} and {file}"
                )
            if places.get(name) != file:
                said = places.get(name, "nowhere")
                raise LayoutError(f"tensor {name!r} is in {file}, {INDEX} says {said}")
            stored[name] = tensor
    lost = [f"{name!r} in {file}" for name, file in places.items() if name not in stored]
    if lost:
        raise LayoutError(f"{INDEX} names tensors that are not there: {', '.join(lost[:5])}")
    return stored


class Pending(NamedTuple):
    """A tensor to write: its dtype and shape, and `values()`, called when its turn comes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_folder(folder: Path, tensors: Mapping[str, Pending], *, shard_bytes: int) -> None:
    """Writes tensors to `model.safetensors`, or to shards of at most `shard_bytes` and their index.

    One tensor is in memory at a time. A tensor larger than a shard has one of its own.
    """
    shards: list[dict[str, Pending]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.size
    if len(shards) == 1:
        write_file(folder / SINGLE, shards[0])
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, shard)
        places.update(dict.fromkeys(shard, file))
    total = sum(tensor.size for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def write_file(file: Path, tensors: Mapping[str, Pending]) -> None:
    """Writes one safetensors file and waits until it is on the disk."""
    # The widest first: every tensor then begins at a multiple of its own width.
    order = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in order:
        span = [end, end + tensor.size]
        dtype = _NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": span}
        end += tensor.size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(file, "wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, tensor in order:
            values = np.asarray(tensor.values(), order="C")
            if values.shape != tensor.shape or values.dtype != tensor.dtype:
                raise ValueError(
                    f"tensor {name!r} was to be {tensor.dtype} {tensor.shape}, its values are "
                    f"{values.dtype} {values.shape}"
                )
            stream.write(values.reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())


def _once(file):
    """A JSON object whose keys are all different."""

    def pairs(items: Iterable[tuple[str, Any]]):
        found: dict[str, Any] = {}
        for name, value in items:
            if name in found:
                raise LayoutError(f"{file.name} names {name!r} twice")
            found[name] = value
        return found

    return pairs


def _entry(file, name, entry):
    try:
        kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        sound = all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop))
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise LayoutError(f"{file.name}: the entry of tensor {name!r} is damaged: {entry}")
    if kind not in DTYPES:
        raise LayoutError(f"{file.name}: tensor {name!r} has dtype {kind}, not one of {[*DTYPES]}")
    return DTYPES[kind], shape, (start, stop)


def _weight_map(index):
    try:
        listed = json.loads(index.read_text(), object_pairs_hook=_once(index))
        places = dict(listed["weight_map"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, LayoutError):
            raise
        raise LayoutError(f"{index.name} is no index of shards: {error!r}") from None
    for name, file in places.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise LayoutError(f"{index.name} puts tensor {name!r} outside the folder: {file!r}")
    return places
