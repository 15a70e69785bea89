"""Measure-valued (weak) derivatives: the derivative of a law as a difference of two laws.

    d/dtheta E[f] = E[c (f(x+) - f(x-))]

(Pflug 1989; Mohamed et al. 2020, section 6). f may be discontinuous, as for the score. The two
points are drawn together, so that the variance does not grow with the size of f, and is small
where f is smooth. The surrogate is

    f(x) + sum_k first_order(c_k (f(x_k+) - f(x_k-)), theta_k),

whose value is f at an ordinary draw. Which c, x+ and x- belong to which distribution is in
`weak_derivatives.py`. Lanes that meet are differentiated one at a time, all others at their draw,
by the product rule for independent lanes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimand.errors import EstimandError, error
from estimand.estimators.weak_derivatives import MISSING, RULES, Pair, rule_of
from estimand.transforms.distributions import promoting
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class MeasureValued(Strategy):
    """Coupled differences of the rest of the program; first order only.

    Costs one evaluation more per parameter (two for the mean of a Normal or LogNormal) and, where
    lanes meet, per lane. It is for Bernoulli, Binomial, Categorical, Poisson, Normal, LogNormal,
    Exponential, Weibull (in its scale), Gamma, Beta and Dirichlet. In a concentration of at most
    1/2, the variance is infinite where the program takes the logarithm of the draw.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def heads(p):
        ...     return 10.0 * em.draw(dist.Bernoulli(p), via=em.MeasureValued()).astype(float)
        >>> value, grad = heads.value_and_grad(jax.random.key(0), 0.25)
        >>> float(value) in (0.0, 10.0), float(grad)  # the value of one draw
        (True, 10.0)
        >>> @em.expectation
        ... def above_one(a):
        ...     x = em.draw(dist.Gamma(a, 1.0), via=em.MeasureValued())
        ...     return (x > 1.0).astype(float)
        >>> grad = above_one.grad(jax.random.key(0), 1.0, num_samples=10_000)
        >>> bool(abs(grad - 0.4317) < 0.03)
        True
    """

    order = 1
    caveat = "no derivative from points of probability zero"

    def refuses(self, dist: Any) -> str | None:
        if rule_of(dist):
            return None
        names = ", ".join(sorted({cls.__name__ for cls in RULES}))
        return f"no weak derivative of it is known here (known: {names})"

    def count(self, dist: Any, joint: int) -> int:
        def pairs_of(key: Any) -> Any:
            return _rule(dist)(key, dist, dist.sample(key))

        pairs = jax.eval_shape(promoting(pairs_of), jax.random.key(0))
        return 1 + len(_ends(pairs)) * max(joint, 1)

    def points(self, key: Any, law: Law) -> Any:
        x = law.sample(jax.random.split(key)[0])
        ends = _ends(self._pairs(key, law, x))
        event = (1,) * (x.ndim - len(law.shape))
        masks = [mask.reshape(mask.shape + event) for mask in _lane_masks(law)]
        replaced = [jnp.where(mask, end.astype(x.dtype), x) for mask in masks for end in ends]
        return jax.lax.stop_gradient(jnp.stack([x, *replaced]))

    def _pairs(self, key: Any, law: Law, x: Any) -> list[Pair]:
        """The same for `points` and for `combine`, which draw the same noise."""
        key = jax.random.split(key)[1]
        keys = jax.random.split(key, law.site.lanes) if law.site.lanes else key
        return law.map(lambda d, key, x: _rule(d)(key, d, x), keys, x)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        law = _only_known_parameters(law)
        pairs = self._pairs(law.key, law, values[0])
        surrogate, others = f[0], iter(f[1:])
        for mask in _lane_masks(law):
            for pair in pairs:
                plus, minus = next(others), f[0] if pair.minus is None else next(others)
                theta, c = (_at_lane(p, mask, law).astype(f.dtype) for p in (pair.theta, pair.c))
                lost = jnp.where(jnp.isnan(theta), jnp.nan, jnp.zeros_like(theta))  # counts hide it
                slope = c * (plus - minus) + lost
                surrogate = surrogate + lost + law.first_order(self, slope, theta)
        return surrogate


def _rule(dist: Any) -> Any:
    rule = rule_of(dist)
    assert rule is not None  # or it was refused
    return rule


def _ends(pairs: list[Pair]) -> list[Any]:
    """The points other than the draw, in the order in which `combine` takes them."""
    return [end for pair in pairs for end in (pair.plus, pair.minus) if end is not None]


def _lane_masks(law: Law) -> list[np.ndarray]:
    """For every joint lane a mask [*lanes] of where it is; one full mask if none are joint."""
    sizes = [n if i in law.joint else 1 for i, n in enumerate(law.shape)]
    count = int(np.prod(sizes))
    return [np.broadcast_to(row.reshape(sizes), law.shape) for row in np.eye(count, dtype=bool)]


def _at_lane(parameter: Any, mask: np.ndarray, law: Law) -> Any:
    """The parameter [*lanes] at one assignment of the joint lanes: [*batch_shape]."""
    return jnp.sum(jnp.where(mask, parameter, 0), axis=tuple(sorted(law.joint)))


def _only_known_parameters(law: Law) -> Law:
    """The law, whose parameters without a weak derivative refuse to be differentiated."""
    missing = MISSING.get(law.site.structure.cls)
    if missing is None:
        return law
    why = partial(_unknown, law.label, law.site.source, law.site.distribution, missing)
    names = [name for name, _ in law.site.structure.slots()]
    leaves = [
        refuse_derivative(leaf, why) if name == missing else leaf
        for name, leaf in zip(names, law.leaves, strict=True)
    ]
    return type(law)(**{**law.__dict__, "leaves": leaves})


def _unknown(label: str, source: str, distribution: str, parameter: str) -> EstimandError:
    return error(
        f"site {label!r} ({source})",
        f"MeasureValued() does not differentiate a {distribution} in its {parameter}",
        expected=f"a {parameter} that no differentiated argument reaches",
        got=f"a derivative in the {parameter}",
        remedy="use Pathwise() or Score() for this site",
    )
