"""A small expert inside a frozen language model: what reads the question, and what writes the answer."""

import jax
import jax.numpy as jnp
import optax

from kdjax.losses import logit_squared_error
from kdjax.losses._arrays import check_at_least_one, check_positive
from kdjax.networks.adapters import from_function
from kdjax.networks.network import Outputs
from kdjax.train.method import Method, Term, one_phase, term


def private_descent(*, clip: float = 1.0, noise: float = 1.0, joins: float = 0.1) -> Method:
    """Differentially private training: clipped gradients of single examples, and noise on their sum.

    g = (Σ_i j_i min(1, clip / |g_i|) g_i + N(0, noise² clip²)) / (joins · N), where each of the N
    examples of the labelled batch joins with probability `joins`, j_i. The batch must be the whole
    set: then `kdjax.metrics.privacy.sampled_gaussian_rdp(joins, noise, ...)` is the price of a step.

    Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy",
    2016.
    """
    check_positive(clip=clip, noise=noise, joins=joins)

    def objective(scope):
        batch, own = scope.batch["labelled"], scope.params["student"]

        def loss(params, image, label):
            logits = scope.apply("student", image[None], params=params)[0].logits[0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)

        one = jax.value_and_grad(loss)
        values, each = jax.vmap(one, (None, 0, 0))(own, batch["image"], batch["label"])
        norms = jnp.sqrt(sum(_squares(x) for x in jax.tree.leaves(each)))
        keys = scope.rng("joins", batch["index"])
        drawn = jax.vmap(lambda key: jax.random.uniform(key, ()))(keys)
        scale = (drawn < joins) * jnp.minimum(1, clip / jnp.maximum(norms, 1e-12))
        leaves, tree = jax.tree.flatten(each)
        shifts = jax.random.split(scope.rng("privacy"), len(leaves))
        sums = [
            jnp.tensordot(scale, x, 1) + noise * clip * jax.random.normal(key, x.shape[1:])
            for key, x in zip(shifts, leaves, strict=True)
        ]
        gradient = jax.lax.stop_gradient(jax.tree.unflatten(tree, sums))
        # A total whose gradient is the noisy one, and whose value is the cross-entropy.
        along = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, own))) / joins
        total = jax.lax.stop_gradient(jnp.sum(values) - along) + along
        return {"labels": Term(total, jnp.float32(len(values)), couples=True)}, {}

    return one_phase(objective)


def read_features(*, features: int) -> Method:
    """A text encoder whose last `features` hidden tokens, each by its own linear map, give numbers.

    `batch["questions"]` has the `text` `[B, L]`, which ends in that many pads, and the `features`
    `[B, features]`; the squared error trains the players `encoder` (its feature `hidden` `[B, L, D]`
    is read) and `readout`.

    Stage 1 of Wu et al., "Model-Based Differentially Private Knowledge Transfer for Large Language
    Models", 2025.
    """
    check_at_least_one(features=features)

    def readout(shapes):
        hidden = shapes["encoder"].features["hidden"]
        width = hidden.shape[-1]
        network = from_function(
            lambda key, inputs: {
                "kernel": jax.random.normal(key, (features, width)) / jnp.sqrt(width),
                "bias": jnp.zeros(features),
            },
            lambda params, x: (
                jnp.einsum("bfd,fd->bf", x[:, -features:], params["kernel"]) + params["bias"][None]
            ),
        )
        return network, hidden

    def objective(scope):
        batch = scope.batch["questions"]
        hidden = scope.apply("encoder", batch["text"])[0].features["hidden"]
        given = scope.apply("readout", hidden)[0].logits
        return {"features": term(logit_squared_error(given, batch["features"]))}, {}

    return one_phase(objective, {"readout": readout}, trains=("encoder", "readout"))


def write_answers(*, width: int, count: int, classes: tuple[int, ...], expert=None) -> Method:
    """Pseudo tokens, made of what an expert says, with which a frozen language model answers.

    The expert's class probabilities go through a linear map and a layer normalisation to `count` tokens of
    `width`, which stand for the model's last `count` embeddings where it reads `prompt`, see
    `grafted_logits`. Cross-entropy of the last position over the tokens `classes`. The expert reads
    the true `features`; frozen are `expert` and `language_model`, or the expert lies in memory by
    seed, whose initial parameters are `expert`.

    Stage 2 of Wu et al., 2025, at the input of the first layer with a linear map, both among theirs;
    they take ten tokens.
    """
    check_at_least_one(width=width, count=count)

    def objective(scope):
        batch = scope.batch["questions"]
        said = scope.apply("expert", batch["features"], params=scope.memory.get("expert"))[0].logits
        pseudo = scope.apply("decoder", jax.nn.softmax(said))[0].features["pseudo"]

        def answer(params, prompt):
            return scope.apply("language_model", prompt, params=params)[0].logits

        model = scope.frozen["language_model"]
        logits = grafted_logits(answer, model, batch["prompt"], pseudo, classes)
        return {
            "answers": term(optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]))
        }, {}

    def decoder(shapes):
        return pseudo_tokens(count, width), shapes["expert"].logits

    memory = {} if expert is None else {"expert": expert}
    return one_phase(objective, {"decoder": decoder}, trains=("decoder",), memory=memory)


def pseudo_tokens(count: int, width: int):
    """The decoder of `write_answers`: `[B, C]` to the feature `pseudo` `[B, count, width]`."""

    def init(key, inputs):
        shape = (inputs.shape[-1], count, width)
        return {"kernel": jax.random.normal(key, shape), "scale": jnp.ones((count, width))}

    def apply(params, inputs):
        x = jnp.einsum("bc,ckd->bkd", inputs, params["kernel"])
        x = x - x.mean(axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
        return Outputs(None, {"pseudo": x * params["scale"][None]})

    return from_function(init, apply, features=("pseudo",))


def grafted_logits(answer, params, prompt, pseudo, classes):
    """A language model's logits for `classes` at the end of a prompt, with tokens put in its embedding.

    Args:
        answer: `(params, tokens [1, L]) -> logits [1, L, V]`.
        params: has an untied `embedding`, whose last K rows give way to `pseudo`.
        prompt: `[B, L]`
        pseudo: `[B, K, D]`
        classes: the tokens of the C classes.

    Returns:
        `[B, C]`
    """

    def one(prompt, pseudo):
        embedding = params["embedding"].at[-len(pseudo) :].set(pseudo)
        logits = answer({**params, "embedding": embedding}, prompt[None])
        return logits[0, -1, jnp.asarray(classes)]

    return jax.vmap(one)(prompt, pseudo)


def _squares(x):
    return jnp.sum(x**2, axis=tuple(range(1, x.ndim)))
