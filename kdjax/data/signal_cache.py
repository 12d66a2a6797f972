"""Teacher signals on disk: written once, in parallel and resumably, read by example at random.

A cache is a folder of ArrayRecord shards with one record for each (example, augmentation seed), and
`cache.json`, which says what the signals are of. The name of a shard ends with its sha256. A record
begins with a digest of the rest of it, keyed by the sha256 of `cache.json`: one that is damaged, or
stands in another's place, or comes from another cache, is refused and named.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from kdjax.data._signal_formats import DenseFormat, HiddenFormat, SampledFormat, TopKFormat
from kdjax.signals import signal as signals

_SIGNALS: dict[type, type] = {
    DenseFormat: signals.Dense,
    HiddenFormat: signals.HiddenHead,
    TopKFormat: signals.TopK,
    SampledFormat: signals.Sampled,
}
_VERSION = 1
_DESCRIPTION, _ARRAYS = "cache.json", "arrays.npz"
_DIGEST, _KEY = 16, struct.Struct("<qq")


@dataclasses.dataclass(frozen=True)
class Binding:
    """What signals belong to; all three are checked whenever a cache is opened.

    Attributes:
        teacher: `kdjax.networks.fingerprint.fingerprint` of the teacher's variables.
        tokenizer: the tokenizer's fingerprint, None where the examples are no text.
        data: `Source.fingerprint`.
    """

    teacher: str
    tokenizer: str | None
    data: str


def write(
    folder,
    signal_of: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]],
    examples,
    format: DenseFormat | HiddenFormat | TopKFormat | SampledFormat,
    *,
    binding: Binding,
    seeds: Sequence[int] = (0,),
    length: int | None = None,
    constants: Mapping[str, Any] | None = None,
    batch_size: int = 32,
    shard_size: int = 1024,
    part: tuple[int, int] = (0, 1),
    threads: int = 1,
) -> int:
    """Writes the shards of a cache that are not there yet.

    The same call goes on where a killed one stopped. Several processes write one cache, each its own
    `part`. The files have the same bytes in whatever way the shards are shared out, if `signal_of`
    gives the same numbers for the same batch: batches are cut within shards.

    Args:
        folder: is made if there is none.
        signal_of: `(examples int64[B], seeds int64[B]) -> (signal, where)` with arrays `[B, L, ...]`
            and `where` booleans `[B, L]` or None: tokens where it is False are not stored. Always
            `batch_size` of them, the last batch of a shard filled up with its last key. It is called
            from several threads if there are several.
        examples: `[N]` distinct example numbers; records are in their order, seeds running fastest.
        format: how signals are stored.
        binding: what they are of.
        seeds: augmentation seeds, each with every example.
        length: L; None where there is one prediction for each example, and no axis of tokens.
        constants: the other fields of `HiddenHead`, "head" at least; for `HiddenFormat` alone.
        batch_size: how many records are computed at once.
        shard_size: how many records a file holds. A file has up to 128 KiB beside them.
        part: (i, n), for this call the shards i, i + n, i + 2 n, ...
        threads: how many shards are written at once.

    Returns:
        How many shards this call has written.

    Raises:
        ValueError: the folder holds a cache of something else, signals that are not what `format`
        and `length` say or hold what it cannot. RuntimeError: another process writes the same shard.

    >>> import tempfile
    >>> logits = np.random.default_rng(0).normal(size=(6, 4, 9)).astype(np.float32)
    >>> own = Binding(teacher="its sha256", tokenizer=None, data="its sha256")
    >>> def signal_of(examples, seeds):
    ...     return signals.Dense(logits[examples]), None
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = write(folder, signal_of, range(6), DenseFormat(9), binding=own, length=4)
    ...     signal, where = SignalCache(folder, own).read([5, 0])
    >>> shards, bool((signal.logits == logits[[5, 0]]).all()), where.shape
    (1, True, (2, 4))
    """
    folder = Path(folder)
    for name, number in {"batch_size": batch_size, "shard_size": shard_size}.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    if not 0 <= part[0] < part[1]:
        raise ValueError(f"part must be (i, n) with 0 <= i < n, got {part}")
    arrays = {"examples": _distinct("examples", examples), **_checked_constants(format, constants)}
    file = io.BytesIO()
    np.savez(file, **arrays)
    wanted = {
        "version": _VERSION,
        **dataclasses.asdict(binding),
        "format": {"kind": type(format).__name__, **dataclasses.asdict(format)},
        "length": length,
        "seeds": _distinct("seeds", seeds).tolist(),
        "batch_size": batch_size,
        "shard_size": shard_size,
        "arrays": {name: [*x.shape, _sha256(x.tobytes())] for name, x in arrays.items()},
        "arrays_file": _sha256(file.getvalue()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _DESCRIPTION).exists():
        _compare(folder, _description(folder)[0], wanted)
    else:
        _publish(folder / _ARRAYS, file.getvalue())
        # Last, for it says that the other is there.
        _publish(folder / _DESCRIPTION, json.dumps(wanted, indent=1).encode())
    cache = _Layout(folder)
    finished = cache.shards()
    numbers = [n for n in range(part[0], cache.number_of_shards, part[1]) if n not in finished]
    with futures.ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_write_shard, cache, n, signal_of) for n in numbers]
        try:
            return sum(job.result() for job in futures.as_completed(jobs))
        finally:
            pool.shutdown(cancel_futures=True)


class SignalCache:
    """A finished cache, opened for reading.

    Args:
        folder: what `write` has filled.
        binding: what the caller's teacher, tokenizer and data are.
        verify: whether every file is held against its sha256 now. Records are checked when they are
            read in any case.

    Raises:
        FileNotFoundError: no cache, or shards that are missing. ValueError: signals of another
        teacher, tokenizer or data, a file that is damaged: with its name.

    Attributes:
        format: as given to `write`; so are `length`, `seeds` and `examples`.
        constants: the fields of `HiddenHead` that are the same for all tokens.
    """

    def __init__(self, folder, binding: Binding, *, verify: bool = True):
        self._layout = layout = _Layout(Path(folder))
        _compare(layout.folder, layout.description, dataclasses.asdict(binding))
        self.format, self.length = layout.format, layout.length
        self.examples, self.seeds = layout.examples, layout.seeds
        self.constants = {k: x for k, x in layout.arrays.items() if k != "examples"}
        shards = layout.shards()
        missing = [n for n in range(layout.number_of_shards) if n not in shards]
        if missing:
            raise FileNotFoundError(
                f"{layout.folder}: {len(missing)} of {layout.number_of_shards} shards are missing, "
                f"the first is shard {missing[0]}: run the command that writes the cache again"
            )
        self._paths = [shards[n] for n in range(layout.number_of_shards)]
        if verify:
            with futures.ThreadPoolExecutor() as pool:
                list(pool.map(_verify, self._paths, [_sha256_of(p) for p in self._paths]))
        self._sources = [_source(p, layout.rows(n)) for n, p in enumerate(self._paths)]
        self._order = np.argsort(self.examples)
        self._seed_order = np.argsort(self.seeds)

    def __len__(self):
        return len(self.examples) * len(self.seeds)

    def read(self, examples, seeds=0):
        """The signal of any examples, `[...]`, under augmentation seeds, a number or `[...]`.

        Returns:
            (signal, where): arrays `[..., L, ...]` and booleans `[..., L]`, without L if `length` is
            None. What is not stored is False there and zero. The fields of a `HiddenHead` that are
            the same for all tokens are None: `dataclasses.replace(signal, **cache.constants)` inside
            the step, with the constants among its frozen arrays.

        Raises:
            KeyError: no such example, or seed. ValueError: a record that is damaged, or another's.
        """
        examples, seeds = np.broadcast_arrays(examples, seeds)
        rows = self._rows(examples.ravel(), seeds.ravel())
        tokens = self._layout.tokens
        where = np.zeros((len(rows), tokens), bool)
        arrays = {
            name: np.zeros((len(rows), tokens, *shape), dtype)
            for name, (shape, dtype) in self.format.fields.items()
        }
        shard_of = rows // self._layout.shard_size
        for number in np.unique(shard_of):
            places = np.flatnonzero(shard_of == number)
            for place, content in zip(places, self._contents(number, rows[places]), strict=True):
                mask, values = self._layout.opened(rows[place], content, self._paths[number].name)
                where[place] = mask
                for name, value in values.items():
                    arrays[name][place, mask] = value

        def shaped(x):
            x = x[:, 0] if self.length is None else x
            return x.reshape(examples.shape + x.shape[1:])

        return self._signal({k: shaped(x) for k, x in arrays.items()}), shaped(where)

    def reader(self, name: str = "signal", seed: int = 0):
        """`Stream.read`: the columns `name`, the signal, and `name`_where, of a batch's examples."""

        def read(index):
            signal, where = self.read(index, seed)
            return {name: signal, f"{name}_where": where}

        return read

    def _signal(self, arrays):
        if isinstance(self.format, HiddenFormat):
            return signals.HiddenHead(**arrays, head=None, scale=None)
        if isinstance(self.format, DenseFormat):
            return signals.Dense(**arrays)
        return _SIGNALS[type(self.format)](**arrays, temperature=self.format.temperature)

    def _rows(self, examples, seeds):
        of_example = _positions("example", self.examples, self._order, examples)
        return of_example * len(self.seeds) + _positions(
            "augmentation seed", self.seeds, self._seed_order, seeds
        )

    def _contents(self, number, rows):
        try:
            return self._sources[number].__getitems__(
                (rows - number * self._layout.shard_size).tolist()
            )
        except RuntimeError as error:
            raise ValueError(f"{self._paths[number]} is damaged: {error}") from None


class _Layout:
    """What `cache.json` says, and where it puts which record."""

    def __init__(self, folder):
        self.folder = folder
        self.description, digest = _description(folder)
        given = dict(self.description["format"])
        kinds = {kind.__name__: kind for kind in _SIGNALS}
        self.format = kinds[given.pop("kind")](**given)
        self.length, self.shard_size = self.description["length"], self.description["shard_size"]
        self.tokens = 1 if self.length is None else self.length
        self.seeds = np.asarray(self.description["seeds"], np.int64)
        _verify(folder / _ARRAYS, self.description["arrays_file"])
        with np.load(folder / _ARRAYS, allow_pickle=False) as file:
            self.arrays = dict(file)
        self.examples = self.arrays["examples"]
        self.size = len(self.examples) * len(self.seeds)
        self.number_of_shards = -(-self.size // self.shard_size)
        self._hash = functools.partial(hashlib.blake2b, key=digest, digest_size=_DIGEST)

    def rows(self, number):
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.size))

    def keys(self, rows):
        rows = np.asarray(rows)
        return self.examples[rows // len(self.seeds)], self.seeds[rows % len(self.seeds)]

    def shards(self) -> dict[int, Path]:
        """{number: path} of those that are finished."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.glob("shard-*.array_record")):
            number = int(path.name.split("-")[1])
            if number in found:
                raise ValueError(
                    f"shard {number} is there twice, {found[number].name} and {path.name}"
                )
            found[number] = path
        return found

    def shard_name(self, number, sha256):
        return f"shard-{number:05d}-of-{self.number_of_shards:05d}-{sha256}.array_record"

    def record(self, row, mask, arrays):
        kept = {name: x[mask] for name, x in arrays.items()}
        body = _KEY.pack(*map(int, self.keys(row))) + np.packbits(mask).tobytes()
        body += self.format.encode(**kept)
        return self._hash(body).digest() + body

    def opened(self, row, content, shard):
        """The mask and the arrays of a record, which must be the one that is meant for this row."""
        digest, body = content[:_DIGEST], content[_DIGEST:]
        wanted = tuple(map(int, self.keys(row)))
        meant = "example {} under augmentation seed {}".format(*wanted)
        if self._hash(body).digest() != digest:
            raise ValueError(f"{shard}: the record of {meant} is damaged, or of another cache")
        found = _KEY.unpack_from(body)
        if found != wanted:
            raise ValueError(
                f"{shard}: in the place of {meant} is the record of example {found[0]} under "
                f"augmentation seed {found[1]}"
            )
        end = _KEY.size + -(-self.tokens // 8)
        mask = np.unpackbits(np.frombuffer(body[_KEY.size : end], np.uint8), count=self.tokens)
        mask = mask.astype(bool)
        return mask, self.format.decode(body[end:], int(mask.sum()))


def _write_shard(cache, number, signal_of):
    """Whether the shard has been written, which it is not if another call has done it meanwhile."""
    path = cache.folder / f".shard-{number:05d}.tmp"
    with open(path, "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{cache.folder}: another call is writing shard {number}; give each its own part"
            ) from None
        if number in cache.shards():
            path.unlink(missing_ok=True)
            return False
        # Groups of one record, for random access; the formats leave nothing to compress.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            for record in _records(cache, cache.rows(number), signal_of):
                writer.write(record)
        finally:
            writer.close()
        with open(path, "rb") as written:
            os.fsync(written.fileno())
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        path.rename(cache.folder / cache.shard_name(number, digest))
    return True


def _records(cache, rows, signal_of):
    size = cache.description["batch_size"]
    for start in range(rows.start, rows.stop, size):
        batch = range(start, min(start + size, rows.stop))
        filled = [*batch, *[batch[-1]] * (size - len(batch))]
        arrays, where = _taken(cache, size, *signal_of(*cache.keys(filled)))
        for place, row in enumerate(batch):
            try:
                yield cache.record(row, where[place], {k: x[place] for k, x in arrays.items()})
            except ValueError as error:
                example, seed = map(int, cache.keys(row))
                raise ValueError(
                    f"example {example} under augmentation seed {seed}: {error}"
                ) from None


def _taken(cache, size, signal, where):
    """The fields that are stored, and where, with an axis of tokens in any case."""
    kind = _SIGNALS[type(cache.format)]
    if not isinstance(signal, kind):
        raise TypeError(f"signal_of must give {kind.__name__}, got {type(signal).__name__}")
    if hasattr(signal, "temperature") and signal.temperature != cache.format.temperature:
        raise ValueError(
            f"the format has temperature {cache.format.temperature}, got {signal.temperature}"
        )
    tokens = (size,) if cache.length is None else (size, cache.length)
    arrays = {}
    for name, (shape, _) in cache.format.fields.items():
        value = np.asarray(getattr(signal, name))
        if value.shape != tokens + shape:
            raise ValueError(f"signal.{name} must have shape {tokens + shape}, got {value.shape}")
        arrays[name] = value.reshape(size, cache.tokens, *shape)
    where = np.ones(tokens, bool) if where is None else np.asarray(where)
    if where.shape != tokens or where.dtype != bool:
        raise ValueError(f"where must be bool{tokens}, got {where.dtype}{where.shape}")
    return arrays, where.reshape(size, cache.tokens)


def _positions(what, there, order, wanted):
    at = np.searchsorted(there, wanted, sorter=order)
    found = order[np.minimum(at, len(order) - 1)]
    absent = there[found] != wanted
    if absent.any():
        raise KeyError(f"no {what} {int(wanted[absent][0])} in the cache, which has {len(there)}")
    return found


def _sha256_of(path):
    """What the name of a shard says."""
    return path.stem.rsplit("-", 1)[1]


def _source(path, rows):
    try:
        source = array_record_data_source.ArrayRecordDataSource([str(path)])
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if len(source) != len(rows):
        raise ValueError(f"{path} must hold {len(rows)} records, got {len(source)}")
    return source


def _verify(path, wanted):
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted:
        raise ValueError(f"{path} is damaged: its sha256 is {digest}")


def _description(folder):
    try:
        content = (folder / _DESCRIPTION).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} holds no signal cache: no {_DESCRIPTION}") from None
    try:
        description = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{folder / _DESCRIPTION} is damaged: {error}") from None
    _compare(folder, description, {"version": _VERSION})
    return description, hashlib.sha256(content).digest()


def _compare(folder, there, wanted):
    # A description is compared as JSON keeps it.
    for name, value in json.loads(json.dumps(wanted)).items():
        if there.get(name) != value:
            raise ValueError(
                f"{folder} holds signals of another {name}: wanted {value!r}, got "
                f"{there.get(name)!r}"
            )


def _publish(path, content):
    """A file that appears whole or not at all; what is there already must be the same."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
    if path.read_bytes() != content:
        raise ValueError(f"{path} is there already, for another cache: remove the folder")


def _checked_constants(format, constants):
    """As numpy arrays that a file can hold: half precision becomes float32."""
    constants = {name: np.asarray(x) for name, x in (constants or {}).items() if x is not None}
    if isinstance(format, HiddenFormat):
        head = constants.get("head")
        if head is None or head.ndim != 2 or len(head) != format.width:
            got = "none" if head is None else head.shape
            raise ValueError(f"constants must hold a head ({format.width}, V), got {got}")
        allowed = {field.name for field in dataclasses.fields(signals.HiddenHead)} - {"hidden"}
        constants = {"scale": np.float32(1), **constants}
    else:
        allowed = set()
    if set(constants) - allowed:
        raise ValueError(f"constants {sorted(constants)} must be among {sorted(allowed)}")
    return {k: x.astype(np.promote_types(x.dtype, np.float32)) for k, x in constants.items()}


def _distinct(name, numbers):
    numbers = np.atleast_1d(np.asarray(numbers))
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer) or not len(numbers):
        raise TypeError(f"{name} must be integers, one axis, not empty, got {numbers.dtype}")
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError(f"{name} must be distinct")
    return numbers.astype(np.int64)


def _sha256(content):
    return hashlib.sha256(content).hexdigest()
