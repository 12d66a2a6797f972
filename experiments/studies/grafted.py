"""A private table behind a language model: an expert grafted into it, or rows drawn like the table's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import tables
from kdjax.methods import grafted_expert
from kdjax.metrics import privacy

# Tokens: ten digits, a letter per feature, a question mark, the two answers, then what stands empty.
ASK, ANSWERS, EMPTY = 30, (31, 32), 33


def private_table(bench):
    """Questions with a row's values, answered by a model that never saw the table, at one ε.

    The expert learns the table by DP-SGD; what reads values from the text and what writes its answer
    into the frozen model learn from rows drawn evenly. The opponent is the model fine-tuned on rows
    drawn from noised means and variances of the two classes, half of them of each. The ε is that of one
    training, not of the choice of its rate.
    """
    options, orders = bench.options, privacy.ORDERS
    table, label = tables.breast_cancer(options.features)
    parts = np.split(np.random.default_rng(0).permutation(len(label)), (340, 425))
    train, validation, test = ((table[part], label[part]) for part in parts)
    held = {"validation": validation, "test": test}
    rng = np.random.default_rng(1)
    drawn = rng.random((options.rows, options.features), np.float32)
    anything = rng.integers(2, size=options.rows)
    asked = _asked(drawn, options)
    prompt, text = (jax.ShapeDtypeStruct((1, x.shape[1]), jnp.int32) for x in asked.values())
    vocabulary = EMPTY + options.features + options.tokens
    sizes = {"width": 48, "depth": 2, "heads": 4, "key_heads": 4, "hidden": 96, "scan": False}
    model = networks.decoder_transformer(vocabulary, **sizes)
    encoder = networks.decoder_transformer(vocabulary, **sizes, features=("hidden",))
    expert = networks.multilayer_perceptron(2, widths=(16,))
    fit = {"batch": 32, "rate": 3e-3}

    pretrained = bench.fit(
        "model", methods.next_token(), {"student": model}, prompt,
        {"sequence": _answered(drawn, anything, options)}, seeds=[0], **fit,
    )  # fmt: skip

    def told(trained, part):
        """Accuracy of a model that reads the question alone."""
        rows, label = held[part]
        logits = trained.logits(_asked(rows, options)["prompt"])
        return study.right(np.asarray(logits)[:, :, -1, list(ANSWERS)], label)

    # Class counts, sums and sums of squares: one row moves all those of its class.
    sigma = next(
        sigma for sigma in np.geomspace(0.2, 50, 400)
        if privacy.epsilon(privacy.gaussian_rdp(sigma, orders), orders, options.delta)
        <= options.epsilon
    )  # fmt: skip
    noise = sigma * np.sqrt(1 + 2 * options.features)
    made = [
        tables.from_moments(np.random.default_rng(seed), *train, options.rows // 2, noise=noise)
        for seed in bench.seeds
    ]
    lines = [_answered(*rows, options) for rows in made]
    lines = {key: np.stack([each[key] for each in lines]) for key in lines[0]}
    last = np.zeros(lines["tokens"].shape, bool)
    last[:, :, -1] = True
    tuned = bench.fit(
        "synthetic", methods.next_token(), {"student": model}, prompt,
        {"sequence": study.stream_of_seeds({**lines, "mask": last}, 32)},
        steps=options.encoder_steps + options.decoder_steps,
        start=study.shared({"student": pretrained.frozen}),
        score=lambda trained: told(trained, "validation"), **fit,
    )  # fmt: skip

    def right(trained, part):
        return study.right(trained.logits(held[part][0]), held[part][1])

    noise = privacy.noise_for(
        options.epsilon, options.delta, rate=options.joins, steps=options.expert_steps
    )
    learned = bench.fit(
        "expert", grafted_expert.private_descent(clip=1.0, noise=noise, joins=options.joins),
        {"student": expert}, jax.ShapeDtypeStruct((1, options.features), jnp.float32),
        {"labelled": {"image": train[0], "label": train[1]}}, batch=len(train[1]), rate=1e-2,
        score=lambda trained: right(trained, "validation"),
    )  # fmt: skip
    reader = bench.fit(
        "llamdex/encoder", grafted_expert.read_features(features=options.features),
        {"encoder": encoder}, text, {"questions": {**asked, "features": drawn}},
        score=lambda trained: -np.square(_read(trained, validation[0], options) - validation[0]).mean(
            axis=(1, 2)
        ), **fit,
    )  # fmt: skip
    answers = functools.partial(_grafted, expert, model, pretrained.frozen, reader, held, options)
    # Labels of drawn rows are the expert's own: nothing private is read again.
    questions = study.repeated({**asked, "features": drawn}, bench.seeds)
    questions["label"] = np.asarray(learned.logits(drawn)).argmax(-1)
    own = learned.params["student"]
    writer = bench.fit(
        "llamdex/decoder",
        grafted_expert.write_answers(
            width=48, count=options.tokens, classes=ANSWERS, expert=learned.frozen
        ),
        {"expert": expert, "language_model": model},
        {"expert": jax.ShapeDtypeStruct((1, options.features), jnp.float32), "language_model": prompt},
        {"questions": study.stream_of_seeds(questions, 32)},
        frozen={"language_model": pretrained.frozen}, start=study.carried({}, expert=own),
        score=lambda trained: answers(trained, "validation"), **fit,
    )  # fmt: skip
    return {
        "llamdex": answers(writer, "test"),
        "synthetic": told(tuned, "test"),
        "expert": right(learned, "test"),
        "model": told(pretrained, "test"),
    }


def _asked(rows, options):
    """A row's values in text, two digits each: `prompt` for the model, `text` for the encoder."""
    values = np.clip(np.round(rows * 99), 0, 99).astype(np.int32)
    letters = np.broadcast_to(10 + np.arange(options.features), values.shape)
    words = np.stack([letters, values // 10, values % 10], axis=-1).reshape(len(rows), -1)

    def ended(*numbers):
        return np.concatenate([words, np.tile(np.array(numbers, np.int32), (len(rows), 1))], axis=1)

    pads = range(EMPTY, EMPTY + options.features)
    blanks = range(EMPTY + options.features, EMPTY + options.features + options.tokens)
    return {"prompt": ended(ASK, *blanks), "text": ended(*pads)}


def _answered(rows, label, options):
    """Questions about rows with an answer to each, as `tokens` and the `targets` that follow them."""
    ends = np.asarray(ANSWERS)[label][:, None]
    lines = np.concatenate([_asked(rows, options)["prompt"], ends], axis=1)
    return {"tokens": lines[:, :-1], "targets": lines[:, 1:]}


def _read(trained, rows, options):
    """`[S, N, F]`, the features that are read from the text about rows."""
    text, readout = _asked(rows, options)["text"], trained.params["readout"]
    hidden = trained.outputs(text, "encoder").features["hidden"][:, :, -options.features :]
    found = jnp.einsum("snfd,sfd->snf", hidden, readout["kernel"])
    return np.asarray(found + readout["bias"][:, None])


def _grafted(expert, model, params, reader, held, options, trained, part):
    """Accuracy of text to features, to the expert's opinion, to tokens, to the model's answer. `[S]`."""
    rows, label = held[part]
    features = _read(reader, rows, options)[np.asarray(trained.seeds)]
    decoder = grafted_expert.pseudo_tokens(options.tokens, 48)
    prompt = _asked(rows, options)["prompt"]

    def answer(params, tokens):
        return model.apply({"params": params}, tokens, train=False, rngs={})[0].logits

    def one(own, decoding, features):
        said = expert.apply({"params": own}, features, train=False, rngs={})[0].logits
        made = decoder.apply({"params": decoding}, jax.nn.softmax(said), train=False, rngs={})
        pseudo = made[0].features["pseudo"]
        return grafted_expert.grafted_logits(answer, params, prompt, pseudo, ANSWERS)

    own = trained.state.memory["expert"]
    return study.right(jax.jit(jax.vmap(one))(own, trained.params["decoder"], features), label)
