"""Weak derivatives of distributions: d p_theta = c (p+ - p-), as coupled pairs of draws.

Each is a list with a `Pair` for every parameter: given a draw x of p_theta,

    d/dtheta E[f] = E[c (f(plus) - f(minus))],

where the pair is made from x and from further noise, so that the difference has little variance
(Pflug 1989; Mohamed et al. 2020, section 6 and table 1).

    Bernoulli(p)      f(1) - f(0);   the draw and its complement
    Categorical(p_k)  f(k) - f(x), against p_k; probabilities sum to one, so -f(x) is free
    Binomial(n, p)    n (f(y + 1) - f(y)), y ~ Binomial(n - 1, p): x less one of its successes,
                      y = x - b with b ~ Bernoulli(x / n), is such a y
    Poisson(r)        f(x + 1) - f(x)
    Normal(mu, s)     mu: c = 1/(s sqrt(2 pi)), x = mu +- s w, w ~ Rayleigh
                      s:  c = 1/s, x+ = mu + s m, x- = mu + s m u, m double-sided Maxwell,
                      u uniform (then m u is standard normal)
    LogNormal         f(exp x) of a Normal
    Exponential(r)    c = 1/r, f(x) - f(x + e), e ~ Exponential(r): x + e ~ Gamma(2, r)
    Weibull(s, k)     x^k is Exponential(s^-k), in whose rate the derivative is taken
    Gamma(a, r)       r: c = a/r, f(x) - f(x + e), e ~ Exponential(r): x + e ~ Gamma(a + 1, r)
                      a: c = sqrt(pi / (r y)), f(x + y) - f(x), y ~ Gamma(1/2, r)
    Beta(a, b)        x = g / (g + h), g ~ Gamma(a, 1) and h ~ Gamma(b, 1), whose sum t is
                      independent of x: a: c = sqrt(pi / y), f((x t + y) / (t + y)) - f(x),
                      y ~ Gamma(1/2, 1); b: f(x t / (t + y)) - f(x)

Gamma in its concentration: Gamma(a + da, r) is Gamma(a, r) plus an independent Gamma(da, r), which
has as da falls to zero the density da e^{-ry} / y. So

    d/da E[f(x)] = int_0^inf E[f(x + y) - f(x)] e^{-ry} / y dy,

and e^{-ry} / y is sqrt(pi / (r y)) times the density of Gamma(1/2, r). The weight is large where y
is small, and there f(x + y) is f(x), or different with a probability of order y if f jumps: the
variance, of order int y^{-1} y y^{-1/2} dy, is finite. With y ~ Exponential(r) it would not be.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dists


class Pair(NamedTuple):
    """One parameter's weak derivative at a draw: c (f(plus) - f(minus)) (theta - sg theta)."""

    theta: Any
    c: Any
    plus: Any
    minus: Any


def bernoulli(key: Any, d: Any, x: Any) -> list[Pair]:
    one = jnp.ones_like(x)
    probs = jnp.broadcast_to(d.probs, d.batch_shape)
    possible = (0 < probs) & (probs < 1)
    plus, minus = jnp.where(possible, one, x), jnp.where(possible, 0 * one, x)
    return [Pair(probs, jnp.ones_like(probs), plus, minus)]


def categorical(key: Any, d: Any, x: Any) -> list[Pair]:
    probs = jnp.broadcast_to(d.probs, (*d.batch_shape, d.probs.shape[-1]))
    return [
        Pair(p, jnp.ones_like(p), jnp.where(p > 0, jnp.full_like(x, k), x), x)
        for k, p in enumerate(jnp.moveaxis(probs, -1, 0))
    ]


def binomial(key: Any, d: Any, x: Any) -> list[Pair]:
    probs = jnp.broadcast_to(d.probs, d.batch_shape)
    n = jnp.broadcast_to(d.total_count, d.batch_shape).astype(probs.dtype)
    possible = (0 < probs) & (probs < 1) & (n > 0)
    share = x.astype(probs.dtype) / jnp.maximum(n, 1)
    fewer = x - (jax.random.uniform(key, d.batch_shape, probs.dtype) < share).astype(x.dtype)
    plus, minus = jnp.where(possible, fewer + 1, x), jnp.where(possible, fewer, x)
    return [Pair(probs, n, plus, minus)]


def poisson(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    return [Pair(rate, jnp.ones_like(rate), x + 1, x)]


def normal(key: Any, d: Any, x: Any) -> list[Pair]:
    key_w, key_m, key_sign, key_u = jax.random.split(key, 4)
    loc, scale = (jnp.broadcast_to(p, d.batch_shape) for p in (d.loc, d.scale))
    w = jax.random.rayleigh(key_w, 1.0, d.batch_shape, x.dtype)
    m = jax.random.chisquare(key_m, 3.0, shape=d.batch_shape, dtype=x.dtype) ** 0.5
    m = m * jax.random.rademacher(key_sign, d.batch_shape, x.dtype)
    u = jax.random.uniform(key_u, d.batch_shape, x.dtype)
    by_loc = Pair(loc, 1 / (scale * math.sqrt(2 * math.pi)), loc + scale * w, loc - scale * w)
    return [by_loc, Pair(scale, 1 / scale, loc + scale * m, loc + scale * m * u)]


def log_normal(key: Any, d: Any, x: Any) -> list[Pair]:
    pairs = normal(key, d.base_dist, jnp.log(x))
    return [pair._replace(plus=jnp.exp(pair.plus), minus=jnp.exp(pair.minus)) for pair in pairs]


def exponential(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    e = jax.random.exponential(key, d.batch_shape, x.dtype) / rate
    return [Pair(rate, 1 / rate, x, x + e)]


def weibull(key: Any, d: Any, x: Any) -> list[Pair]:
    scale, k = (jnp.broadcast_to(p, d.batch_shape) for p in (d.scale, d.concentration))
    rate = scale**-k
    e = jax.random.exponential(key, d.batch_shape, x.dtype) / rate
    return [Pair(rate, 1 / rate, x, (x**k + e) ** (1 / k))]


def gamma(key: Any, d: Any, x: Any) -> list[Pair]:
    key_e, key_y = jax.random.split(key)
    a, rate = (jnp.broadcast_to(p, d.batch_shape) for p in (d.concentration, d.rate))
    e = jax.random.exponential(key_e, d.batch_shape, x.dtype) / rate
    y, c = _increment(key_y, d.batch_shape, x.dtype)
    return [Pair(rate, a / rate, x, x + e), Pair(a, c, x + y / rate, x)]


def beta(key: Any, d: Any, x: Any) -> list[Pair]:
    key_t, key_a, key_b = jax.random.split(key, 3)
    a, b = (jnp.broadcast_to(p, d.batch_shape) for p in (d.concentration1, d.concentration0))
    t = jax.random.gamma(key_t, a + b, d.batch_shape, x.dtype)
    (y, c), (z, e) = (_increment(k, d.batch_shape, x.dtype) for k in (key_a, key_b))
    return [Pair(a, c, (x * t + y) / (t + y), x), Pair(b, e, x * t / (t + z), x)]


def _increment(key: Any, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """y ~ Gamma(1/2, 1), which is half the square of a normal, and sqrt(pi / y)."""
    y = jax.random.normal(key, shape, dtype) ** 2 / 2
    y = jnp.maximum(y, jnp.finfo(dtype).tiny)
    return y, jnp.sqrt(math.pi / y)


PAIRS: dict[type, Callable[[Any, Any, Any], list[Pair]]] = {
    dists.BernoulliProbs: bernoulli,
    dists.BernoulliLogits: bernoulli,
    dists.CategoricalProbs: categorical,
    dists.CategoricalLogits: categorical,
    dists.BinomialProbs: binomial,
    dists.BinomialLogits: binomial,
    dists.Poisson: poisson,
    dists.Normal: normal,
    dists.LogNormal: log_normal,
    dists.Exponential: exponential,
    dists.Weibull: weibull,
    dists.Gamma: gamma,
    dists.Beta: beta,
}
# parameters in which no weak derivative is known here: differentiating them is refused
UNKNOWN = {dists.Weibull: "concentration"}
