"""Where examples come from: prepared TFDS sets, the user's own arrays, JSONL.

A source numbers its examples 0 .. N - 1 over all its splits; plans, caches and memories speak of
examples by that number.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

MEMORY_LIMIT = 2 * 2**30


@dataclass(frozen=True, eq=False)
class Source:
    """Examples with named columns.

    Args:
        name: for messages and run records.
        columns: `{name: [N, ...]}` in memory. Strings are arrays of objects, for the host alone.
        splits: `{name: int32[n]}`, example numbers.
        num_classes: the number of classes of the column "label", None without one.
        fingerprint: sha256 of the data, for run records: two runs on other data do not compare.
        class_names: the classes' names where the source knows them, else empty.
        read: `indices [...] -> {name: [..., shape]}` for columns too large for the memory, else
            None.
    """

    name: str
    columns: Mapping[str, np.ndarray]
    splits: Mapping[str, np.ndarray]
    num_classes: int | None
    fingerprint: str
    class_names: tuple[str, ...] = ()
    read: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None

    def __len__(self):
        return len(next(iter(self.columns.values())))


class NotPreparedError(FileNotFoundError):
    """A data set that is not where it was looked for; the message says how to prepare it."""


def default_data_dir() -> Path:
    """Where data sets of our own builders go unless a folder is given: `~/.cache/kdjax/data`."""
    return Path.home() / ".cache" / "kdjax" / "data"


def load_arrays(*, splits=None, num_classes=None, name="arrays", **columns) -> Source:
    """The user's own arrays, one keyword per column.

    Args:
        splits: `{name: example numbers}`; by default everything is "train".
        num_classes: for the column "label"; by default its largest value plus one.
        name: for messages and run records.
        **columns: arrays whose leading axis counts examples. "image" (`[N, H, W, C]`, uint8 or
            floats) and "label" (`[N]` integers) are what the recipes for images read.

    Raises:
        ValueError: no columns, lengths that differ, labels or splits out of range.

    >>> source = load_arrays(image=np.zeros((6, 8, 8, 1), np.uint8), label=np.arange(6) % 3)
    >>> len(source), source.num_classes
    (6, 3)
    """
    return _source(name, columns, splits, num_classes)


def load_npz(path, *, num_classes=None) -> Source:
    """Arrays of a `.npz` file: each key is a column, or `SPLIT/column` for a set with splits.

    Files with pickled objects are refused. Args and raises are those of `load_arrays`.
    """
    path = _existing(path, "a file written by numpy.savez, with one array per column")
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    by_split: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        split, _, column = key.rpartition("/")
        by_split.setdefault(split or "train", {})[column] = array
    return _joined(path.stem, by_split, num_classes)


def load_jsonl(paths, columns: Sequence[str], *, num_classes=None) -> Source:
    """JSON lines: one object per line, of which `columns` are read.

    Numbers and equally long lists of numbers become arrays. Strings stay strings; in the column
    "label" they are class names, numbered in sorted order over all splits.

    Args:
        paths: one file, or `{split: file}`.
        columns: the names to read.
        num_classes: as for `load_arrays`.

    Raises:
        FileNotFoundError: no such file. ValueError: a line that is no JSON object or lacks a
        column, or values of one column that do not stack: with the file and the line.
    """
    files = paths if isinstance(paths, Mapping) else {"train": paths}
    rows = {split: _json_rows(path, columns) for split, path in files.items()}
    names: tuple[str, ...] = ()
    if "label" in columns:
        seen = {row["label"] for _, lines in rows.values() for row in lines if _text(row["label"])}
        names = tuple(sorted(seen))
    number = {name: i for i, name in enumerate(names)}
    by_split: dict[str, dict[str, np.ndarray]] = {}
    for split, (path, lines) in rows.items():
        by_split[split] = {}
        for column in columns:
            values = [row[column] for row in lines]
            if column == "label" and names:
                values = [number.get(value, value) if _text(value) else value for value in values]
                if not all(_text(row[column]) for row in lines):
                    raise ValueError(f"{path}: labels are partly strings, partly not")
            by_split[split][column] = _stack(values, path, column)
    stem = Path(next(iter(files.values()))).stem
    return _joined(stem, by_split, num_classes or len(names) or None, names)


def load_tfds(
    name: str,
    data_dir=None,
    *,
    manual_dir=None,
    splits: Sequence[str] | None = None,
    transform: Callable[[dict], dict] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Source:
    """A prepared TFDS data set, read from its files, without its builder's code or TensorFlow.

    Numeric features become columns under their TFDS names; others (names, texts) are left out.
    Sets of our own (`kdjax.data.builders`) are prepared on first use.

    Args:
        name: as in TFDS: "fashion_mnist", "imagenet_v2/matched-frequency", "cifar10:3.0.2".
        data_dir: the TFDS data directory; `default_data_dir()` if None.
        manual_dir: the folder of raw files, for builders that read some.
        splits: the splits to read; by default those of train, validation and test that there are.
        transform: `example -> example` on the host, before stacking: where images differ in size,
            it makes them one size.
        memory_limit: bytes of decoded examples up to which everything is kept in memory; above,
            scalars (the labels) are kept and the rest is read on demand (`Source.read`).

    Raises:
        NotPreparedError: nothing prepared under `data_dir`, or not as ArrayRecord.
        ValueError: an unknown split, examples that do not stack.
    """
    # Here, since TFDS is needed for prepared sets alone.
    import tensorflow_datasets as tfds

    data_dir = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    builder = _find_builder(tfds, name, data_dir, manual_dir)
    info = builder.info
    there = sorted(info.splits)
    chosen = list(splits or [s for s in ("train", "validation", "test") if s in there])
    if not chosen or set(chosen) - set(there):
        raise ValueError(f"{name} has splits {there}, wanted {chosen or 'train or test'}")
    features = dict(info.features.items())
    images = {
        column: feature.shape[-1]
        for column, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    undecoded = dict.fromkeys(images, tfds.decode.SkipDecoding())
    records = [builder.as_data_source(split=split, decoders=undecoded) for split in chosen]
    sizes = {split: len(examples) for split, examples in zip(chosen, records, strict=True)}
    if not all(sizes.values()):
        raise ValueError(f"{name} has an empty split: {sizes}")
    offsets = np.cumsum([0, *sizes.values()])
    size = int(offsets[-1])
    numbers = {
        split: np.arange(offset, offset + sizes[split], dtype=np.int32)
        for split, offset in zip(chosen, offsets[:-1], strict=True)
    }
    reader = _Reader(name, records, offsets, images, transform)
    first = reader.example(records[0][0])
    if not first:
        raise ValueError(f"{name} has no numeric features: {sorted(features)}")
    label = features.get("label")
    class_names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    num_classes = len(class_names) or None
    if size * sum(value.nbytes for value in first.values()) <= memory_limit:
        columns = reader.columns(first, np.arange(size))
        identity = fingerprint(columns, numbers)
        return Source(name, columns, numbers, num_classes, identity, class_names)
    # Scalars stay in memory: splits and samplers read the labels.
    small = {column: value for column, value in first.items() if value.ndim == 0}
    large = {column: value for column, value in first.items() if value.ndim > 0}
    if not small:
        raise ValueError(f"{name} is above memory_limit and has no scalar feature to keep")
    columns = reader.columns(small, np.arange(size))
    # Hashing every image would cost a pass of decoding: the writer's record of them stands in.
    written = np.frombuffer((builder.data_path / "dataset_info.json").read_bytes(), np.uint8)
    identity = fingerprint({**columns, "dataset_info": written}, numbers)
    read = functools.partial(reader.columns, large)
    return Source(name, columns, numbers, num_classes, identity, class_names, read)


def fingerprint(columns: Mapping[str, np.ndarray], splits: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names, dtypes, shapes and bytes of columns and splits, in sorted order."""
    digest = hashlib.sha256()
    for kind, arrays in (("column", columns), ("split", splits)):
        for name in sorted(arrays):
            array = np.asarray(arrays[name])
            digest.update(f"{kind} {name} {array.dtype.str} {array.shape};".encode())
            if array.dtype == object:
                for text in array.ravel():
                    digest.update(f"{len(text)} {text}".encode())
            else:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class _Reader:
    """Examples of several TFDS data sources, by their number in the whole.

    Images are decoded here by PIL: TFDS decodes by OpenCV where that is installed, and two decoders
    give two sets of pixels for one JPEG.
    """

    def __init__(self, name, records, offsets, images, transform):
        self.name, self.records, self.offsets = name, records, offsets
        self.images, self.transform = images, transform

    def columns(self, like, index):
        """`{column: [..., shape]}` for `index [...]` and one example `like` what is wanted."""
        index = np.asarray(index)
        flat = index.ravel()
        columns = {
            column: np.empty(flat.shape + value.shape, value.dtype)
            for column, value in like.items()
        }
        part_of = np.searchsorted(self.offsets, flat, side="right") - 1
        for part, records in enumerate(self.records):
            places = np.flatnonzero(part_of == part)
            for few in np.split(places, range(256, len(places), 256)):
                wanted = (flat[few] - self.offsets[part]).tolist()
                found = records.__getitems__(wanted) if wanted else []
                for place, record in zip(few, found, strict=True):
                    self._put(columns, place, flat[place], self.example(record, columns))
        return {
            column: values.reshape(index.shape + values.shape[1:])
            for column, values in columns.items()
        }

    def example(self, record, wanted=None):
        """The record's numeric features as arrays, narrowed as JAX would."""
        needless = set() if wanted is None or self.transform else set(self.images) - set(wanted)
        values = {name: value for name, value in record.items() if name not in needless}
        for name in self.images.keys() & values.keys():
            values[name] = _decoded(values[name], self.images[name])
        arrays = {}
        for name, value in (self.transform(values) if self.transform else values).items():
            array = None if isinstance(value, Mapping) else np.asarray(value)
            if array is not None and array.dtype.kind in "biuf":
                arrays[name] = _narrowed(array, f"{self.name}: {name}")
        return arrays

    def _put(self, columns, place, number, example):
        for column, target in columns.items():
            if example[column].shape != target.shape[1:]:
                raise ValueError(
                    f"{self.name}: {column} of example {number} has shape {example[column].shape}, "
                    f"the first has {target.shape[1:]}: pass transform= to make them one size"
                )
            target[place] = example[column]


def _narrowed(array, what):
    """64-bit numbers, which files hold for want of a type, as the 32 bits that JAX would keep."""
    if array.dtype == np.int64:
        if array.min(initial=0) < -(2**31) or array.max(initial=0) >= 2**31:
            raise ValueError(f"{what} holds {array.max()}, more than 32 bits: leave it out")
        return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _decoded(content, channels):
    """`[H, W, channels]` from an encoded image."""
    image = PIL.Image.open(io.BytesIO(content))
    if image.mode == "P" or len(image.getbands()) != channels:
        image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def _find_builder(tfds, name, data_dir, manual_dir):
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        builder = None
    if builder is None:
        builder = _prepare_own(tfds, name, data_dir, manual_dir)
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if not formats & {"array_record", "parquet"}:
        raise NotPreparedError(
            f"data set {name!r} in {builder.data_path} is prepared as {sorted(formats)}, which has "
            f"no random access: {_command(name, data_dir)}"
        )
    return builder


def _prepare_own(tfds, name, data_dir, manual_dir):
    from kdjax.data import builders

    if name not in builders.BUILDERS:
        raise NotPreparedError(_how_to_prepare(name, data_dir, sorted(builders.BUILDERS)))
    builder_class = builders.BUILDERS[name]
    if builder_class.FILES:
        folder = None if manual_dir is None else Path(manual_dir).expanduser()
        missing = [f for f in builder_class.FILES if folder is None or not (folder / f).is_file()]
        if missing:
            raise NotPreparedError(
                f"data set {name!r} is not prepared in {data_dir} and is made from raw files: "
                f"{missing} not found, manual_dir is {manual_dir}. "
                f"{builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        manual_dir = folder
    folder = builders.base.prepare(builder_class, data_dir, manual_dir=manual_dir)
    return tfds.builder_from_directory(folder)


def _how_to_prepare(name, data_dir, own):
    found = "there is no such folder"
    if data_dir.is_dir():
        infos = data_dir.glob("[!.]*/*/dataset_info.json")
        prepared = sorted({info.parent.parent.name for info in infos})
        found = f"prepared there: {', '.join(prepared) or 'nothing'}"
    return (
        f"data set {name!r} is not prepared: looked for VERSION/dataset_info.json in "
        f"{data_dir / name} ({found}); {_command(name, data_dir)} "
        f"Prepared on first use, without TensorFlow: {', '.join(own)}."
    )


def _command(name, data_dir):
    return (
        "prepare it once, on a machine with TensorFlow: "
        f"`tfds build {name} --data_dir={data_dir} --file_format=array_record`."
    )


def _joined(name, by_split, num_classes, class_names=()):
    """One source of several splits' columns, numbered one after the other."""
    wanted = {split: sorted(columns) for split, columns in by_split.items()}
    if len({tuple(names) for names in wanted.values()}) > 1:
        raise ValueError(f"{name}: every split must have the same columns, got {wanted}")
    sizes = {split: _length(name, columns) for split, columns in by_split.items()}
    stops = np.cumsum(list(sizes.values()))
    splits = {
        split: np.arange(stop - size, stop)
        for (split, size), stop in zip(sizes.items(), stops, strict=True)
    }
    columns = {
        column: np.concatenate([part[column] for part in by_split.values()])
        for column in next(iter(by_split.values()), {})
    }
    return _source(name, columns, splits, num_classes, class_names)


def _source(name, columns, splits, num_classes, class_names=()):
    columns = {column: np.asarray(values) for column, values in columns.items()}
    size = _length(name, columns)
    splits = {"train": np.arange(size)} if splits is None else splits
    splits = {split: np.asarray(numbers) for split, numbers in splits.items()}
    for split, numbers in splits.items():
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise TypeError(f"split {split} must be one axis of integers, got {numbers.dtype}")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= size):
            raise ValueError(
                f"split {split} must hold numbers from 0 to {size - 1}, "
                f"got {numbers.min()} to {numbers.max()}"
            )
    together = np.concatenate(list(splits.values()))
    if len(np.unique(together)) < len(together):
        raise ValueError(f"splits {sorted(splits)} must be disjoint and hold no example twice")
    label = columns.get("label")
    if label is not None and label.ndim == 1 and np.issubdtype(label.dtype, np.integer):
        columns["label"] = label.astype(np.int32)
        num_classes = int(label.max()) + 1 if num_classes is None else num_classes
        if label.min() < 0 or label.max() >= num_classes:
            raise ValueError(
                f"labels must be from 0 to {num_classes - 1}, got {label.min()} to {label.max()}"
            )
    splits = {split: numbers.astype(np.int32) for split, numbers in splits.items()}
    return Source(name, columns, splits, num_classes, fingerprint(columns, splits), class_names)


def _length(name, columns):
    lengths = {
        column: len(values) if np.ndim(values) else None for column, values in columns.items()
    }
    if not lengths or len(set(lengths.values())) > 1 or None in lengths.values():
        raise ValueError(f"{name}: columns must be arrays of one length, got {lengths or 'none'}")
    (size,) = set(lengths.values())
    if not size:
        raise ValueError(f"{name}: no examples")
    return size


def _existing(path, what):
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: wanted {what}")
    return path


def _json_rows(path, columns):
    path = _existing(path, f"a file of JSON objects with {list(columns)}, one per line")
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
            there = sorted(row) if isinstance(row, dict) else []
            missing = [column for column in columns if column not in there]
            if missing:
                raise ValueError(
                    f"{path}, line {number}: wanted an object with {list(columns)}, "
                    f"no {missing} in {line.strip()[:60]}"
                )
            rows.append(row)
    return path, rows


def _stack(values, path, column):
    texts = [_text(value) for value in values]
    if all(texts):
        return np.array(values, dtype=object)
    first = np.asarray(values[0]) if not any(texts) else None
    if first is None or first.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {column} must be all strings or all numbers")
    for number, value in enumerate(values):
        try:
            shape = np.shape(value)
        except ValueError:
            shape = "ragged"
        if shape != first.shape:
            raise ValueError(
                f"{path}: {column} of object {number} has shape {shape}, the first has "
                f"{first.shape}: pad them to one length"
            )
    stacked = np.asarray(values)
    if stacked.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {column} must be numbers, got {stacked.dtype}")
    return _narrowed(stacked, f"{path}: {column}")


def _text(value):
    return isinstance(value, str)
