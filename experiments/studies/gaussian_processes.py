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
    x = np.linspace(0, 1, height, dtype=np.float32)
    whole = np.tile(x, (len(first), 2))
    points = np.concatenate([whole, x[seen]], axis=1)
    tasks = np.repeat([0, 1, 2], [height, height, options.seen])
    third = [np.take_along_axis(columns[:, 2], rows, axis=1) for rows in (seen, unseen)]
    values = np.concatenate([columns[:, :2].reshape(len(first), -1), third[0]], axis=1)
    mean = values.mean(1, keepdims=True)

    def error(transfer, interaction):
        means = _predicted_column(
            jax.random.key(0), points.astype(np.float32), (values - mean).astype(np.float32), x[unseen], tasks,
            options.rate, transfer, interaction, latent=options.latent, steps=options.steps,
        )  # fmt: skip
        return np.sqrt(np.mean((means + mean - third[1]) ** 2))

    return {
        "interaction": {"error": error(1.0, 1.0)},
        "coregionalised": {"error": error(1.0, 0.0)},
        "independent": {"error": error(0.0, 0.0)},
    }


@functools.partial(jax.jit, static_argnames=("latent", "steps"))
def _predicted_column(
    key, points, values, targets, tasks, rate, transfer, interaction, *, latent, steps
):
    """The third task at `targets` of every image, with parameters that all images share."""
    settings = {"transfer": transfer, "interaction": interaction}
    seen = (points, jnp.broadcast_to(tasks, points.shape))
    parameters = gaussian_process.fit(
        key, seen, values, tasks=3, latent=latent, steps=steps, rate=rate, **settings
    )
    third = np.full(targets.shape, 2)
    one = functools.partial(gaussian_process.predict, parameters, **settings)
    return jax.vmap(one)(seen, values, (targets, third))
