r"""Pareto-smoothed importance sampling: how heavy the tail of importance weights is.

Above a high threshold u, weights of almost any law are those of a generalised Pareto one,

    P(w - u > x | w > u) = (1 + k x / sigma)^(-1/k),

whose moments exist up to 1/k: with k > 1/2 the weights have no variance, with k > 1 no mean. Of n
weights the M = min(n/5, 3 sqrt n) largest, rounded down, are the tail, and the next one is u. Its
k and sigma are those of Zhang and Stephens (2009): with theta = -k/sigma and
k(theta) = mean log(1 - theta x_i), the profile likelihood exp(M (log(-theta/k) - k - 1)) weighs
a grid

    theta_j = 1 / max x + (1 - sqrt(m / (j - 1/2))) / (3 x*),     j = 1 .. m = 30 + sqrt M,

x* the first quartile, and theta is the mean over it. Ten further weights with k = 1/2 are added
as a prior: k <- (M k + 5) / (M + 10). The smoothed weights are the quantiles of the fit,
F^-1((z - 1/2) / M) for z = 1 .. M, at most the largest weight (Vehtari, Simpson, Gelman, Yao and
Gabry 2024, section 3). Weights that are equal to u have no excess and are left as they are.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from estimand.errors import error, source_line
from estimand.transforms.guards import is_inexact

FEWEST = 5  # weights that a fit takes


class Smoothed(NamedTuple):
    """What `psis` returns.

    Attributes:
        log_weights: smoothed and normalised, in the order in which they were given.
        pareto_k: the estimate of k. NaN where fewer than five weights are in the tail, and -inf
            where those in it are equal.
    """

    log_weights: Float[Array, " n"]
    pareto_k: Float[Array, ""]


def psis(log_weights: Float[Array, " n"]) -> Smoothed:
    """Pareto-smoothed importance sampling: smoothed weights, and the shape k of their tail.

    With k below 0.7 self-normalised sums over the smoothed weights are reliable, and below 0.5
    those over the raw ones, too, which then have a variance. Above 0.7 neither is, at any number
    of draws that can be had: the proposal has to be a better one.

    (Vehtari, Simpson, Gelman, Yao and Gabry 2024.)

    Args:
        log_weights: logarithms of importance weights, which need not be normalised; -inf for a
            weight of zero.

    Returns:
        `Smoothed(log_weights, pareto_k)`; all NaN where a weight is NaN or infinite, or all are
        zero.

    Raises:
        EstimandError: weights that are not one axis of floating numbers.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp
        >>> z = jax.random.normal(jax.random.key(0), (4000,))
        >>> log_weights = -0.5 * z**2 * (1 / 1.5**2 - 1.0)  # N(0, 1.5^2), proposed by N(0, 1)
        >>> smoothed, k = em.psis(log_weights)
        >>> bool(0.4 < k < 0.7), bool(abs(jnp.sum(jnp.exp(smoothed)) - 1.0) < 1e-5)  # 1 - 1/1.5^2
        (True, True)
    """
    weights = jnp.asarray(log_weights)
    if weights.ndim != 1 or not weights.size or not is_inexact(weights):
        raise error(
            f"em.psis ({source_line()})",
            "it takes the logarithms of one set of weights",
            expected="floating numbers along one axis, one or more",
            got=f"{weights.dtype}{list(weights.shape)}",
            remedy="use jax.vmap(em.psis) for several sets",
        )
    return _psis(weights)


@jax.jit
def _psis(weights: Float[Array, " n"]) -> Smoothed:
    n = weights.size
    length = math.floor(min(n / 5, 3 * math.sqrt(n)))
    largest = jnp.max(weights)
    broken = ~jnp.isfinite(largest)
    order = jnp.argsort(weights)
    ordered = weights[order] - jnp.where(broken, 0.0, largest)
    k = jnp.full((), jnp.nan, weights.dtype)
    if length >= FEWEST:
        tail, k = _smoothed(ordered[-length:], ordered[-length - 1])
        ordered = ordered.at[-length:].set(tail)
    smoothed = jnp.zeros_like(weights).at[order].set(ordered)
    smoothed = smoothed - jax.nn.logsumexp(smoothed)
    return Smoothed(*(jnp.where(broken, jnp.nan, x) for x in (smoothed, k)))


def _smoothed(tail: Float[Array, " m"], cutoff: Float[Array, ""]) -> tuple[Any, Any]:
    """The largest log weights, increasing to zero, after smoothing; and k."""
    excess = jnp.exp(tail) - jnp.exp(cutoff)
    above = excess > 0.0
    count = jnp.sum(above)
    able = count >= FEWEST
    fine = jnp.where(able, excess, jnp.linspace(0.1, 1.0, tail.size, dtype=tail.dtype))
    k, sigma = _fit(fine, jnp.where(able, count, tail.size))
    rank = jnp.arange(tail.size) - (tail.size - count)
    level = (rank.astype(tail.dtype) + 0.5) / count.astype(tail.dtype)
    survival = jnp.log1p(-jnp.where(above, level, 0.0))
    quantile = sigma * jnp.where(k == 0.0, -survival, jnp.expm1(-k * survival) / _nonzero(k))
    fitted = jnp.minimum(jnp.log(jnp.exp(cutoff) + quantile), 0.0)
    equal = excess[-1] < math.sqrt(jnp.finfo(tail.dtype).eps)
    k = jnp.where(equal, -jnp.inf, jnp.where(able, k, jnp.nan))
    return jnp.where(above & jnp.isfinite(k), fitted, tail), k


def _fit(excess: Float[Array, " m"], count: Any) -> tuple[Any, Any]:
    """k and sigma of the `count` positive ones among increasing excesses; the others are zero."""
    size, dtype = excess.size, excess.dtype
    number = count.astype(dtype)

    def shape(theta: Any) -> Any:
        return jnp.sum(jnp.log1p(-theta * excess)) / number

    quartile = excess[size - count + (count + 2) // 4 - 1]
    points = 30 + math.isqrt(size)
    j = jnp.arange(1, points + 1, dtype=dtype) - 0.5
    theta = _nonzero(1.0 / excess[-1] + (1.0 - jnp.sqrt(points / j)) / (3.0 * quartile))
    k = jax.vmap(shape)(theta)
    likelihood = jax.nn.softmax(number * (jnp.log(-theta / k) - k - 1.0))
    theta = _nonzero(jnp.sum(theta * likelihood))
    k = shape(theta)
    return (number * k + 5.0) / (number + 10.0), -k / theta


def _nonzero(x: Any) -> Any:
    return jnp.where(x == 0.0, jnp.finfo(x.dtype).eps, x)
