"""Rounds in which the student's failures steer what the teacher answers next."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.methods import feedback


def competitive_rounds(bench):
    """Difficult images come back distorted, with the teacher's answers, beside some easy ones.

    An image has a stock of distorted copies; what a round adds to a seed's pool are copies of images
    that the row chooses. All rows train equally long. The pools of `kd` and `single` stay as they
    are, those of the others grow equally.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    teacher = networks.multilayer_perceptron(data.classes, widths=options.teacher.widths)
    net = networks.multilayer_perceptron(data.classes, widths=options.widths)
    sizes = {"batch": options.batch, "rate": options.rate}
    taught = images.teach(bench, teacher, data, steps=options.teacher_steps, **sizes)
    found = {"teacher": {"accuracy": taught.accuracy}}

    base = data.parts.train[: options.images]
    stock = _distorted(data.image[base], options.copies)
    own = study.repeated(taught.frozen["teacher"], [0])
    answers = np.asarray(study.predict(teacher, own, stock).logits[0])
    truth = np.repeat(data.label[base], 1 + options.copies)
    columns = {
        "image": stock,
        "label": np.argmax(answers, -1).astype(np.int32),
        "teacher/logits": answers,
    }
    first = np.arange(len(base)) * (1 + options.copies)
    rows = {
        "kd": (methods.kd(weight=1.0), None),
        "single": (methods.supervised(), None),
        "random": (methods.supervised(), (None, False)),
        "difficult": (methods.supervised(), (1.0, False)),
        "shuffled": (methods.supervised(), (0.5, True)),
        "comd": (methods.supervised(), (0.5, False)),
    }
    for name, (method, chosen) in rows.items():
        pools, params = [first for _ in bench.seeds], None
        for number in range(options.rounds):
            state = bench.fit(
                f"{name}/{number}", method, {"student": net}, data.shape,
                {"labelled": study.stream(columns, options.batch, pools.__getitem__)},
                steps=options.round_steps,
                start=None if params is None else study.carried({"student": params}), **sizes,
            )  # fmt: skip
            params = state.params["student"]
            logits = np.asarray(study.predict(net, params, stock).logits)
            if number == 0:
                known = np.argmax(logits[:, first], -1) == truth[first]
            if chosen is not None and number + 1 < options.rounds:
                share, mixed = chosen
                pools = [
                    _grown(seed, number, pool, gaps, options, share, mixed)
                    for seed, (pool, gaps) in enumerate(
                        zip(pools, feedback.score_gaps(logits, answers, truth), strict=True)
                    )
                ]
        wrong = np.argmax(logits[:, first], -1) != truth[first]
        found[name] = {
            "accuracy": data.scored(net)(state, bench.seeds),
            "forgotten": np.sum(known & wrong, axis=1) / known.sum(axis=1),
        }
    return found


def _grown(seed, number, pool, gaps, options, share, mixed):
    """A seed's pool with copies of images of its own: `share` of them difficult, or None for any."""
    rng = np.random.default_rng((seed, number))
    gaps = gaps[pool]
    if mixed:
        gaps = rng.permutation(gaps)
    if share is None:
        parents = rng.choice(len(pool), options.added)
    else:
        parents = feedback.competitive_choice(
            rng, gaps, options.added, threshold=options.threshold, share=share
        )
    kind = 1 + options.copies
    copies = pool[parents] // kind * kind + rng.integers(1, kind, options.added)
    return np.concatenate([pool, copies])


def _distorted(image, copies):
    """`[N · (1 + copies), H, W, C]`: every image, then copies that are turned, scaled and moved."""
    rng = np.random.default_rng(0)
    size = (len(image), copies)
    angle, scale = rng.uniform(-0.4, 0.4, size), rng.uniform(0.8, 1.2, size)
    move = rng.uniform(-1.5, 1.5, (*size, 2))
    middle = (np.array(image.shape[1:3]) - 1) / 2
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[1:3]), indexing="ij"), -1) - middle
    middle = middle[None, None]

    def one(image, angle, scale, move):
        turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        places = jnp.moveaxis(grid @ turn / scale + middle + move[None, None], -1, 0)
        read = jax.scipy.ndimage.map_coordinates
        return read(image[..., 0], places, order=1, mode="nearest")[..., None]

    made = jax.jit(jax.vmap(jax.vmap(one, (None, 0, 0, 0))))(image, angle, scale, move)
    whole = np.concatenate([image[:, None], np.asarray(made)], axis=1)
    return whole.reshape(-1, *image.shape[1:]).astype(np.float32)
