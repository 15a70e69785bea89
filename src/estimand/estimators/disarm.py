"""Antithetic pairs of Bernoulli vectors, their common uniform integrated out (DisArm).

With logits phi, s = sigmoid(phi) and u uniform, x = [u > 1 - s] and y = [u < s] are both draws,
as unlike each other as they can be: they agree only where |u - 1/2| < |s - 1/2|. ARM (Yin and
Zhou 2019, theorem 1) is

    dE[f]/dphi = E_u[(f(x) - f(y)) (u - 1/2)],

which still holds the noise of u given (x, y). Its conditional mean given the pair is zero, of
u - 1/2, where x = y, and where they differ

    E[u - 1/2 | x = 1, y = 0] = max(s, 1 - s) / 2 = sigmoid(|phi|) / 2,

because u is then uniform on (max(s, 1 - s), 1), and minus that where x = 0 and y = 1. So

    dE[f]/dphi = E[(f(x) - f(y)) (x - y) sigmoid(|phi|) / 2]

(Dong, Mnih and Tucker 2020, equation 4; Yin et al. 2020), a conditional expectation of ARM
and never of larger variance. In the probability s it is (f(x) - f(y)) (x - y) / (2 min(s, 1 - s)),
as ds/dphi = s (1 - s); where s is 0 or 1 the pair never differs, since u is neither. For a vector,
x and y are the pair of all lanes at once, and every lane's derivative uses the same two values of
f. The value of the surrogate is (f(x) + f(y)) / 2.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dists

from estimand.estimators.relaxation import CAVEAT, uniform
from estimand.transforms.distributions import probabilities
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class DisArm(Strategy):
    """An antithetic pair of draws; Bernoulli, of any number of lanes, first order only.

    Costs two evaluations of what the site reaches, however many lanes meet.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> @em.expectation
        ... def parity(logits):
        ...     x = em.draw(dist.Bernoulli(logits=logits), via=em.DisArm())
        ...     return 1.0 - 2.0 * (jnp.sum(x) % 2).astype(float)
        >>> grad = parity.grad(jax.random.key(0), jnp.zeros(1), num_samples=100)
        >>> round(float(grad[0]), 3)  # with one lane it is exact
        -0.5
    """

    order = 1
    caveat = CAVEAT

    def refuses(self, dist: Any) -> str | None:
        known = isinstance(dist, dists.BernoulliProbs | dists.BernoulliLogits)
        return None if known else "it is made for Bernoulli"

    def count(self, dist: Any, joint: int) -> int:
        return 2

    def points(self, key: Any, law: Law) -> Any:
        probs = _probs(law)
        u = uniform(key, law.shape, probs.dtype)
        pair = jnp.stack([u > 1 - probs, u < probs])
        return pair.astype(jnp.result_type(int))

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        probs = _probs(law).astype(f.dtype)
        apart = jnp.where(values[0] == values[1], 1.0, jnp.minimum(probs, 1 - probs))
        weight = (values[0] - values[1]).astype(f.dtype) / (2 * jax.lax.stop_gradient(apart))
        slope = weight * law.spread(f[0] - f[1])
        return jnp.mean(f, axis=0) + law.gather(law.first_order(self, slope, probs))


def _probs(law: Law) -> Any:
    return law.map(probabilities)
