"""Strips of handwritten digits read like speech: columns or rows of pixels are the frames."""

import jax
import numpy as np

from experiments.studies import _images as images
from experiments.studies import _strips, _text
from kdjax import methods, networks
from kdjax.data import frames
from kdjax.metrics import probes, transfer


def transcribed_strips(bench):
    """Errors in the digits of strips, for networks that a model of the digits' grammar helps or not.

    A strip shows a few digits side by side, whose order a grammar says: after each only some may come.
    The language model has read many transcripts, the networks see few strips.
    """
    options, data, rng = bench.options, images.prepare(bench), np.random.default_rng(0)
    allowed = _strips.grammar(rng, options.successors)
    texts, fresh = (
        _strips.transcripts(rng, allowed, options, count) for count in (options.texts, 500)
    )
    model = networks.encoder_transformer(
        12, width=options.model_width, depth=1, heads=4, hidden=2 * options.model_width,
        positions=options.longest, kinds=0, features={"states": "hidden1"},
    )  # fmt: skip
    of_texts, found = _text.masked_model(
        bench, model, texts, fresh, rng, mask=11, batch=64, padded=True
    )
    sizes = {"train": options.strips, "validation": 300, "test": 500}
    held = {
        part: _strips.strips(rng, data, allowed, options, part, size)
        for part, size in sizes.items()
    }
    variables = {"params": of_texts.frozen, "frozen": {}, "model": {}}
    tokens = {"tokens": held["train"]["labels"]}
    told, _ = model.apply(variables, tokens, train=False, rngs={})
    train = {**held["train"], "states": np.asarray(told.features["states"])}
    rows = {
        name: {
            "method": methods.context_aware_ctc(transfer=own.transfer),
            "nets": {"student": networks.frame_labeller(
                11, width=options.width, feedback=own.feedback, state_width=options.model_width,
                queries=options.longest if own.transfer else 0,
            )},
        }
        for name, own in options.methods.items()
    }  # fmt: skip

    def error(trained, part):
        logits = trained.outputs(held[part]["frames"], batch=100).logits
        return {"token_error": _strips.error_rate(logits, held[part]["labels"])}

    found |= bench.compare(
        rows, nets={}, data={"sequence": train}, measure=error,
        inputs=jax.ShapeDtypeStruct((1, *train["frames"].shape[1:]), np.float32),
        score=lambda trained: -error(trained, "validation")["token_error"],
    )  # fmt: skip
    return found


def perturbed_frames(bench):
    """What else to pre-train on where there are few examples, at an equal number of steps.

    Rows of an image are its frames; a recurrent network learns to tell the frames to come. Beside the
    few images of the digits below five it reads: as many more of them, copies stretched from top to
    bottom or noisy ones, both, or images of the other digits, another language as it were. Scored by a
    linear classifier of the low digits on its frozen states, fitted in closed form.
    """
    options, rng = bench.options, np.random.default_rng(0)
    data = images.prepare(bench, size=options.size)
    real, low = data.image[..., 0], data.label < 5
    train, test = (part[low[part]] for part in (data.parts.train, data.parts.test))
    base, extra = np.split(rng.permutation(train)[: 2 * options.base], 2)
    probe = rng.permutation(train)[: options.probe]
    foreign = rng.permutation(data.parts.train[~low[data.parts.train]])
    copies = real[np.tile(base, max(options.ratios))]
    added = {
        "stretched": frames.stretched(rng, copies),
        "noisy": frames.noisy(rng, copies, options.noise),
        "both": frames.noisy(rng, frames.stretched(rng, copies), options.noise),
        "foreign": real[np.resize(foreign, len(copies))],
    }
    arms = {"base": real[base], "real": real[[*base, *extra]]}
    for name, more in added.items():
        for ratio in options.ratios:
            arms[f"{name}_{ratio}"] = np.concatenate([real[base], more[: ratio * options.base]])
    method = methods.autoregressive_prediction(ahead=options.ahead)
    network = {"student": networks.frame_predictor(width=options.width)}
    shape = jax.ShapeDtypeStruct((1, *real.shape[1:]), np.float32)

    def accuracy(trained):
        def of_frames(rows):
            states = np.asarray(trained.outputs(real[rows]).features["states"])
            labels = np.repeat(data.label[rows], real.shape[1])
            return states.reshape(len(states), -1, options.width), labels

        (seen, labels), (unseen, right) = of_frames(probe), of_frames(test)
        said = probes.probe(seen, unseen, labels, regularisation=options.ridge)
        return np.mean(said == right, axis=1)

    found = {
        name: {"accuracy": accuracy(
            bench.fit(name, method, network, shape, {"sequence": {"frames": each}})
        )}
        for name, each in arms.items()
    }  # fmt: skip
    for name in added:
        rows = [found[f"{name}_{ratio}"] for ratio in options.ratios]
        scores = [row["accuracy"].mean() for row in rows]
        target = found["real"]["accuracy"].mean()
        for row in rows:
            row["factor"] = transfer.equivalence_factor(options.ratios, scores, target)
    return found
