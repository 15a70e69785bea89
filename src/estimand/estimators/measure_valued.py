"""Measure-valued (weak) derivatives: d p_theta = c (p+ - p-), a difference of two laws.

    d/dtheta E[f] = E_{x ~ p, x+ ~ p+, x- ~ p-}[c (f(x+) - f(x-))]

(Pflug 1989; Mohamed et al. 2020, section 6). The pairs, and how they are coupled, are in
`weak_derivatives.py`. The surrogate is

    f(x) + sum_k first_order(c_k (f(x_k+) - f(x_k-)), theta_k),

whose value is f at an ordinary draw. c_k may depend on the noise of its pair, which is drawn
again from the same key. Lanes that meet are differentiated one at a time, all others at their
draw.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimand.errors import EstimandError, error
from estimand.estimators.weak_derivatives import PAIRS, UNKNOWN, Pair
from estimand.transforms.distributions import promoting
from estimand.transforms.guards import refuse_derivative
from estimand.transforms.repairs import REPAIRED
from estimand.transforms.strategy import Law, Strategy


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
        x = law.sample(jax.random.fold_in(key, 0))
        ends = [end for pair in self._pairs(key, law, x) for end in (pair.plus, pair.minus)]
        replaced = [jnp.where(mask, end, x) for mask in _lane_masks(law) for end in ends]
        return jax.lax.stop_gradient(jnp.stack([x, *replaced]))

    def _pairs(self, key: Any, law: Law, x: Any) -> list[Pair]:
        key = jax.random.fold_in(key, 1)
        keys = jax.random.split(key, law.site.lanes) if law.site.lanes else key
        return law.map(lambda d, key, x: _pairs_of(d)(key, d, x), keys, x)

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        law = _only_known_parameters(law)
        x = values[0]
        pairs = self._pairs(law.key, law, x)
        masks = _lane_masks(law)
        differences = f[1:].reshape(len(masks), len(pairs), 2, *f.shape[1:])
        surrogate = f[0]
        for mask, lane in zip(masks, differences, strict=True):
            for pair, (plus, minus) in zip(pairs, lane, strict=True):
                theta, c = (_at_lane(p, mask, law) for p in (pair.theta, pair.c))
                c = jax.lax.stop_gradient(c)
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
    """The law, some of whose parameters may have to refuse to be differentiated."""
    cls = law.site.structure.cls
    if cls not in UNKNOWN:
        return law
    names = [name for name, _ in law.site.structure.slots()]
    why = partial(_not_known, law.label, law.site.source, cls.__name__, UNKNOWN[cls])
    leaves = [
        refuse_derivative(leaf, why) if name == UNKNOWN[cls] else leaf
        for name, leaf in zip(names, law.leaves, strict=True)
    ]
    return replace(law, leaves=leaves)


def _not_known(label: str, source: str, distribution: str, parameter: str) -> EstimandError:
    return error(
        f"site {label!r} ({source})",
        f"MeasureValued() does not differentiate a {distribution} in its {parameter}",
        expected=f"a {parameter} that no differentiated argument reaches",
        got=f"a derivative in the {parameter}",
        remedy="use Pathwise() or Score() for this site",
    )
