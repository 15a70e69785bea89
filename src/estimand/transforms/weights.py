"""Weights that are given by their logarithms, where some or all may be zero."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from estimand.transforms.primitives import mark


def log_mean_exp(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """log (1/n) sum_i exp(log_weights[i]); -inf, with no derivative, if all of them are -inf."""
    n = log_weights.shape[0]
    if n == 1:
        return log_weights[0]  # and so the program stays linear in it
    mean = jax.nn.logsumexp(or_equal(log_weights)) - jnp.log(jnp.asarray(n, log_weights.dtype))
    return jnp.where(_some_possible(log_weights), mean, -jnp.inf)


def or_equal(log_weights: Float[Array, "*lanes n"]) -> Float[Array, "*lanes n"]:
    """The same weights, or equal ones where all are zero."""
    return jnp.where(_some_possible(log_weights)[..., None], log_weights, 0.0)


def _some_possible(log_weights: Any) -> Bool[Array, "*lanes"]:
    """A weight goes to zero continuously, so nothing jumps where this changes."""
    seen = mark(jax.lax.stop_gradient(log_weights), "continuous")
    return jnp.any(seen > -jnp.inf, axis=-1)
