"""Gaussian processes over several tasks, fitted by gradients of their likelihood."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.study import by_seed
from kdjax.methods import gaussian_process


@by_seed
def neighbouring_columns(rng, bench):
    """Errors at the unseen pixels of a digit's column, from a few of its own and two beside it."""
    options, source = bench.options, bench.source
    image = source.columns["image"][rng.choice(len(source), options.images, replace=False), ..., 0]
    height, width = image.shape[1:]
    first = rng.integers(1, width - 3, options.images)
    columns = np.stack([image[i, :, c : c + 3].T for i, c in enumerate(first)]) / 255.0
    order = np.stack([rng.permutation(height) for _ in first])
    seen, unseen = order[:, : options.seen], order[:, options.seen :]
    given, wanted = (np.take_along_axis(columns[:, 2], rows, axis=1) for rows in (seen, unseen))
    x = np.linspace(0, 1, height, dtype=np.float32)
    points = np.concatenate([np.tile(x, (len(first), 2)), x[seen]], axis=1)
    tasks = np.repeat([0, 1, 2], [height, height, options.seen])
    values = np.concatenate([columns[:, 0], columns[:, 1], given], axis=1)
    mean = values.mean(1, keepdims=True)

    def error(transfer, interaction):
        found = _third_column(
            jax.random.key(0), points, tasks, (values - mean).astype(np.float32), x[unseen],
            {"transfer": transfer, "interaction": interaction}, options.rate,
            latent=options.latent, steps=options.steps,
        )  # fmt: skip
        return {"error": np.sqrt(np.mean((found + mean - wanted) ** 2))}

    return {
        "interaction": error(1.0, 1.0),
        "coregionalised": error(1.0, 0.0),
        "independent": error(0.0, 0.0),
    }


@functools.partial(jax.jit, static_argnames=("latent", "steps"))
def _third_column(key, points, tasks, values, targets, kernel, rate, *, latent, steps):
    """The third task at `targets` of every image, with parameters that all images share."""
    seen = (points, jnp.broadcast_to(tasks, points.shape))
    parameters = gaussian_process.fit(
        key, seen, values, tasks=3, latent=latent, steps=steps, rate=rate, **kernel
    )
    predict = functools.partial(gaussian_process.predict, parameters, **kernel)
    return jax.vmap(predict)(seen, values, (targets, np.full(targets.shape, 2)))
