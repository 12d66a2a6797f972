"""Folders of public weights: `config.json`, safetensors files and a tokenizer, in and out.

A folder is opened by reading the headers alone: every name, shape and dtype is held against the
network that `config.json` describes before anything is allocated. Values are read leaf by leaf, of
each the slices that the local devices hold.
"""

import collections
import contextlib
import difflib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import networks
from kdjax.networks.network import Network
from kdjax.networks.pretrained import families, tensors
from kdjax.networks.pretrained.architecture import Architecture, LayoutError, Rule

CONFIG = "config.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
)
SHARD_BYTES = 5_000_000_000
# The layers of a decoder, scanned over and not.
_STACK, _APART = "params/layers/", "params/layer{n}/"
# What older files carry besides the weights: constants and counters that nothing reads.
_CONSTANTS = (r".*\.position_ids", r".*\.inv_freq", r".*\.num_batches_tracked")


class Leaf:
    """A leaf of ours that lies in files: `leaf[index]` reads what `index` needs."""

    def __init__(self, shape, dtype, parts: Sequence[Any], stacked: bool):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._parts, self._stacked = parts, stacked

    def __getitem__(self, index) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        if not self._stacked:
            return self._read(self._parts[0], index)
        layers, inner = (index[0], index[1:]) if index else (slice(None), ())
        if not isinstance(layers, slice):
            return self._read(self._parts[layers], inner)
        parts = self._parts[layers]
        first = self._read(parts[0], inner)
        values = np.empty((len(parts), *first.shape), self.dtype)
        values[0] = first
        for number, part in enumerate(parts[1:], 1):
            values[number] = self._read(part, inner)
        return values

    def __array__(self, dtype=None, copy=None):
        del copy  # always one: the files are mapped read-only
        return self[()].astype(self.dtype if dtype is None else dtype, copy=False)

    def _read(self, part, index):
        stored, rule = part
        # A copy: an array on the CPU may otherwise go on living in the file.
        return np.array(rule.to_ours(stored.array())[index], self.dtype)


class Pretrained(NamedTuple):
    """An opened folder: `variables` is `{"params", "model"}` with `Leaf`s, nothing of it is read."""

    folder: Path
    architecture: Architecture
    network: Network
    variables: dict[str, Any]
    config: dict[str, Any]

    @property
    def shapes(self):
        """The variables as `jax.ShapeDtypeStruct`s, for whoever makes shardings."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.variables)


def open_pretrained(folder, *, dtype=None, param_dtype=None, features=(), **options) -> Pretrained:
    """Opens and checks a folder of public weights without reading them.

    Args:
        folder: with `config.json` and `model.safetensors`, or its shards and their index.
        dtype: of the computation, and of the parameters unless `param_dtype` says otherwise; None
            computes in float32 with the parameters as they are in the files.
        param_dtype: of the parameters.
        features: of the network, by name.
        options: more keywords of the network's constructor: `remat=True`, `dropout=0.1`.

    Raises:
        LayoutError: anything wrong with the files, by the name of the file or of the tensor: an
            unknown architecture, a tensor that is missing, has another name or shape, is too many,
            is not of a floating type; and as `tensors.open_folder`.
    """
    folder = Path(folder)
    if dtype is not None:
        options["dtype"] = dtype
    param_dtype = dtype if param_dtype is None else param_dtype
    config = read_config(folder)
    found = tensors.open_folder(folder)
    architecture = families.architecture(config)
    stored = _renamed(architecture, found)
    if _different_copies(architecture, stored):
        # What the files hold counts, as it does for the writers of such folders.
        config = {**config, "tie_word_embeddings": False}
        architecture = families.architecture(config)
        stored = _renamed(architecture, found)
    network = build(architecture, features, **options)
    where = places(architecture, network)
    _refuse_unknown(architecture, stored, where, config)
    leaves = {}
    for path, (shape, parts, stacked) in where.items():
        held = [(stored[name], rule) for name, rule in parts]
        for tensor, rule in held:
            _check(tensor, rule, shape[int(stacked) :], config)
        kind = jnp.result_type(*map(_our_dtype, held)) if param_dtype is None else param_dtype
        leaves[path] = Leaf(shape, kind, held, stacked)
    return Pretrained(
        folder, architecture, network, nested(leaves, {"params": {}, "model": {}}), config
    )


def load_pretrained(
    folder, *, sharding: Any = None, dtype=None, param_dtype=None, features=(), **options
) -> tuple[Network, dict[str, Any], dict[str, Any]]:
    """The network of a folder of public weights, its variables and its configuration.

    Args:
        folder, dtype, param_dtype, features, options: as for `open_pretrained`.
        sharding: None for the default device; a `jax.sharding.Sharding` for all leaves; or a
            function of the variables' shapes that gives a tree of them, such as
            `lambda shapes: tree_sharding(mesh, shapes, rules)`. Each process reads what its own
            devices hold, leaf by leaf.

    Returns:
        `(network, {"params": tree, "model": tree}, config)`, ready for `network.apply`.

    Raises:
        LayoutError: as `open_pretrained`.
    """
    opened = open_pretrained(
        folder, dtype=dtype, param_dtype=param_dtype, features=features, **options
    )
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if not isinstance(sharding, jax.sharding.Sharding):
        sharding = sharding(opened.shapes)
    shardings = jax.tree.broadcast(sharding, opened.variables)
    variables = jax.tree.map(
        lambda leaf, where: jax.make_array_from_callback(leaf.shape, where, leaf.__getitem__),
        opened.variables,
        shardings,
    )
    return opened.network, variables, opened.config


def save_pretrained(
    folder,
    variables: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    dtype=None,
    tokenizer=None,
    shard_bytes: int = SHARD_BYTES,
    card: str | None = None,
) -> None:
    """Writes a folder of weights that `load_pretrained` and `transformers` load.

    It is written beside its place and moved there whole: a folder of that name is complete.

    Args:
        folder: must not exist, or be empty.
        variables: `{"params", "model"}` of the network that `config` describes.
        config: as in `config.json`: that of the teacher with a student's sizes, say.
        dtype: of the files; None leaves that of the variables.
        tokenizer: a folder whose tokenizer files are copied.
        shard_bytes: the size above which the weights are split into several files.
        card: the text of `README.md`, see `model_card`.

    Raises:
        FileExistsError: a folder that has files.
        LayoutError: variables that are not those of the network that `config` describes.
    """
    folder = Path(folder)
    refuse_filled(folder)
    architecture = families.architecture(config)
    pending = export_tensors(architecture, variables, dtype=dtype)
    sizes: collections.Counter[np.dtype] = collections.Counter()
    for tensor in pending.values():
        sizes[tensor.dtype] += tensor.size
    written = {k: v for k, v in architecture.config.items() if k not in ("torch_dtype", "dtype")}
    written["dtype"] = str(sizes.most_common(1)[0][0])
    with replacing(folder) as partial:
        (partial / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        tensors.write_folder(partial, pending, shard_bytes=shard_bytes)
        for name in TOKENIZER if tokenizer is not None else ():
            if (Path(tokenizer) / name).is_file():
                shutil.copyfile(Path(tokenizer) / name, partial / name)
        if card is not None:
            (partial / "README.md").write_text(card)


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` holds.

    Raises:
        LayoutError: no such file, or one that is no JSON object.
    """
    if not folder.is_dir():
        raise LayoutError(f"{folder} is no folder")
    file = folder / CONFIG
    if not file.is_file():
        raise LayoutError(f"{folder} has no {CONFIG}")
    try:
        config = json.loads(file.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LayoutError(f"{file} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise LayoutError(f"{file} is no JSON object")
    return config


def build(architecture: Architecture, features=(), **options) -> Network:
    """The network of an architecture; `options` come before its own."""
    constructor: Callable[..., Network] = getattr(networks, architecture.name)
    return constructor(**{**architecture.options, **options}, features=features)


def export_tensors(architecture: Architecture, variables, *, dtype=None):
    """What is written for `variables`: `{their name: tensors.Pending}`, in the order of the rules.

    Raises:
        LayoutError: a leaf that is missing, has another shape, or that no rule names.
    """
    given = dict(flat({name: variables.get(name, {}) for name in ("params", "model")}))
    apart = {"scan": False} if _layers_apart(architecture, given) else {}
    where = places(architecture, build(architecture, **apart))
    for path, (shape, _, _) in where.items():
        if path not in given:
            raise LayoutError(f"the variables lack {path!r}{near(path, given)}")
        if given[path].shape != shape:
            raise LayoutError(
                f"{path!r} has shape {given[path].shape}, its configuration says {shape}"
            )
    extra = sorted(set(given) - set(where))
    if extra:
        raise LayoutError(f"no tensor of a {_kind(architecture.config)} is called {extra[0]!r}")
    pending = {}
    for path, (shape, parts, stacked) in where.items():
        for number, (name, rule) in enumerate(parts):
            leaf = given[path]
            wanted = np.dtype(leaf.dtype if dtype is None else dtype)

            values = functools.partial(_theirs, leaf, number if stacked else None, rule, wanted)
            theirs = their_shape(rule, shape[int(stacked) :])
            pending[name] = tensors.Pending(wanted, theirs, values)
    for name, constant in architecture.constants.items():
        values = functools.partial(np.asarray, constant)
        pending[name] = tensors.Pending(constant.dtype, constant.shape, values)
    return pending


def _layers_apart(architecture, given):
    stacked = any(rule.ours.startswith("layers/") for rule in architecture.rules)
    return stacked and any(path.startswith(_APART.format(n=1)) for path in given)


def _theirs(leaf, layer, rule, dtype):
    return rule.to_theirs(np.asarray(leaf if layer is None else leaf[layer])).astype(dtype)


def refuse_filled(folder: Path) -> None:
    """Refuses a place for a folder that is taken."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder")


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill beside its place, moved there whole at the end; after an error it is gone."""
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def places(architecture: Architecture, network: Network | None = None):
    """{path of ours: (its shape, [(their name, rule)], whether the layers are stacked)}.

    `network` is one of this architecture's where there is one already.

    Raises:
        LayoutError: leaves that no rule fills, or two do: the table of the family is wrong.
    """
    network = build(architecture) if network is None else network
    found = jax.eval_shape(network.init, jax.random.key(0), architecture.inputs)
    shapes = dict(flat({"params": found["params"], "model": found.get("model", {})}))
    where: dict[str, tuple[tuple[int, ...], list[tuple[str, Rule]], bool]] = {}

    def put(path, parts, stacked):
        if path in where:
            raise LayoutError(f"two rules of {_kind(architecture.config)} give {path!r}")
        where[path] = (shapes[path].shape, parts, stacked)

    for rule in architecture.rules:
        ours = f"{rule.collection}/{rule.ours}"
        if ours not in shapes and ours.startswith(_STACK):
            ours = ours.replace(_STACK, _APART, 1)  # the same network without its scan over layers
        if ours not in shapes:  # a scan over layers was left out
            ours = ours.replace("/layers/", "/layer{n}/")
        if "{" not in rule.theirs:
            if ours not in shapes:
                raise LayoutError(f"the rule of {rule.theirs!r} gives {ours!r}, which is no leaf")
            put(ours, [(rule.theirs, rule)], False)
        elif "{" not in ours and ours in shapes:
            count = shapes[ours].shape[0]
            put(ours, [(rule.theirs.format(i=i), rule) for i in range(count)], True)
        else:
            count = 0
            while (path := ours.format(i=count, n=count + 1)) in shapes and path not in where:
                put(path, [(rule.theirs.format(i=count), rule)], False)
                count += 1
            if not count:
                raise LayoutError(f"the rule of {rule.theirs!r} gives {ours!r}, which is no leaf")
    lost = sorted(set(shapes) - set(where))
    if lost:
        raise LayoutError(f"no rule of {_kind(architecture.config)} gives {lost[0]!r}")
    return where


def _renamed(architecture, stored):
    renamed = {}
    for name, tensor in stored.items():
        new = name
        for pattern, replacement in architecture.renamed:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise LayoutError(f"two tensors are called {new!r}, one of them {name!r} in its file")
        renamed[new] = tensor
    return renamed


def _refuse_unknown(architecture, stored, where, config):
    known = {name for _, parts, _ in where.values() for name, _ in parts}
    missing = sorted(known - set(stored))
    idle = (*architecture.unused, *_CONSTANTS)
    extra = [
        name
        for name in sorted(set(stored) - known - set(architecture.tied))
        if not any(re.fullmatch(pattern, name) for pattern in idle)
    ]
    if missing:
        more = f", nor {len(missing) - 1} others" if len(missing) > 1 else ""
        raise LayoutError(
            f"there is no tensor {missing[0]!r}{more}, which a {_kind(config)} has"
            f"{near(missing[0], extra or stored)}"
        )
    if extra:
        more = f", and {len(extra) - 1} others" if len(extra) > 1 else ""
        raise LayoutError(
            f"{stored[extra[0]].file.name} has a tensor {extra[0]!r}{more} that a {_kind(config)} "
            f"does not have{near(extra[0], known)}"
        )


def _check(tensor, rule, shape, config):
    place = f"{tensor.file.name}: tensor {tensor.name!r}"
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise LayoutError(f"{place} is {tensor.dtype}, weights are floating")
    wanted = their_shape(rule, shape)
    if tensor.shape != wanted:
        raise LayoutError(
            f"{place} has shape {tensor.shape}, a {_kind(config)} with this {CONFIG} has {wanted}"
        )


def _our_dtype(part):
    """That of the layout's result: a rule may widen, where the file's type cannot hold ours."""
    tensor, rule = part
    return rule.to_ours(np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)).dtype


def their_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """From ours, without allocating: a view of one value spread over the shape."""
    return rule.to_theirs(np.broadcast_to(np.zeros((), np.int8), shape)).shape


def _different_copies(architecture, stored):
    """The tensors that are to be copies of others, stand beside them and differ."""
    return [
        copy
        for copy, original in architecture.tied.items()
        if copy in stored
        and original in stored
        and not (
            stored[copy].shape == stored[original].shape
            and np.array_equal(stored[copy].array(), stored[original].array())
        )
    ]


def _kind(config):
    return config.get("model_type")


def near(name, names) -> str:
    """A hint at the name that was meant, or nothing."""
    near = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f" (is it {near[0]!r}?)" if near else ""


def flat(tree, prefix=""):
    """(path, leaf) of nested dicts, names joined by "/"."""
    for name, node in tree.items():
        if isinstance(node, Mapping):
            yield from flat(node, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", node


def nested(leaves, tree=None):
    """Nested dicts from leaves by path; the way back from `flat`."""
    tree = {} if tree is None else tree
    for path, leaf in leaves.items():
        *above, last = path.split("/")
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree
