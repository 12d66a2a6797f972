"""Strips of handwritten digits read like speech: columns or rows of pixels are the frames."""

import jax
import numpy as np

from experiments import study
from experiments.studies import _images as images
from experiments.studies import _text
from kdjax import methods, networks
from kdjax.data import answers, plans, streams
from kdjax.metrics import probes, transfer
from kdjax.networks.speech import frame_labeller, frame_predictor

FRAMES = 8  # columns of a digit


def transcribed_strips(bench):
    """Errors in the digits of strips, for networks that a model of the digits' grammar helps or not.

    A strip shows a few digits side by side, whose order a grammar says: after each only some may come.
    The language model has read many transcripts, the networks see few strips.
    """
    options, data = bench.options, images.prepare(bench)
    rng = np.random.default_rng(0)
    allowed = [rng.permutation(10)[: options.successors] for _ in range(10)]
    texts = _transcripts(rng, allowed, options, options.texts)
    fresh = _transcripts(rng, allowed, options, 500)
    model = networks.encoder_transformer(
        12, width=options.model_width, depth=1, heads=4, hidden=2 * options.model_width,
        positions=options.longest, kinds=0, features={"states": "hidden1"},
    )  # fmt: skip
    params, measured = _text.masked_model(
        bench, model, texts, fresh, rng, mask=11, batch=64, rate=3e-3, padded=True
    )
    rows = {
        part: _strips(rng, data, allowed, options, part, size)
        for part, size in (("train", options.strips), ("validation", 300), ("test", 500))
    }
    tokens = rows["train"]["labels"]
    variables = {"params": params, "frozen": {}, "model": {}}
    told, _ = model.apply(variables, {"tokens": tokens}, train=False, rngs={})
    train = {**rows["train"], "states": np.asarray(told.features["states"])}
    shape = jax.ShapeDtypeStruct((1, *train["frames"].shape[1:]), np.float32)
    for name, own in options.methods.items():
        network = frame_labeller(
            11, width=options.width, feedback=own.feedback, state_width=options.model_width,
            queries=options.longest if own.transfer else 0,
        )  # fmt: skip
        state = bench.fit(
            name, methods.context_aware_ctc(transfer=own.transfer), {"student": network}, shape,
            {"sequence": train}, steps=options.steps, batch=options.batch, rate=options.rate,
            score=lambda state, seeds, n=network: -_error_rate(n, state, rows["validation"]),
        )  # fmt: skip
        measured[name] = {"token_error": _error_rate(network, state, rows["test"])}
    return measured


def _transcripts(rng, allowed, options, count):
    """Digits 1 to 10 of `count` texts, `[count, longest]`, 0 where there are no more."""
    found = np.zeros((count, options.longest), np.int32)
    for row in found:
        digit = rng.integers(10)
        for place in range(rng.integers(options.shortest, options.longest + 1)):
            row[place] = digit + 1
            digit = rng.choice(allowed[digit])
    return found


def _strips(rng, data, allowed, options, part, size):
    """Frames `[size, 8 longest, height]` of a part's digits, their labels and which there are."""
    labels = _transcripts(rng, allowed, options, size)
    numbers = getattr(data.parts, part)
    by_digit = [numbers[data.label[numbers] == digit] for digit in range(10)]
    height = data.image.shape[1]
    frames = np.zeros((size, options.longest, FRAMES, height), np.float32)
    for row, digits in zip(frames, labels, strict=True):
        for place, digit in enumerate(digits[digits > 0]):
            shown = data.image[rng.choice(by_digit[digit - 1]), ..., 0]
            row[place] = shown.T + options.noise * rng.normal(size=shown.shape)
    frames = frames.reshape(size, -1, height)
    return {"frames": frames, "labels": labels, "mask": labels > 0}


def _error_rate(network, state, rows):
    """Edits from the best path to the transcript, per token. `[S]`."""
    outputs = study.predict(network, state.params["student"], rows["frames"], batch=100)
    best = np.asarray(outputs.logits).argmax(-1)
    said = [[_collapsed(path) for path in paths] for paths in best]
    wanted = [labels[labels > 0].tolist() for labels in rows["labels"]]
    edits = [
        sum(answers.edit_distance(a, b) for a, b in zip(paths, wanted, strict=True))
        for paths in said
    ]
    return np.array(edits) / rows["mask"].sum()


def _collapsed(path):
    """The tokens of a path of a CTC: repeats are one, blanks none."""
    return [int(x) for x, before in zip(path, [0, *path[:-1]], strict=True) if x and x != before]


def perturbed_frames(bench):
    """What else to pre-train on where there are few examples, at an equal number of steps.

    Rows of an image are its frames; a recurrent network learns to tell the frames to come. Beside the
    few images of the digits below five it reads: as many more of them, copies stretched from top to
    bottom or noisy ones, both, or images of the other digits, another language as it were. Scored by a
    linear classifier of the low digits on its frozen states, fitted in closed form.
    """
    options, data = bench.options, images.prepare(bench, size=bench.options.size)
    rng = np.random.default_rng(0)
    low = {part: _of(data, part, range(5)) for part in ("train", "test")}
    base, extra = np.split(rng.permutation(low["train"])[: 2 * options.base], 2)
    probe = rng.permutation(low["train"])[: options.probe]
    foreign = rng.permutation(_of(data, "train", range(5, 10)))
    largest = max(options.ratios)
    copies = np.tile(base, largest)
    real = data.image[..., 0]
    added = {
        "stretched": _stretched(rng, real[copies]),
        "noisy": _noisy(rng, real[copies], options.noise),
        "both": _noisy(rng, _stretched(rng, real[copies]), options.noise),
        "foreign": real[np.resize(foreign, len(copies))],
        "real": real[np.resize(extra, len(copies))],
    }
    network = frame_predictor(width=options.width)
    shape = jax.ShapeDtypeStruct((1, *real.shape[1:]), np.float32)
    arms = {"base": (added["real"], 0), "real": (added["real"], 1)}
    for name in ("stretched", "noisy", "both", "foreign"):
        arms |= {f"{name}_{ratio}": (added[name], ratio) for ratio in options.ratios}
    measured = {}
    for name, (frames, ratio) in arms.items():
        columns = {"frames": np.concatenate([real[base], frames])}
        plan = plans.IndexPlan(np.arange(options.base * (1 + ratio)), options.batch)
        state = bench.fit(
            name, methods.autoregressive_prediction(ahead=options.ahead), {"student": network},
            shape, {"sequence": streams.Stream(plan, columns)}, steps=options.steps,
            batch=options.batch, rate=options.rate,
        )  # fmt: skip
        states = [
            study.predict(network, state.params["student"], real[rows]).features["states"]
            for rows in (probe, low["test"])
        ]
        labels = [data.label[rows] for rows in (probe, low["test"])]
        measured[name] = {"accuracy": _probed(*map(np.asarray, states), *labels, options.ridge)}
    for name in ("stretched", "noisy", "both", "foreign"):
        scores = np.stack([measured[f"{name}_{ratio}"]["accuracy"] for ratio in options.ratios])
        found = transfer.equivalence_factor(
            options.ratios, scores.mean(1), measured["real"]["accuracy"].mean()
        )
        for ratio in options.ratios:
            measured[f"{name}_{ratio}"]["factor"] = np.repeat(found, len(bench.seeds))
    return measured


def _of(data, part, digits):
    numbers = getattr(data.parts, part)
    return numbers[np.isin(data.label[numbers], list(digits))]


def _stretched(rng, frames):
    """The frames `[N, T, F]` read along a frequency axis that is 0.8 to 1.25 times as long."""
    width = frames.shape[-1]
    factors = np.exp(rng.uniform(np.log(0.8), np.log(1.25), len(frames)))
    middle = (width - 1) / 2
    at = np.clip(middle + (np.arange(width) - middle) / factors[:, None], 0, width - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, width - 1), (at - low)[:, None, :]
    pick = lambda places: np.take_along_axis(frames, places[:, None, :], axis=2)
    return ((1 - share) * pick(low) + share * pick(high)).astype(np.float32)


def _noisy(rng, frames, size):
    return (frames + size * rng.normal(size=frames.shape)).astype(np.float32)


def _probed(train, test, train_labels, test_labels, ridge):
    """The accuracy `[S]` of a linear probe of every frame's state `[S, N, T, D]`."""
    rows, asked = (x.reshape(len(x), -1, x.shape[-1]) for x in (train, test))
    wanted, right = (np.repeat(y, train.shape[2]) for y in (train_labels, test_labels))
    return np.mean(probes.probe(rows, asked, wanted, regularisation=ridge) == right, axis=1)
