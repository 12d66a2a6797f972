"""A private table behind a language model: an expert grafted into it, or rows drawn like the table's."""

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
    options = bench.options
    table, label = tables.breast_cancer(options.features)
    parts = np.split(np.random.default_rng(0).permutation(len(label)), (340, 425))
    train, validation, test = ((table[part], label[part]) for part in parts)
    rng = np.random.default_rng(1)
    drawn = rng.random((options.rows, options.features), np.float32)
    anything = rng.integers(2, size=options.rows)
    vocabulary = EMPTY + options.features + options.tokens
    sizes = {"width": 48, "depth": 2, "heads": 4, "key_heads": 4, "hidden": 96, "scan": False}
    model = networks.decoder_transformer(vocabulary, **sizes)
    encoder = networks.decoder_transformer(vocabulary, **sizes, features=("hidden",))
    whole = {**_asked(drawn, options), "answer": np.asarray(ANSWERS)[anything][:, None]}
    lines = np.concatenate([whole["prompt"], whole["answer"]], axis=1)
    pretrained = bench.fit(
        "model", methods.next_token(), {"student": model}, _tokens(lines[:, :-1]),
        {"sequence": {"tokens": lines[:, :-1], "targets": lines[:, 1:]}},
        steps=options.model_steps, batch=32, rate=3e-3, seeds=[0],
    )  # fmt: skip
    frozen = {"language_model": study.first(pretrained.params["student"])}
    expert = networks.multilayer_perceptron(2, widths=(16,))
    shape = jax.ShapeDtypeStruct((1, options.features), jnp.float32)
    noise = privacy.noise_for(
        options.epsilon, options.delta, rate=options.joins, steps=options.expert_steps
    )

    def expert_right(state, seeds, rows=validation):
        del seeds
        return study.right(study.predict(expert, state.params["student"], rows[0]).logits, rows[1])

    learned = bench.fit(
        "expert", grafted_expert.private_descent(clip=1.0, noise=noise, joins=options.joins),
        {"student": expert}, shape, {"labelled": {"image": train[0], "label": train[1]}},
        steps=options.expert_steps, batch=len(train[1]), rate=1e-2, score=expert_right,
    )  # fmt: skip
    own = learned.params["student"]
    reader = bench.fit(
        "llamdex/encoder", grafted_expert.read_features(features=options.features),
        {"encoder": encoder}, _tokens(_asked(drawn, options)["text"]),
        {"questions": {**_asked(drawn, options), "features": drawn}},
        steps=options.encoder_steps, batch=32, rate=3e-3,
        score=lambda state, seeds: -np.square(
            _read(encoder, state.params, _asked(validation[0], options), options) - validation[0]
        ).mean(axis=(1, 2)),
    )  # fmt: skip
    # Labels of drawn rows are the expert's own: nothing private is read again.
    named = np.asarray(study.predict(expert, own, drawn).logits).argmax(-1)
    size = len(bench.seeds) * len(drawn)
    columns = {key: np.tile(x, (len(bench.seeds), 1)) for key, x in _asked(drawn, options).items()}
    columns |= {"features": np.tile(drawn, (len(bench.seeds), 1)), "label": named.reshape(size)}

    def answers(state, seeds, rows):
        picked = jnp.asarray(seeds)
        of_seeds = {"expert": own, **reader.params}
        given = jax.tree.map(lambda x: x[picked], of_seeds)
        return _answered(
            model, frozen["language_model"], encoder, expert,
            {**given, "decoder": state.params["decoder"]}, _asked(rows[0], options), options,
        )  # fmt: skip

    writer = bench.fit(
        "llamdex/decoder",
        grafted_expert.write_answers(
            width=48, count=options.tokens, classes=ANSWERS,
            expert=study.first(own),
        ),
        {"expert": expert, "language_model": model},
        {"expert": shape, "language_model": _tokens(columns["prompt"])},
        {"questions": study.stream(columns, 32, lambda seed: np.arange(len(drawn)) + seed * len(drawn))},
        steps=options.decoder_steps, batch=32, rate=3e-3, frozen=frozen,
        start=study.carried({}, expert=own),
        score=lambda state, seeds: study.right(answers(state, seeds, validation), validation[1]),
    )  # fmt: skip
    made = [_noised_rows(seed, *train, options) for seed in bench.seeds]
    texts = np.concatenate([_asked(rows, options)["prompt"] for rows, _ in made])
    ends = np.concatenate([np.asarray(ANSWERS)[y] for _, y in made])[:, None]
    lines = np.concatenate([texts, ends], axis=1)
    count = len(made[0][1])

    def told(state, rows):
        prompt = _asked(rows[0], options)["prompt"]
        logits = study.predict(model, state.params["student"], prompt).logits
        return np.asarray(logits)[:, :, -1, list(ANSWERS)]

    tuned = bench.fit(
        "synthetic", methods.next_token(), {"student": model}, _tokens(texts),
        {
            "sequence": study.stream(
                {"tokens": lines[:, :-1], "targets": lines[:, 1:], "mask": _last(lines)},
                32, lambda seed: np.arange(count) + seed * count,
            )
        },
        steps=options.encoder_steps + options.decoder_steps, batch=32, rate=3e-3,
        start=lambda state, seeds: state.replace(
            params={"student": jax.tree.map(
                lambda x: jnp.repeat(x, len(seeds), axis=0), pretrained.params["student"]
            )}
        ),
        score=lambda state, seeds: study.right(told(state, validation), validation[1]),
    )  # fmt: skip
    before = study.right(told(pretrained, test), test[1]).repeat(len(bench.seeds))
    return {
        "llamdex": {"accuracy": study.right(answers(writer, bench.seeds, test), test[1])},
        "synthetic": {"accuracy": study.right(told(tuned, test), test[1])},
        "expert": {"accuracy": expert_right(learned, bench.seeds, test)},
        "model": {"accuracy": before},
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


def _read(encoder, params, asked, options):
    """`[S, N, F]`, the features that are read from the text."""
    hidden = study.predict(encoder, params["encoder"], asked["text"]).features["hidden"]
    readout = params["readout"]
    found = jnp.einsum("snfd,sfd->snf", hidden[:, :, -options.features :], readout["kernel"])
    return np.asarray(found + readout["bias"][:, None])


def _answered(model, params, encoder, expert, of_seeds, asked, options):
    """`[S, N, 2]`: text to features, to the expert's opinion, to tokens, to the model's answer."""
    features = _read(encoder, of_seeds, asked, options)
    decoder = grafted_expert.pseudo_tokens(options.tokens, 48)

    def answer(params, tokens):
        return model.apply({"params": params}, tokens, train=False, rngs={})[0].logits

    def one(own, features):
        said = expert.apply({"params": own["expert"]}, features, train=False, rngs={})[0].logits
        made = decoder.apply({"params": own["decoder"]}, jax.nn.softmax(said), train=False, rngs={})
        pseudo = made[0].features["pseudo"]
        return grafted_expert.grafted_logits(answer, params, asked["prompt"], pseudo, ANSWERS)

    return np.asarray(jax.jit(jax.vmap(one))(of_seeds, features))


def _noised_rows(seed, rows, label, options):
    """(rows, labels) like a table's: class counts, sums and sums of squares with Gaussian noise."""
    rng = np.random.default_rng(seed)
    orders = privacy.ORDERS
    reach = np.sqrt(1 + 2 * rows.shape[1])  # how far one row can move all of them
    grid = np.geomspace(0.2, 50, 400)
    sigma = next(
        s for s in grid
        if privacy.epsilon(privacy.gaussian_rdp(s, orders), orders, options.delta) <= options.epsilon
    )  # fmt: skip
    noise = iter(rng.normal(0, sigma * reach, size=(2, 1 + 2 * rows.shape[1])))
    made = []
    for each in (0, 1):
        own = rows[label == each]
        sums = np.concatenate([[len(own)], own.sum(axis=0), (own**2).sum(axis=0)]) + next(noise)
        mean, square = np.split(sums[1:] / max(sums[0], 1), 2)
        spread = np.sqrt(np.clip(square - mean**2, 1e-3, 1))
        size = options.rows // 2
        made.append(np.clip(mean + spread * rng.normal(size=(size, len(mean))), 0, 1))
    return np.concatenate(made).astype(np.float32), np.repeat([0, 1], len(made[0]))


def _last(lines):
    where = np.zeros((len(lines), lines.shape[1] - 1), bool)
    where[:, -1] = True
    return where


def _tokens(rows):
    return jax.ShapeDtypeStruct((1, rows.shape[1]), jnp.int32)
