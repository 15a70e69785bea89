"""Measure-valued (weak) derivatives: d p_theta = c (p+ - p-), a difference of two laws.

    d/dtheta E[f] = E_{x ~ p, x+ ~ p+, x- ~ p-}[c (f(x+) - f(x-))]

(Pflug 1989; Mohamed et al. 2020, section 6 and table 1). The surrogate is

    f(x) + sum_k first_order(c_k (f(x_k+) - f(x_k-)), theta_k),

whose value is f at an ordinary draw. The pairs are coupled, so that their difference has
little variance:

    Bernoulli(p)      f(1) - f(0);   the draw and its complement
    Categorical(p_k)  f(k) - f(x), against p_k; probabilities sum to one, so -f(x) is free
    Normal(mu, s)     mu: c = 1/(s sqrt(2 pi)), x = mu +- s w, w ~ Rayleigh
                      s:  c = 1/s, x+ = mu + s m, x- = mu + s m u, m double-sided Maxwell,
                      u uniform (then m u is standard normal)
    Poisson(r)        f(x + 1) - f(x)
    Exponential(r)    c = 1/r, f(x) - f(x + e), e ~ Exponential(r): x + e ~ Gamma(2, r)
    Gamma(a, r)       r: c = a/r, f(x) - f(x + e), e ~ Exponential(r): x + e ~ Gamma(a + 1, r)

Lanes that meet are differentiated one at a time, all others at their draw.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import EstimandError, error
from estimand.transforms.distributions import promoting
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.repairs import REPAIRED
from estimand.transforms.strategy import Law, Strategy


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


def normal(key: Any, d: Any, x: Any) -> list[Pair]:
    key_w, key_m, key_sign, key_u = jax.random.split(key, 4)
    loc, scale = (jnp.broadcast_to(p, d.batch_shape) for p in (d.loc, d.scale))
    w = jax.random.rayleigh(key_w, 1.0, d.batch_shape, x.dtype)
    m = jax.random.chisquare(key_m, 3.0, shape=d.batch_shape, dtype=x.dtype) ** 0.5
    m = m * jax.random.rademacher(key_sign, d.batch_shape, x.dtype)
    u = jax.random.uniform(key_u, d.batch_shape, x.dtype)
    by_loc = Pair(loc, 1 / (scale * math.sqrt(2 * math.pi)), loc + scale * w, loc - scale * w)
    return [by_loc, Pair(scale, 1 / scale, loc + scale * m, loc + scale * m * u)]


def poisson(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    return [Pair(rate, jnp.ones_like(rate), x + 1, x)]


def exponential(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    e = jax.random.exponential(key, d.batch_shape, x.dtype) / rate
    return [Pair(rate, 1 / rate, x, x + e)]


def gamma(key: Any, d: Any, x: Any) -> list[Pair]:
    rate = jnp.broadcast_to(d.rate, d.batch_shape)
    e = jax.random.exponential(key, d.batch_shape, x.dtype) / rate
    return [Pair(rate, d.concentration / rate, x, x + e)]


PAIRS: dict[type, Callable[[Any, Any, Any], list[Pair]]] = {
    dists.BernoulliProbs: bernoulli,
    dists.BernoulliLogits: bernoulli,
    dists.CategoricalProbs: categorical,
    dists.CategoricalLogits: categorical,
    dists.Normal: normal,
    dists.Poisson: poisson,
    dists.Exponential: exponential,
    dists.Gamma: gamma,
}


def _pairs_of(dist: Any) -> Any:
    """By the distribution's own class, or the one that it repairs; not by any parent."""
    cls = type(dist)
    return PAIRS.get(cls) or PAIRS.get(next((a for a, b in REPAIRED.items() if b is cls), cls))


@dataclass(frozen=True)
class MeasureValued(Strategy):
    """Coupled differences of the rest of the program; first order only.

    Costs two evaluations per parameter and, where lanes meet, per lane.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(p):
        ...     return 10.0 * em.draw(dist.Bernoulli(p), via=em.MeasureValued()).astype(float)
        >>> value, grad = heads.value_and_grad(jax.random.key(0), 0.25)
        >>> float(value) in (0.0, 10.0), float(grad)  # the value of one draw
        (True, 10.0)
    """

    order = 1
    caveat = "no derivative from points of probability zero"

    def refuses(self, dist: Any) -> str | None:
        if _pairs_of(dist):
            return None
        names = ", ".join(sorted({cls.__name__ for cls in PAIRS}))
        return f"no weak derivative of it is known here (known: {names})"

    def count(self, dist: Any, joint: int) -> int:
        def pairs_of(key: Any) -> Any:
            return _pairs_of(dist)(key, dist, dist.sample(key))

        pairs = jax.eval_shape(promoting(pairs_of), jax.random.key(0))
        return 1 + 2 * len(pairs) * max(joint, 1)

    def points(self, key: Any, law: Law) -> Any:
        key_x, key_pair = jax.random.split(key)
        x = law.sample(key_x)
        ends = [end for pair in self._pairs(key_pair, law, x) for end in (pair.plus, pair.minus)]
        replaced = [jnp.where(mask, end, x) for mask in _lane_masks(law) for end in ends]
        return jax.lax.stop_gradient(jnp.stack([x, *replaced]))

    def _pairs(self, key: Any, law: Law, x: Any) -> list[Pair]:
        keys = jax.random.split(key, law.site.lanes) if law.site.lanes else key
        return law.map(lambda d, key, x: _pairs_of(d)(key, d, x), keys, x)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        law = _only_known_parameters(law)
        x = values[0]
        pairs = self._pairs(jax.random.key(0), law, x)  # for theta and c, which need no key
        masks = _lane_masks(law)
        differences = f[1:].reshape(len(masks), len(pairs), 2, *f.shape[1:])
        surrogate = f[0]
        for mask, lane in zip(masks, differences, strict=True):
            for pair, (plus, minus) in zip(pairs, lane, strict=True):
                theta, c = (_at_lane(p, mask, law) for p in (pair.theta, pair.c))
                slope = c.astype(f.dtype) * (plus - minus)
                surrogate = surrogate + law.first_order(self, slope, theta.astype(f.dtype))
        return surrogate


def _lane_masks(law: Law) -> list[np.ndarray]:
    """For every joint lane a mask [*lanes] of where it is; one full mask if none are joint."""
    sizes = [n if i in law.joint else 1 for i, n in enumerate(law.shape)]
    count = int(np.prod(sizes))
    return [np.broadcast_to(row.reshape(sizes), law.shape) for row in np.eye(count, dtype=bool)]


def _at_lane(parameter: Any, mask: np.ndarray, law: Law) -> Any:
    """The parameter [*lanes] at one assignment of the joint lanes: [*batch_shape]."""
    return jnp.sum(jnp.where(mask, parameter, 0), axis=tuple(sorted(law.joint)))


def _only_known_parameters(law: Law) -> Law:
    """Gamma's concentration has no weak derivative here: differentiating it is refused."""
    if law.site.structure.cls is not dists.Gamma:
        return law
    names = [name for name, _ in law.site.structure.slots()]
    why = partial(_no_concentration, law.label, law.site.source)
    leaves = [
        leaf if name == "rate" else refuse_derivative(leaf, why)
        for name, leaf in zip(names, law.leaves, strict=True)
    ]
    return type(law)(**{**law.__dict__, "leaves": leaves})


def _no_concentration(label: str, source: str) -> EstimandError:
    return error(
        f"site {label!r} ({source})",
        "MeasureValued() differentiates a Gamma in its rate only",
        expected="a concentration that no differentiated argument reaches",
        got="a derivative in the concentration",
        remedy="use Pathwise() or Score() for this site",
    )
