"""Pathwise: x = g(eps, theta), and the derivative goes through x.

    d/dtheta E_{x ~ p_theta}[f(x)] = E_eps[d/dtheta f(g(eps, theta))]

for f continuous and piecewise differentiable (Kingma and Welling 2014, eq. 4). For a second
derivative f' must be continuous as well: through a kink (relu, abs, a Laplace density) a surrogate
may be differentiated once. Where g has
no closed form (Gamma, Beta, Dirichlet, StudentT) JAX differentiates the sampler implicitly,
dx/dtheta = -(dF/dtheta) / p(x) with F the distribution function (Figurnov et al. 2018, eq. 5).
"""

from dataclasses import dataclass
from typing import Any

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
        return None if dist.has_rsample else "it has no reparameterised sampler"

    def points(self, key: Any, law: Law) -> Any:
        return law.sample(key)
