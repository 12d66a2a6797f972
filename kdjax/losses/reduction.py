"""The one place where a loss is reduced: totals and counts, divided last and once."""

import jax.numpy as jnp


def total_and_count(values, where=None):
    """The sum of `values` over what `where` keeps, and how many there are.

    Adding totals and counts over micro-batches, devices and hosts before dividing gives the mean of
    the whole batch; a mean of means does not, once masks differ.

    Args:
        values: `[...]` a loss as the functions of this package return it.
        where: `[...]` boolean of the same shape, or None to keep everything.

    Returns:
        Two scalars in the dtype of `values`.

    >>> total, count = total_and_count(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False]))
    >>> float(total), float(count)
    (3.0, 2.0)
    """
    values = jnp.asarray(values)
    if where is None:
        return jnp.sum(values), jnp.asarray(values.size, values.dtype)
    if jnp.shape(where) != values.shape:
        raise ValueError(f"where {jnp.shape(where)} must have the shape of values {values.shape}")
    return jnp.sum(jnp.where(where, values, 0)), jnp.sum(where, dtype=values.dtype)
