"""Pathwise: x = g(eps, theta), and the derivative goes through x.

    d/dtheta E_{x ~ p_theta}[f(x)] = E_eps[d/dtheta f(g(eps, theta))]

for f continuous and piecewise differentiable (Kingma and Welling 2014, eq. 4). For a second
derivative f' must be continuous as well: through a kink (relu, abs, a Laplace density) a surrogate
may be differentiated once. Where g has
no closed form (Gamma, Beta, Dirichlet, StudentT) JAX differentiates the sampler implicitly,
dx/dtheta = -(dF/dtheta) / p(x) with F the distribution function (Figurnov et al. 2018, eq. 5), and
may do so again. Truncated distributions invert F, so their bounds may move as well.

A draw that wraps around a circle jumps from one end of its support to the other, so that
its derivative would be right for periodic f only: VonMises has none.
"""

from dataclasses import dataclass
from typing import Any

import numpyro.distributions as dists

from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class Pathwise(Strategy):
    """Differentiate through the sampled value; any order of what is smooth, no extra evaluations.

    Example:
        >>> import estimand as em, jax, numpyro.distributions as dist
        >>> @em.expectation
        ... def mean(loc):
        ...     return em.draw(dist.Normal(loc, 1.0), via=em.Pathwise())
        >>> float(mean.grad(jax.random.key(0), 0.3))
        1.0
    """

    pathwise = True

    def refuses(self, dist: Any) -> str | None:
        if dist.has_rsample:
            return None
        if isinstance(dist, dists.VonMises):
            return (
                "NumPyro has no reparameterised sampler of it, and its draws wrap around the "
                "circle, so that the derivative would be right for periodic functions only"
            )
        return "it has no reparameterised sampler"

    def points(self, key: Any, law: Law) -> Any:
        return law.sample(key)
