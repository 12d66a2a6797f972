"""Studies of networks that take in layers of another, frozen one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import sources
from kdjax.methods.routing import best_route, probabilities
from kdjax.networks.routed import OPERATORS


def routes_between_networks(bench):
    """A network of few labelled digits chooses which layers of one trained on MNIST it takes in.

    A quarter of the labelled images rewards the routes: where there are any, settled or not, the other
    three quarters train the network. `kd` has that network's answers by linear heads that learned the
    same labelled digits.
    """
    options = bench.options
    # The middle, where MNIST has its ink: the digits fill their images.
    before = images.prepare(bench, 8, centre=options.centre)
    data = images.prepare(bench, data=sources.load_tfds("digits"))
    names = ("hidden1", "hidden2", "hidden3")
    source = networks.multilayer_perceptron(
        data.classes, widths=(options.source,) * 3, features=names
    )
    taught = images.teach(bench, source, before, data, features=names)
    answered, of_heads = images.with_own_heads(
        bench, data, taught.columns["teacher/hidden3"], options.labelled
    )
    widths = (options.width,) * 2
    plain = networks.multilayer_perceptron(data.classes, widths=widths)
    tuned = {
        "nets": {"student": source},
        "start": study.shared({"student": taught.frozen["teacher"]}),
    }
    rows = {
        "alone": methods.supervised(),
        "kd": {"method": methods.kd(), "data": {"labelled": answered}},
        "finetune": {"method": methods.supervised(), **tuned},
    }
    found = bench.compare(
        rows, {"student": plain, "teacher": source}, data.shape,
        {"labelled": data.stream(options.batch, options.labelled)}, frozen=taught.frozen,
        measure=data.accuracy,
    )  # fmt: skip

    layers = {name: taught.columns[f"teacher/{name}"] for name in names}
    columns = {"image": data.image, "label": data.label}
    columns |= {f"source/{name}": x for name, x in layers.items()}
    few = functools.partial(data.parts.labelled, options.labelled)
    quarter = np.arange(options.labelled) % 4 == 0
    streams = {
        name: study.stream(columns, options.batch, lambda seed, own=own: few(seed)[own])
        for name, own in (("labelled", ~quarter), ("held", quarter))
    }
    routed = networks.routed_perceptron(data.classes, widths=widths)
    inputs = {
        "image": data.shape,
        "source": {name: jax.ShapeDtypeStruct((1, options.source), jnp.float32) for name in names},
        **{key: jax.ShapeDtypeStruct((2,), jnp.int32) for key in ("arms", "operators")},
    }

    def measured(trained, part):
        numbers, memory = getattr(data.parts, part), trained.state.memory
        source = {name: x[numbers] for name, x in layers.items()}
        given = {"image": data.image[numbers], "source": source}

        @jax.jit
        @jax.vmap
        def logits(params, route):
            variables = {"params": params, "model": {}, "frozen": {}}
            return routed.apply(variables, {**given, **route}, train=False, rngs={})[0].logits

        likely = probabilities(memory["weights"]["arms"], options.explore)
        said = logits(trained.params["student"], best_route(memory))
        return {
            "accuracy": study.right(said, data.label[numbers]),
            "certainty": np.asarray(likely.max(-1).mean(-1)),
        }

    shape = {"layers": 2, "arms": len(names)}
    stays = methods.auto_transfer(**shape, eta=0.0, explore=0.0)
    rows = {
        "fixed": {"method": stays, "start": _settled("fixed", bench.seeds, shape)},
        "random": {"method": stays, "start": _settled("random", bench.seeds, shape)},
        "bandit": methods.auto_transfer(**shape, eta=options.eta, explore=options.explore),
    }
    found |= bench.compare(
        rows, {"student": routed}, {"student": inputs}, streams, measure=measured,
        score=lambda trained: measured(trained, "validation")["accuracy"],
    )  # fmt: skip
    return {"teacher": of_heads, **found}


def _settled(name, seeds, shape):
    """A `start` whose routes are settled: the same depth by addition, or drawn by the seed."""
    layers, sizes = shape["layers"], {"arms": shape["arms"] + 1, "operators": len(OPERATORS)}
    routes = {"arms": np.indices((len(seeds), layers))[1]}
    routes["operators"] = np.ones_like(routes["arms"])
    if name == "random":
        rngs = [np.random.default_rng(seed) for seed in seeds]
        routes = {
            key: np.stack([rng.integers(size, size=layers) for rng in rngs])
            for key, size in sizes.items()
        }
    weights = {key: 1e3 * np.eye(n, dtype=np.float32)[routes[key]] for key, n in sizes.items()}
    return study.carried({}, weights=weights)
