"""One seam for Linen modules, NNX modules and plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from kdjax.networks import adapters
from kdjax.networks.network import Outputs

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, 4))


class Encoder(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.relu(linen.Dense(5, name="first")(x))


class Plain(linen.Module):
    """Somebody else's module: knows nothing of kdjax."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3, name="last")(Encoder(name="encoder")(x))


class Noisy(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic):
        x = linen.Dropout(0.5, deterministic=deterministic)(linen.Dense(32)(x))
        return linen.Dropout(0.5, deterministic=deterministic)(linen.Dense(32)(x))


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return linen.Dense(3)(x)


class NnxEncoder(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.first(x))


class NnxPlain(nnx.Module):
    def __init__(self, rngs):
        self.encoder = NnxEncoder(rngs)
        self.last = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.encoder(x))


class NnxNoisy(nnx.Module):
    def __init__(self, rngs):
        self.one = nnx.Dropout(0.5, rngs=rngs)
        self.two = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return Outputs(self.two(self.one(x)), {"one": self.one(x), "two": self.two(x)})


class NnxNormed(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.BatchNorm(4, momentum=0.9, rngs=rngs)])
        self.last = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.layers[0](x))


def function_init(key, x):
    one, two = jax.random.split(key)
    return {
        "encoder": {"first": dense(one, x.shape[-1], 5)},
        "last": dense(two, 5, 3),
    }


def dense(key, width, out):
    return {"kernel": jax.random.normal(key, (width, out)), "bias": jnp.zeros((out,))}


def function_apply(params, x):
    first, last = params["encoder"]["first"], params["last"]
    hidden = jax.nn.relu(x @ first["kernel"] + first["bias"][None])
    return Outputs(hidden @ last["kernel"] + last["bias"][None], {"encoder": hidden})


def forward(network, variables, x=X, *, train=False, rngs=None):
    return network.apply(variables, x, train=train, rngs=rngs or {})


def test_linen_equals_flax():
    module = Plain()
    network = adapters.from_linen(module)
    variables = network.init(KEY, X)
    expected = module.init(KEY, X)
    assert variables["model"] == {}
    jax.tree.map(np.testing.assert_array_equal, variables["params"], expected["params"])
    outputs, state = forward(network, variables)
    np.testing.assert_array_equal(outputs.logits, module.apply(expected, X))
    assert outputs.features == {} and state == {}


def test_three_adapters_give_the_same_logits_features_and_gradients():
    names = {"hidden": "encoder"}
    networks = [
        adapters.from_linen(Plain(), features=names),
        adapters.from_nnx(NnxPlain, features=names),
        adapters.from_function(function_init, function_apply, features=names),
    ]
    params = networks[0].init(KEY, X)["params"]
    params = jax.tree.map(lambda x: x + 0.1, params)  # no zero bias

    def loss(params, network):
        outputs, _ = forward(network, {"params": params})
        return jnp.sum(jnp.sin(outputs.logits)), outputs.features["hidden"]

    reference = None
    for network in networks:
        assert jax.tree.structure(network.init(KEY, X)["params"]) == jax.tree.structure(params)
        (value, hidden), gradient = jax.value_and_grad(loss, has_aux=True)(params, network)
        reference = reference or (value, hidden, gradient)
        np.testing.assert_allclose(value, reference[0], rtol=1e-6)
        np.testing.assert_allclose(hidden, reference[1], rtol=1e-6)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            gradient,
            reference[2],
        )


@pytest.mark.parametrize("adapt", [adapters.from_linen, adapters.from_nnx])
def test_layers_of_an_unmodified_model_by_path(adapt):
    model = Plain() if adapt is adapters.from_linen else NnxPlain
    names = {"h": "encoder", "before": "encoder/first", "x": "encoder:input", "in": "last:input"}
    network = adapt(model, features=names)
    variables = network.init(KEY, X)
    features = jax.jit(lambda v: forward(network, v)[0].features)(variables)
    first = variables["params"]["encoder"]["first"]
    before = X @ first["kernel"] + first["bias"][None]
    np.testing.assert_allclose(features["before"], before, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["h"], np.maximum(before, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(features["h"], features["in"])
    np.testing.assert_array_equal(features["x"], X)


def test_layers_come_out_of_a_rematerialised_block():
    class Remat(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, name="last")(linen.remat(Encoder)(name="encoder")(x))

    class NnxRemat(NnxPlain):
        def __call__(self, x):
            return self.last(nnx.remat(lambda encoder, x: encoder(x))(self.encoder, x))

    names = ("encoder", "encoder/first")
    for network in (
        adapters.from_linen(Remat(), features=names),
        adapters.from_nnx(NnxRemat, features=names),
    ):
        variables = network.init(KEY, X)
        plain = adapters.from_linen(Plain(), features=names)

        def total(params, network):
            outputs, _ = forward(network, {"params": params})
            return sum(jnp.sum(jnp.square(f)) for f in outputs.features.values())

        got = jax.jit(jax.grad(total), static_argnums=1)(variables["params"], network)
        want = jax.grad(total)(variables["params"], plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_unknown_feature_lists_the_names():
    network = adapters.from_linen(Plain(), features=("encoder/frist",))
    with pytest.raises(ValueError) as error:
        network.init(KEY, X)
    assert "no feature 'encoder/frist' (did you mean 'encoder/first'?)" in str(error.value)
    assert "layers: encoder, encoder/first, last" in str(error.value)
    with pytest.raises(ValueError, match="did you mean 'encoder/first'"):
        jax.eval_shape(lambda p: forward(network, {"params": p}), Plain().init(KEY, X)["params"])
    network = adapters.from_nnx(NnxPlain, features=("lost",))
    with pytest.raises(ValueError, match="layers: .*encoder/first"):
        network.init(KEY, X)
    network = adapters.from_function(function_init, function_apply, features=("hidden",))
    with pytest.raises(ValueError, match="named features: encoder(\n|$)"):
        network.init(KEY, X)
    with pytest.raises(TypeError, match="sequence of names"):
        adapters.from_linen(Plain(), features="encoder")


def test_a_layer_called_twice_is_refused_by_name():
    class Twice(linen.Module):
        @linen.compact
        def __call__(self, x):
            layer = linen.Dense(4, name="tied")
            return layer(layer(x))

    class NnxTwice(nnx.Module):
        def __init__(self, rngs):
            self.tied = nnx.Linear(4, 4, rngs=rngs)

        def __call__(self, x):
            return self.tied(self.tied(x))

    for network in (
        adapters.from_linen(Twice(), features=("tied",)),
        adapters.from_nnx(NnxTwice, features=("tied",)),
    ):
        with pytest.raises(ValueError, match="'tied' is called 2 times"):
            network.init(KEY, X)


def test_a_layer_inside_a_scan_is_refused_with_the_way_out():
    class Layer(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return linen.Dense(4, name="dense")(x), None

    class Scanned(linen.Module):
        @linen.compact
        def __call__(self, x):
            layers = linen.scan(Layer, {"params": 0}, split_rngs={"params": True}, length=2)
            return layers(name="layers")(x, None)[0]

    network = adapters.from_linen(Scanned(), features=("layers/dense",))
    with pytest.raises(ValueError, match="nn.scan.*by name"):
        network.init(KEY, X)


def test_batch_statistics_move_in_training_only():
    linen_network = adapters.from_linen(Normed(), couples=True)
    nnx_network = adapters.from_nnx(NnxNormed, couples=True)
    for network in (linen_network, nnx_network):
        assert network.couples
        variables = network.init(KEY, X)
        outputs, state = forward(network, variables, train=True)
        assert jax.tree.structure(state) == jax.tree.structure(variables["model"])
        means = [x for x in jax.tree.leaves(state) if not np.allclose(x, 0.9, atol=0.3)]
        np.testing.assert_allclose(means[0], 0.1 * X.mean(0), rtol=1e-5, atol=1e-7)
        moved = {**variables, "model": state}
        after, same = forward(network, moved)
        jax.tree.map(np.testing.assert_array_equal, same, state)
        assert not np.allclose(outputs.logits, after.logits, atol=1e-3)
        np.testing.assert_array_equal(after.logits, forward(network, moved)[0].logits)
        # In evaluation one example does not see the others; in training it does.
        np.testing.assert_allclose(forward(network, moved, X[:1])[0].logits, after.logits[:1], 1e-5)


def test_nnx_and_linen_batch_statistics_agree():
    one = adapters.from_linen(Normed(), couples=True)
    two = adapters.from_nnx(NnxNormed, couples=True)
    variables = one.init(KEY, X)
    p, m = variables["params"], variables["model"]["batch_stats"]["BatchNorm_0"]
    p = {"layers": {"0": p["BatchNorm_0"]}, "last": p["Dense_0"]}
    same = {"params": p, "model": {"layers": {"0": m}}}
    outputs, state = forward(one, variables, train=True)
    others, other = forward(two, same, train=True)
    np.testing.assert_allclose(outputs.logits, others.logits, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        np.testing.assert_allclose,
        state["batch_stats"]["BatchNorm_0"],
        other["layers"]["0"],
    )


def test_state_must_say_whether_examples_couple():
    for network in (adapters.from_linen(Normed()), adapters.from_nnx(NnxNormed)):
        with pytest.raises(ValueError, match="say couples=True"):
            network.init(KEY, X)
    variables = adapters.from_linen(Normed(), couples=False).init(KEY, X)
    assert forward(adapters.from_linen(Normed()), variables)[0].logits.shape == (6, 3)
    with pytest.raises(ValueError, match="say couples=True"):
        forward(adapters.from_linen(Normed()), variables, train=True)


def test_a_module_declares_its_coupling_itself():
    class Declared(Normed):
        couples = True

    assert adapters.from_linen(Declared()).couples
    assert not adapters.from_linen(Plain()).couples


def test_function_with_state():
    network = adapters.from_function(
        lambda key, x: ({"w": jnp.ones(())}, {"seen": jnp.zeros(())}),
        lambda params, x, *, model, train: (
            x * params["w"],
            {"seen": model["seen"] + len(x)},
        ),
        couples=False,
    )
    variables = network.init(KEY, X)
    _, state = forward(network, variables, train=True)
    assert state["seen"] == 6
    assert forward(network, variables)[1]["seen"] == 0


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_dropout_is_a_function_of_the_keys(kind):
    network = adapters.from_linen(Noisy()) if kind == "linen" else adapters.from_nnx(NnxNoisy)
    x = jnp.ones((6, 32))
    variables = network.init(KEY, x)

    def logits(seed, train=True):
        rngs = {"dropout": jax.random.key(seed)} if train else {}
        return np.asarray(forward(network, variables, x, train=train, rngs=rngs)[0].logits)

    np.testing.assert_array_equal(logits(1), logits(1))
    assert not np.array_equal(logits(1), logits(2))
    assert not np.array_equal(logits(1), logits(1, train=False))
    np.testing.assert_array_equal(logits(1, train=False), logits(2, train=False))


def test_two_nnx_layers_draw_differently_and_a_missing_stream_is_named():
    network = adapters.from_nnx(NnxNoisy, features=("one", "two"))
    variables = network.init(KEY, X)
    outputs, _ = forward(network, variables, train=True, rngs={"dropout": KEY})
    assert not np.array_equal(outputs.features["one"] == 0, outputs.features["two"] == 0)
    with pytest.raises(ValueError, match=r"streams \['default'\], rngs has \[\]"):
        forward(network, variables, train=True)
    named = adapters.from_nnx(NnxNoisy(nnx.Rngs(dropout=0)))
    with pytest.raises(ValueError, match=r"streams \['dropout'\], rngs has \['noise'\]"):
        forward(named, variables, train=True, rngs={"noise": KEY})


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_key_per_example_makes_the_draw_independent_of_the_batch(kind):
    features = ("Dense_0",) if kind == "linen" else ("one",)
    network = (
        adapters.from_linen(Noisy(), features=features)
        if kind == "linen"
        else adapters.from_nnx(NnxNoisy, features=features)
    )
    x = jax.random.normal(KEY, (6, 32))
    variables = network.init(KEY, x)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(6))

    def outputs(index):
        return forward(network, variables, x[index], train=True, rngs={"dropout": keys[index]})[0]

    whole = outputs(jnp.arange(6))
    part = outputs(jnp.array([4, 1]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[jnp.array([4, 1])], b, rtol=1e-5, atol=1e-6),
        whole,
        part,
    )
    assert whole.features[features[0]].shape[0] == 6
    # The masks differ between examples: one key for all would repeat them.
    same = forward(network, variables, jnp.ones((6, 32)), train=True, rngs={"dropout": keys})[
        0
    ].logits
    assert not np.allclose(same[0], same[1])
    raw = forward(network, variables, x, train=True, rngs={"dropout": jax.random.key_data(keys)})[
        0
    ].logits
    np.testing.assert_array_equal(raw, whole.logits)


def test_a_key_per_example_is_refused_where_examples_couple():
    network = adapters.from_linen(Normed(), couples=True)
    keys = jax.random.split(KEY, 6)
    with pytest.raises(ValueError, match="key per example for .'dropout'."):
        forward(network, network.init(KEY, X), train=True, rngs={"dropout": keys})


def test_frozen_leaves_are_merged_under_the_trained_ones():
    network = adapters.from_linen(Plain())
    params = network.init(KEY, X)["params"]
    whole = forward(network, {"params": params})[0].logits
    trained = {"encoder": {"first": {"kernel": params["encoder"]["first"]["kernel"]}}}
    frozen = {"encoder": {"first": {"bias": params["encoder"]["first"]["bias"]}}}
    frozen["last"] = params["last"]
    split = {"params": trained, "frozen": frozen, "model": {}}
    np.testing.assert_array_equal(forward(network, split)[0].logits, whole)
    everything = {"params": {}, "frozen": params, "model": {}}
    np.testing.assert_array_equal(forward(network, everything)[0].logits, whole)
    doubled = {"params": params, "frozen": jax.tree.map(lambda x: 2 * x, params)}
    np.testing.assert_array_equal(forward(network, doubled)[0].logits, whole)

    def loss(params):
        return jnp.sum(forward(network, {**split, "params": params})[0].logits)

    full = jax.grad(lambda p: jnp.sum(forward(network, {"params": p})[0].logits))(params)
    gradient = jax.grad(loss)(trained)
    assert jax.tree.structure(gradient) == jax.tree.structure(trained)
    np.testing.assert_array_equal(
        gradient["encoder"]["first"]["kernel"], full["encoder"]["first"]["kernel"]
    )


def test_merge_refuses_a_leaf_against_a_subtree():
    with pytest.raises(ValueError, match="subtree"):
        adapters.merge({"a": 1}, {"a": {"b": 2}})
    with pytest.raises(ValueError, match="subtree"):
        adapters.merge({"a": {"b": 2}}, {"a": 1})
    assert adapters.merge({"a": {"b": 2}}, {}) == {"a": {"b": 2}}


def descend(parameter, slope):
    return parameter - 0.1 * slope


def test_a_gradient_inside_a_gradient():
    for network in (
        adapters.from_linen(Normed(), couples=True),
        adapters.from_nnx(NnxNormed, couples=True),
    ):
        variables = network.init(KEY, X)

        def loss(params, network=network, variables=variables):
            outputs, _ = forward(network, {**variables, "params": params}, train=True)
            return jnp.mean(jnp.square(outputs.logits))

        @jax.jit
        def after_a_step(params, loss=loss):
            return loss(jax.tree.map(descend, params, jax.grad(loss)(params)))

        direction = jax.tree.map(jnp.ones_like, variables["params"])
        gradient = jax.grad(after_a_step)(variables["params"])
        slope = sum(jnp.sum(g) for g in jax.tree.leaves(gradient))
        step = 1e-2
        moved = [
            after_a_step(jax.tree.map(lambda p, d, s=s: p + s * d, variables["params"], direction))
            for s in (step, -step)
        ]
        np.testing.assert_allclose(slope, (moved[0] - moved[1]) / (2 * step), rtol=1e-2)


def test_init_from_shapes_and_under_vmap():
    for network in (
        adapters.from_linen(Normed(), couples=True),
        adapters.from_nnx(NnxNormed, couples=True),
    ):
        from_values = network.init(KEY, X)
        from_shapes = network.init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))
        jax.tree.map(np.testing.assert_array_equal, from_values, from_shapes)
        keys = jax.random.split(KEY, 3)
        stacked = jax.vmap(network.init, (0, None))(keys, X)
        last = network.init(keys[2], X)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[2], b, rtol=1e-6), stacked, last)


def test_nnx_weights_are_those_of_the_constructor_or_a_copy_of_the_module():
    expected = nnx.state(NnxPlain(nnx.Rngs(KEY)), nnx.Param)
    params = adapters.from_nnx(NnxPlain).init(KEY, X)["params"]
    np.testing.assert_array_equal(params["last"]["kernel"], expected["last"]["kernel"].get_value())
    module = NnxPlain(nnx.Rngs(7))
    network = adapters.from_nnx(module, features=("encoder",))
    params = network.init(KEY, X)["params"]
    own = module.last.kernel.get_value()
    np.testing.assert_array_equal(params["last"]["kernel"], own)
    assert params["last"]["kernel"].unsafe_buffer_pointer() != own.unsafe_buffer_pointer()
    np.testing.assert_allclose(forward(network, {"params": params})[0].logits, module(X), rtol=1e-6)
    assert type(module.encoder) is NnxEncoder and not hasattr(module.encoder, "kdjax_calls")


def test_precision_of_the_adapter():
    for make, model in ((adapters.from_linen, Plain()), (adapters.from_nnx, NnxPlain)):
        wide = make(model, features=("encoder",))
        half = make(model, features=("encoder",), dtype=jnp.bfloat16)
        params = wide.init(KEY, X)["params"]
        outputs, _ = forward(half, {"params": params})
        assert outputs.logits.dtype == jnp.float32
        assert outputs.features["encoder"].dtype == jnp.bfloat16
        exact = forward(wide, {"params": params})[0].logits
        assert 0 < np.abs(outputs.logits - exact).max() < 0.03 * np.abs(exact).max()
        gradient = jax.grad(lambda p, n=half: jnp.sum(forward(n, {"params": p})[0].logits))(params)
        assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))
        narrow = make(model, param_dtype=jnp.bfloat16).init(KEY, X)["params"]
        assert all(p.dtype == jnp.bfloat16 for p in jax.tree.leaves(narrow))


def test_call_unpacks_inputs():
    class Two(linen.Module):
        @linen.compact
        def __call__(self, a, *, b):
            return linen.Dense(2, name="only")(a + b)

    network = adapters.from_linen(
        Two(),
        call=lambda module, inputs, train: module(inputs["a"], b=inputs["b"]),
        features=("only",),
    )
    inputs = {"a": X, "b": X}
    variables = network.init(KEY, inputs)
    outputs, _ = forward(network, variables, inputs)
    np.testing.assert_allclose(
        outputs.logits, 2 * X @ variables["params"]["only"]["kernel"], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(outputs.features["only"], outputs.logits)
