"""Any model as a `Network`: `from_linen`, `from_nnx`, `from_function`.

A feature is asked for by name. The names are those that the model gives itself, by returning
`Outputs(logits, features)` instead of logits, and then the paths of its layers: `encoder/Dense_0` is
the output of that layer and `encoder/Dense_0:input` its first argument. `features` is a sequence of
names or a mapping from the name that losses will use to one of these.
"""

import difflib
import functools
import inspect
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx

from kdjax.networks.network import Network, Outputs

Features = Sequence[str] | Mapping[str, str]

_TAPS = "kdjax_taps"  # the Linen collection that the layers' inputs and outputs are sown into
_INPUT = ":input"
_TRAINING = ("train", "training", "is_training")
_INFERENCE = ("deterministic", "use_running_average", "inference")


class _Model(NamedTuple):
    """What an adapter supplies: two pure functions over any Flax flavour.

    `initialise(key, inputs) -> (params, model)`;
    `forward(params, model, inputs, train, rngs, sources) -> (result, new model, taps, layers)`, where
    `taps` holds every call of the layers named in `sources` and `layers` all names there are.
    """

    initialise: Callable[..., tuple[Any, Any]]
    forward: Callable[..., tuple[Any, Any, dict[str, tuple[Any, ...]], Sequence[str]]]


def from_linen(
    module: linen.Module,
    *,
    features: Features = (),
    couples: bool | None = None,
    call: Callable[..., Any] | None = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Network:
    """A Linen module as a `Network`.

    Args:
        module: the module; it returns logits or `Outputs`. Collections other than `params` are the
            model state.
        features: names to give in `Outputs.features`, see the module docstring.
        couples: whether examples influence each other in training. By default what the module says
            in an attribute `couples`, else no; a module with state must say it one way or the other.
        call: `call(module, inputs, train) -> result` for a module that is not called as
            `module(inputs)` with one of `train`, `training`, `is_training`, `deterministic`,
            `use_running_average`, `inference` (or none of them).
        dtype: parameters and floating inputs are cast to it before the pass; logits return in at
            least float32. None leaves precision to the module's own `dtype`.
        param_dtype: parameters are created in it. None leaves it to the module.

    Raises:
        ValueError: at `init`, or while the first `apply` is traced: an unknown feature (the names
            there are listed), a module with state that does not declare `couples`.
    """
    call = call or _default_call(module)

    def initialise(key, inputs):
        shaped = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(inputs))
        create = module.lazy_init if shaped else module.init

        def method(module, inputs):
            return call(module, inputs, False)

        variables = linen.unbox(dict(create(key, inputs, method=method)))
        variables.pop("intermediates", None)
        return variables.pop("params", {}), variables

    def forward(params, model, inputs, train, rngs, sources):
        layers: dict[str, None] = {}

        def method(module, inputs):
            return call(module, inputs, train)

        with linen.intercept_methods(_sow_layers(sources, layers)):
            result, state = module.apply(
                {"params": params, **model},
                inputs,
                method=method,
                rngs=rngs,
                mutable=[_TAPS, *(model if train else ())],
            )
        taps = {s: _sown(state.get(_TAPS, {}), s) for s in sources if s not in _given(result)}
        return result, {name: state.get(name, model[name]) for name in model}, taps, list(layers)

    if couples is None:
        couples = getattr(module, "couples", None)
    return _network(_Model(initialise, forward), features, couples, dtype, param_dtype)


def from_nnx(
    model: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
    *,
    features: Features = (),
    couples: bool | None = None,
    call: Callable[..., Any] | None = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Network:
    """An NNX model as a `Network`: `nnx.Param` are the parameters, other variables the model state.

    Args:
        model: `constructor(rngs) -> module`, called by `init` with the key as the default stream; or
            a module, whose own weights `init` then copies whatever the key is.
        features, couples, call, dtype, param_dtype: as for `from_linen`. Layers are named by the
            path of attributes: `blocks/0/linear`. `module.train()` or `.eval()` comes before the call.

    The keys of a pass go to the module's streams by name, folded with the path of each stream; what
    the module draws from the stream `default` takes the key of `dropout`.

    Raises:
        ValueError: as `from_linen`, and when a pass draws from a stream that `rngs` does not name.
    """
    if isinstance(model, nnx.Module):
        template: Any = model
    else:
        template = nnx.eval_shape(lambda: model(nnx.Rngs(jax.random.key(0))))
    call = call or _default_call(template)
    definition, state = nnx.split(template)
    variables = dict(nnx.to_flat_state(state))
    randomness = {p: v for p, v in variables.items() if isinstance(v, nnx.RngState)}
    trained = [p for p, v in variables.items() if isinstance(v, nnx.Param)]
    kept = [p for p in variables if p not in randomness and p not in trained]

    def initialise(key, inputs):
        del inputs  # an NNX module has its shapes from its constructor
        if template is model:
            # Copies: the state of a run is donated, and the module is its owner's.
            state = jax.tree.map(jnp.copy, nnx.state(model))
        else:
            state = nnx.state(model(nnx.Rngs(key)))
        values = {p: v.get_value() for p, v in nnx.to_flat_state(state)}
        return _nested(trained, values), _nested(kept, values)

    def forward(params, model, inputs, train, rngs, sources):
        values = {p: _at(params, p) for p in trained} | {p: _at(model, p) for p in kept}
        counts = {}
        for path, variable in randomness.items():
            if isinstance(variable, nnx.RngKey):
                values[path] = _stream_key(rngs, variable.tag, path)
            else:
                values[path] = counts[path] = jnp.zeros((), jnp.uint32)
        flat = [(p, v.replace(values[p])) for p, v in variables.items()]
        module = nnx.merge(definition, nnx.from_flat_state(flat))
        if train:
            module.train()
        else:
            module.eval()
        layers = {"/".join(map(str, p)): m for p, m in nnx.iter_modules(module) if p}
        for name in {source.removesuffix(_INPUT) for source in sources} & set(layers):
            object.__setattr__(layers[name], "__class__", _recording(type(layers[name])))
        result = call(module, inputs, train)
        after = {p: v.get_value() for p, v in nnx.to_flat_state(nnx.state(module))}
        drawn = {randomness[p].tag for p in counts if after[p] is not counts[p]}
        if missing := sorted(tag for tag in drawn if _stream(rngs, tag) is None):
            raise ValueError(f"the network draws from the streams {missing}, rngs has {list(rngs)}")
        taps = {s: _recorded(layers.get(s.removesuffix(_INPUT)), s) for s in sources}
        return result, _nested(kept, after), taps, list(layers)

    return _network(_Model(initialise, forward), features, couples, dtype, param_dtype)


def from_function(
    init: Callable[..., Any],
    apply: Callable[..., Any],
    *,
    features: Features = (),
    couples: bool | None = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Network:
    """Plain functions as a `Network`.

    Args:
        init: `init(key, inputs) -> params`.
        apply: `apply(params, inputs) -> logits` or `Outputs`. What it names among `train` and `rngs`
            in its signature it is given by keyword. If it names `model`, it has state: `init` returns
            `(params, model)`, and `apply` `(result, new model)`.
        features: names among those of the `Outputs` that `apply` returns.
        couples, dtype, param_dtype: as for `from_linen`.

    >>> linear = from_function(
    ...     lambda key, x: {"w": jnp.ones((x.shape[-1], 2))}, lambda params, x: x @ params["w"])
    >>> variables = linear.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> linear.apply(variables, jnp.ones((1, 3)), train=False, rngs={})[0].logits
    Array([[3., 3.]], dtype=float32)
    """
    taken = inspect.signature(apply).parameters
    stateful = "model" in taken

    def initialise(key, inputs):
        return init(key, inputs) if stateful else (init(key, inputs), {})

    def forward(params, model, inputs, train, rngs, sources):
        del sources  # a plain function has no layers, only the features that it returns
        offered = {"train": train, "rngs": rngs, "model": model}
        result = apply(params, inputs, **{k: v for k, v in offered.items() if k in taken})
        result, model = result if stateful else (result, model)
        return result, model, {}, []

    return _network(_Model(initialise, forward), features, couples, dtype, param_dtype)


def merge(params, frozen):
    """The tree that holds the leaves of both nested dicts; where both have a leaf, `params` has it.

    >>> merge({"a": {"w": 1}}, {"a": {"w": 0, "b": 2}, "c": 3})
    {'a': {'w': 1, 'b': 2}, 'c': 3}
    """
    if isinstance(frozen, Mapping) and not frozen:
        return params
    if isinstance(params, Mapping) != isinstance(frozen, Mapping):
        raise ValueError(
            f"one of params and frozen has a subtree where the other has a leaf: {frozen}"
        )
    if not isinstance(params, Mapping):
        return params
    both = {k: merge(v, frozen[k]) if k in frozen else v for k, v in params.items()}
    return {**frozen, **both}


def _network(model: _Model, features, couples, dtype, param_dtype) -> Network:
    """The part that the adapters share: names, precision, frozen leaves, keys per example."""
    if isinstance(features, str):
        raise TypeError(f"features must be a sequence of names or a mapping, got {features!r}")
    wanted = dict(features) if isinstance(features, Mapping) else {name: name for name in features}

    def check_declared(state):
        if couples is None and jax.tree.leaves(state):
            held = sorted(state) if isinstance(state, Mapping) else type(state).__name__
            raise ValueError(
                f"the model has state ({held}): say couples=True if examples influence each other "
                "in training (batch statistics), or couples=False"
            )

    def forward(params, state, inputs, train, rngs):
        if dtype is not None:
            params, inputs = _cast(params, dtype), _cast(inputs, dtype)
        result, state, taps, layers = model.forward(
            params, state, inputs, train, rngs, tuple(wanted.values())
        )
        given = _given(result)
        logits = result.logits if isinstance(result, Outputs) else result
        if logits is not None:
            logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        chosen = {name: _choose(source, given, taps, layers) for name, source in wanted.items()}
        return Outputs(logits, chosen), state

    def init(key, inputs):
        def trial(key, inputs):
            params, state = model.initialise(key, inputs)
            return forward(params, state, inputs, False, {})

        if wanted:
            jax.eval_shape(
                trial, key, inputs
            )  # an unknown feature is refused before the real thing
        params, state = model.initialise(key, inputs)
        check_declared(state)
        return {
            "params": params if param_dtype is None else _cast(params, param_dtype),
            "model": state,
        }

    def apply(variables, inputs, *, train, rngs):
        state = variables.get("model", {})
        params = merge(variables["params"], variables.get("frozen", {}))
        if train:
            check_declared(state)
        axes = {name: 0 if _is_batch(key) else None for name, key in rngs.items()}
        if 0 not in axes.values():
            outputs, new = forward(params, state, inputs, train, rngs)
            return outputs, new if train else state
        if couples or jax.tree.leaves(state):
            raise ValueError(
                f"rngs has a key per example for {[n for n, axis in axes.items() if axis == 0]}, but "
                "the network has state or couples the examples: give one key per stream"
            )

        def example(inputs, rngs):
            outputs, _ = forward(
                params, state, jax.tree.map(lambda x: x[None], inputs), train, rngs
            )
            return jax.tree.map(lambda x: x[0], outputs)

        return jax.vmap(example, (0, axes))(inputs, dict(rngs)), state

    return Network(init, apply, bool(couples))


def _default_call(module):
    """`call(module, inputs, train)`, with the mode under the name that the module's signature has."""
    names = inspect.signature(type(module).__call__).parameters

    def call(module, inputs, train):
        modes = {n: train for n in _TRAINING} | {n: not train for n in _INFERENCE}
        return module(inputs, **{n: mode for n, mode in modes.items() if n in names})

    return call


def _given(result):
    return result.features if isinstance(result, Outputs) else {}


def _choose(source, given, taps, layers):
    if source in given:
        return given[source]
    calls = taps.get(source, ())
    if len(calls) == 1:
        return calls[0]
    if calls:
        raise ValueError(f"the layer {source!r} is called {len(calls)} times: ask for another one")
    if source.removesuffix(_INPUT) in layers:
        raise ValueError(
            f"the layer {source!r} is not called in this pass, or only inside a transformation that "
            "lets nothing out (nn.scan): let the model return that feature by name"
        )
    names = [*given, *layers]
    near = difflib.get_close_matches(source, [*names, *(n + _INPUT for n in layers)], 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    listed = "; ".join(
        f"{kind}: {', '.join(found)}"
        for kind, found in (("named features", given), ("layers", layers))
        if found
    )
    raise ValueError(
        f"the network has no feature {source!r}{hint}. It has {listed or 'no named features'}"
        + (f". A layer's name is its output, NAME{_INPUT} its input" if layers else "")
    )


def _cast(tree, dtype):
    def cast(x):
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)


def _is_batch(key):
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.ndim == (1 if typed else 2)


def _sow_layers(sources, layers):
    """An interceptor that notes the path of every layer called and sows what `sources` names.

    Sown, not kept in a closure: a value inside `nn.remat` or `nn.scan` must leave through the lift.
    """

    def intercept(call, args, kwargs, context):
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__" or not path:
            return call(*args, **kwargs)
        layers[path] = None
        result = call(*args, **kwargs)
        if path in sources:
            module.sow(_TAPS, ":output", result)
        if path + _INPUT in sources:
            module.sow(_TAPS, _INPUT, args[0] if args else next(iter(kwargs.values())))
        return result

    return intercept


def _sown(taps, source):
    path = source.removesuffix(_INPUT).split("/")
    for name in [*path, _INPUT if source.endswith(_INPUT) else ":output"]:
        taps = taps.get(name, {})
    return taps or ()


class _Recorded(nnx.Variable):
    """The calls of an NNX layer so far: a tuple of (input, output)."""


@functools.cache
def _recording(kind):
    """A subclass of an NNX module class that notes its calls on the module itself.

    The module is one that `nnx.merge` made for this pass, so nobody else sees the change; a variable
    of the module is what NNX's transforms carry out of their traces.
    """

    def __call__(self, *args, **kwargs):
        result = kind.__call__(self, *args, **kwargs)
        earlier = self.kdjax_calls.get_value() if hasattr(self, "kdjax_calls") else ()
        first = args[0] if args else next(iter(kwargs.values()))
        self.kdjax_calls = _Recorded((*earlier, (first, result)))
        return result

    return type(kind.__name__, (kind,), {"__call__": __call__})


def _recorded(layer, source):
    if layer is None or not hasattr(layer, "kdjax_calls"):
        return ()
    return tuple(
        call[0 if source.endswith(_INPUT) else 1] for call in layer.kdjax_calls.get_value()
    )


def _stream(rngs, tag):
    return rngs.get(tag, rngs.get("dropout") if tag == "default" else None)


def _stream_key(rngs, tag, path):
    """The key of a stream, its own for every place in the module; any key where `rngs` has none."""
    key = _stream(rngs, tag)
    key = jax.random.key(0) if key is None else key
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return jax.random.fold_in(key, zlib.crc32("/".join(map(str, path)).encode()) & 0x7FFFFFFF)


def _nested(paths, values):
    """A nested dict with string keys, which every tree tool can sort and save, from flat paths."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(str(name), {})
        node[str(path[-1])] = values[path]
    return tree


def _at(tree, path):
    for name in path:
        tree = tree[str(name)]
    return tree
