"""Studies of networks that take in layers of another, frozen one."""

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
    settings = {"batch": options.batch, "rate": options.rate}
    names = ("hidden1", "hidden2", "hidden3")
    source = networks.multilayer_perceptron(
        data.classes, widths=(options.source,) * 3, features=names
    )
    taught = images.teach(
        bench, source, before, data, features=names, steps=options.teacher_steps, **settings
    )
    top = taught.columns["teacher/hidden3"]
    answered, of_heads = images.with_own_heads(
        bench, data, top, options.labelled, steps=options.steps, **settings
    )
    held = {f"source/{name}": taught.columns.pop(f"teacher/{name}") for name in names}
    widths = (options.width,) * 2
    plain = networks.multilayer_perceptron(data.classes, widths=widths)
    routed = networks.routed_perceptron(data.classes, widths=widths)
    inputs = {
        "image": data.shape,
        "source": {name: jax.ShapeDtypeStruct((1, options.source), jnp.float32) for name in names},
        **{key: jax.ShapeDtypeStruct((2,), jnp.int32) for key in ("arms", "operators")},
    }

    def scored(route_of, part="test"):
        """`score(state, seeds)` of the routed network on `route_of(state)`, by seed."""
        numbers = getattr(data.parts, part)
        given = {
            "image": data.image[numbers],
            "source": {name: held[f"source/{name}"][numbers] for name in names},
        }

        @jax.jit
        @jax.vmap
        def logits(params, route):
            variables = {"params": params, "model": {}, "frozen": {}}
            return routed.apply(variables, {**given, **route}, train=False, rngs={})[0].logits

        def score(state, seeds):
            del seeds
            found = logits(state.params["student"], route_of(state))
            return study.right(found, data.label[numbers])

        return score

    found = {"teacher": {"accuracy": of_heads}}
    own = study.repeated({"student": taught.frozen["teacher"]}, bench.seeds)
    few = data.stream(options.batch, options.labelled)
    for name, method, network, labelled, start in (
        ("alone", methods.supervised(), plain, few, None),
        ("kd", methods.kd(), plain, answered, None),
        ("finetune", methods.supervised(), source, few, study.carried(own)),
    ):
        state = bench.fit(
            name, method, {"student": network, "teacher": source}, data.shape, {"labelled": labelled},
            frozen=taught.frozen, start=start, score=data.scored(network, "validation"),
            steps=options.steps, **settings,
        )  # fmt: skip
        found[name] = {"accuracy": data.scored(network)(state, None)}

    def part(first):
        def examples(seed):
            drawn = data.parts.labelled(options.labelled, seed)
            return drawn[np.arange(len(drawn)) % 4 > 0] if first else drawn[::4]

        columns = {"image": data.image, "label": data.label, **held}
        return study.stream(columns, options.batch, examples)

    streams = {"labelled": part(True), "held": part(False)}
    shape = {"layers": 2, "arms": len(names)}
    for name, eta in (("fixed", 0.0), ("random", 0.0), ("bandit", options.eta)):
        method = methods.auto_transfer(
            **shape, eta=eta, explore=0.0 if name != "bandit" else options.explore
        )
        start = None if name == "bandit" else _settled(name, bench.seeds, shape)
        state = bench.fit(
            name, method, {"student": routed}, {"student": inputs}, streams,
            start=start, score=scored(lambda state: best_route(state.memory), "validation"),
            steps=options.steps, **settings,
        )  # fmt: skip
        right = scored(lambda state: best_route(state.memory))(state, None)
        likely = probabilities(state.memory["weights"]["arms"], options.explore)
        found[name] = {"accuracy": right, "certainty": np.asarray(likely.max(-1).mean(-1))}
    return found


def _settled(name, seeds, shape):
    """A `start` whose routes are settled: the same depth by addition, or drawn by the seed."""
    sizes = {"arms": shape["arms"] + 1, "operators": len(OPERATORS)}
    routes = {"arms": [], "operators": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        fixed = {"arms": np.arange(shape["layers"]), "operators": np.ones(shape["layers"], int)}
        for key, size in sizes.items():
            drawn = rng.integers(size, size=shape["layers"])
            routes[key].append(np.eye(size)[fixed[key] if name == "fixed" else drawn])
    weights = {key: 1e3 * np.asarray(each, np.float32) for key, each in routes.items()}
    return study.carried({}, weights=weights)
