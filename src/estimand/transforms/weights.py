"""Weights that are given by their logarithms, where some or all may be zero."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from estimand.transforms.primitives import mark


def log_mean_exp(x: Float[Array, " n"]) -> Float[Array, ""]:
    """log (1/n) sum_i exp x_i; where every x_i is -inf, -inf with derivative zero.

    It is m + log1p((1/n) sum_i expm1(x_i - m)) for every number m. With m what logsumexp says,
    the error is of the size of x - m, so that a small multiple of x may be divided by its factor.
    """
    if x.shape == (1,):
        return x[0]  # so that what is linear in it stays linear
    rough = jax.lax.stop_gradient(jax.nn.logsumexp(x) - math.log(x.size))
    finite = jnp.isfinite(rough)
    centred = jnp.where(finite, x - jnp.where(finite, rough, 0.0), 0.0)
    return jnp.where(finite, rough + jnp.log1p(jnp.mean(jnp.expm1(centred))), rough)


def log_sum_exp(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """log sum exp along an axis; -inf, with derivative zero, where all of it is -inf."""
    rows = jnp.moveaxis(x, axis, -1)
    sums = jax.nn.logsumexp(or_equal(rows), axis=-1)
    return jnp.where(_some_possible(rows), sums, -jnp.inf)


def or_equal(log_weights: Float[Array, "*lanes n"]) -> Float[Array, "*lanes n"]:
    """The same weights, or equal ones where all are zero."""
    return jnp.where(_some_possible(log_weights)[..., None], log_weights, 0.0)


def _some_possible(log_weights: Any) -> Bool[Array, "*lanes"]:
    """A weight goes to zero continuously, so nothing jumps where this changes."""
    seen = mark(jax.lax.stop_gradient(log_weights), "continuous")
    return jnp.any(seen > -jnp.inf, axis=-1)


def log_probability(p: Any) -> Any:
    """log p, with no derivative where p is zero."""
    possible = mark(jax.lax.stop_gradient(p), "continuous") > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, p, 1.0)), -jnp.inf)
