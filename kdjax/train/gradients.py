"""Operations that change a gradient and not a value."""

import jax
import jax.numpy as jnp


def reverse_gradient(x, scale=1.0):
    r"""x itself, whose gradient is turned round and scaled: the layer of adversarial adaptation.

    .. math:: R(x) = x, \qquad \frac{\partial R}{\partial x} = -\lambda I

    What lies before it climbs the loss that what lies behind it descends, in one backward pass.

    Args:
        x: a tree of floating-point arrays.
        scale: λ, a number; traced where it is scheduled by the step. It gets no gradient.

    Returns:
        `x`, bit for bit.

    >>> gradient = jax.grad(lambda x: jnp.sum(2.0 * reverse_gradient(x, 0.5)))
    >>> gradient(jnp.array([3.0, 4.0]))
    Array([-1., -1.], dtype=float32)

    Reference:
        Ganin, Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", 2015, who raised λ
        from 0 to 1 as 2 / (1 + exp(-10 p)) - 1 over the share p of training.
    """
    return _reversed(x, jnp.asarray(scale, jnp.result_type(float)))


@jax.custom_vjp
def _reversed(x, scale):
    del scale  # only the backward pass reads it
    return x


def _forward(x, scale):
    return x, scale


def _backward(scale, gradient):
    turned = jax.tree.map(lambda g: (-scale * g).astype(g.dtype), gradient)
    return turned, jnp.zeros_like(scale)


_reversed.defvjp(_forward, _backward)
