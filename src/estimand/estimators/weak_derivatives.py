"""The weak derivatives of common distributions, one function a family.

A weak derivative writes the derivative of a law p in a parameter theta as a multiple of a
difference of two laws (Pflug 1989; Mohamed et al. 2020, section 6 and table 1). Here c may also
be random, and one of the two laws is wherever possible that of the draw x itself, so that a
single further value y, coupled with x, suffices:

    d/dtheta E[f(x)] = E[c (f(y) - f(x))].

**Bernoulli(p).** The derivative is f(1) - f(0), so y = 1 - x and c = 1 - 2x.

**Categorical(p_k).** The derivative of sum_k p_k f(k) in p_k is f(k), so y = k and c = 1. What
f(x) adds is the same for all k, and the p_k sum to one.

**Binomial(n, p).** By the product rule over the trials it is n (f(w + 1) - f(w)) with
w ~ Binomial(n - 1, p). To leave out a trial of x makes it w. That was a success with probability
x / n, and then (w + 1, w) = (x, x - 1), and otherwise (x + 1, x): c is -n or n.

**Poisson(r).** The derivative of e^-r r^k / k! is p(k - 1) - p(k), so y = x + 1 and c = 1.

**Normal(mu, s)**, with phi the standard density and z = (x - mu) / s. In mu it is E[z f] / s, where
z phi(z) is 1 / sqrt(2 pi) times the density of w ~ Rayleigh, minus that of -w. So
c = 1 / (s sqrt(2 pi)), and the difference is f(mu + s w) - f(mu - s w).
In s it is E[(z^2 - 1) f] / s, and a variable m of density z^2 phi(z) is double-sided Maxwell.
With u uniform, u m is standard normal (a coordinate of a point on a sphere of radius abs(m)), so
take u m = z. Given z, the density of m is proportional to m phi(m) beyond z, on the side of z, so
m^2 = z^2 + 2e with e ~ Exponential(1): c = 1 / s and y = mu + s m.

**LogNormal(mu, s).** The same points, exponentiated.

**Gamma(a, r).** In r the derivative of the density p is (a / r - x) p = (a / r) (p - q) with q the
density of Gamma(a + 1, r), to which x + e belongs for e ~ Exponential(r): c = -a / r, y = x + e.
In a, x is a gamma process at time a. Its next step is Gamma(h, r), of density
r^h j^(h - 1) e^(-r j) / Gamma(h), which is h e^(-r j) / j to first order in h. So

    d/da E[f(x)] = int_0^inf E[f(x + j) - f(x)] e^(-r j) / j dj,

which with j ~ Gamma(1/2, r), of density sqrt(r / (pi j)) e^(-r j), is c = sqrt(pi / (r j)) and
y = x + j. E[c^2 (f(y) - f(x))^2] is finite where E[(f(x + j) - f(x))^2] is O(j^b) for a b > 1/2.
A jump inside the support has b = 1, f = log x needs a > 1/2.

**Exponential(r)** is Gamma(1, r). **Weibull(s, k)**: x^k is exponential of rate s^-k, and the
derivative of that in s is -k s^-(k + 1), so c = k / s and y = s ((x / s)^k + e)^(1/k) with
e ~ Exponential(1).

**Dirichlet(a).** x = g / t with g_k ~ Gamma(a_k, 1), and t = sum g ~ Gamma(sum a, 1) is independent
of x. So, given x, draw t, and let g_k jump as above: y = (t x + j e_k) / (t + j) with e_k the
unit vector, c = sqrt(pi / j). **Beta(a, b)** is the first coordinate of Dirichlet((a, b)).

A Bernoulli, categorical or binomial value of probability zero is replaced by the draw, which drops
the one-sided derivative: f may be undefined there. Poisson's at r = 0 is that of r > 0.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dists

from estimand.transforms.distributions import probabilities
from estimand.transforms.repairs import REPAIRED


class Pair(NamedTuple):
    """The derivative c (f(plus) - f(minus)) in one parameter; without a minus, it is the draw."""

    theta: Any
    c: Any
    plus: Any
    minus: Any = None


Rule = Callable[[Any, Any, Any], list[Pair]]  # of a key, a distribution and a draw


def bernoulli(key: Any, d: Any, x: Any) -> list[Pair]:
    probs = probabilities(d)
    possible = (0 < probs) & (probs < 1)
    return [Pair(probs, 1 - 2 * x, jnp.where(possible, 1 - x, x))]


def categorical(key: Any, d: Any, x: Any) -> list[Pair]:
    probs = probabilities(d)
    return [
        Pair(p, jnp.ones_like(p), jnp.where(p > 0, jnp.full_like(x, k), x))
        for k, p in enumerate(jnp.moveaxis(probs, -1, 0))
    ]


def binomial(key: Any, d: Any, x: Any) -> list[Pair]:
    probs, n = probabilities(d), jnp.broadcast_to(d.total_count, d.batch_shape)
    sign = jnp.where(jax.random.uniform(key, d.batch_shape) * n < x, -1, 1)
    possible = (0 < probs) & (probs < 1) & (n > 0)
    return [Pair(probs, 1.0 * sign * n, jnp.where(possible, x + sign, x))]


def poisson(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    return [Pair(rate, jnp.ones_like(rate), x + 1)]


def normal(key: Any, d: Any, x: Any) -> list[Pair]:
    key_w, key_e = jax.random.split(key)
    loc, scale = (jnp.broadcast_to(p, d.batch_shape) for p in (d.loc, d.scale))
    w = jax.random.rayleigh(key_w, 1.0, d.batch_shape, x.dtype)
    e = jax.random.exponential(key_e, d.batch_shape, x.dtype)
    z = (x - loc) / scale
    m = jnp.where(z < 0, -1, 1) * jnp.sqrt(z**2 + 2 * e)
    by_loc = Pair(loc, 1 / (scale * math.sqrt(2 * math.pi)), loc + scale * w, loc - scale * w)
    return [by_loc, Pair(scale, 1 / scale, loc + scale * m)]


def log_normal(key: Any, d: Any, x: Any) -> list[Pair]:
    by_loc, by_scale = normal(key, d.base_dist, jnp.log(x))
    ends = jnp.exp(by_loc.plus), jnp.exp(by_loc.minus)
    return [Pair(*by_loc[:2], *ends), Pair(*by_scale[:2], jnp.exp(by_scale.plus))]


def exponential(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    e = jax.random.exponential(key, d.batch_shape, x.dtype)
    return [Pair(rate, -1 / rate, x + e / rate)]


def weibull(key: Any, d: Any, x: Any) -> list[Pair]:
    scale, k = (jnp.broadcast_to(p, d.batch_shape) for p in (d.scale, d.concentration))
    e = jax.random.exponential(key, d.batch_shape, x.dtype)
    return [Pair(scale, k / scale, scale * ((x / scale) ** k + e) ** (1 / k))]


def gamma(key: Any, d: Any, x: Any) -> list[Pair]:
    key_e, key_j = jax.random.split(key)
    concentration, rate = (jnp.broadcast_to(p, d.batch_shape) for p in (d.concentration, d.rate))
    e = jax.random.exponential(key_e, d.batch_shape, x.dtype)
    j, c = _jump(key_j, d.batch_shape, x.dtype)
    return [
        Pair(rate, -concentration / rate, x + e / rate),
        Pair(concentration, c, x + j / rate),
    ]


def dirichlet(key: Any, d: Any, x: Any) -> list[Pair]:
    key_t, key_j = jax.random.split(key)
    total = jax.lax.stop_gradient(jnp.sum(d.concentration, axis=-1, keepdims=True))
    t = jax.random.gamma(key_t, total, dtype=x.dtype)
    j, c = _jump(key_j, d.batch_shape, x.dtype)
    jump, left = j[..., None] / (t + j[..., None]), x * (t / (t + j[..., None]))
    ends = [left + jump * e for e in jnp.eye(x.shape[-1], dtype=x.dtype)]
    low, high = jnp.finfo(x.dtype).tiny, 1 - jnp.finfo(x.dtype).eps  # NumPyro's own
    thetas = jnp.moveaxis(d.concentration, -1, 0)
    return [Pair(a, c, jnp.clip(y, low, high)) for a, y in zip(thetas, ends, strict=True)]


def beta(key: Any, d: Any, x: Any) -> list[Pair]:
    pairs = dirichlet(key, d._dirichlet, jnp.stack([x, 1 - x], axis=-1))
    return [Pair(theta, c, y[..., 0]) for theta, c, y, _ in pairs]


def _jump(key: Any, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
    """j ~ Gamma(1/2, 1), half the square of a standard normal, and sqrt(pi / j).

    The normal is rounded to zero once in some ten million draws, where c would be infinite.
    """
    z = jnp.maximum(jnp.abs(jax.random.normal(key, shape, dtype)), jnp.finfo(dtype).eps)
    return z**2 / 2, math.sqrt(2 * math.pi) / z


RULES: dict[type, Rule] = {
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
    dists.Dirichlet: dirichlet,
}
MISSING = {dists.Weibull: "concentration"}  # a parameter without a weak derivative here


def rule_of(dist: Any) -> Rule | None:
    """By the distribution's own class, or the one that it repairs; not by any parent."""
    cls = type(dist)
    return RULES.get(cls) or RULES.get(next((a for a, b in REPAIRED.items() if b is cls), cls))
