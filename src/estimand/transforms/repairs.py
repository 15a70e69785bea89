"""NumPyro densities whose derivative JAX gets wrong at a point, replaced when rebuilt.

NumPyro 0.22 writes the Bernoulli and binomial densities in their logits l with clip(l, 0),
whose derivative JAX takes as 1, not 1/2, at the tie l = 0: the score at l = 0, where zero
weights start, is off by 1/2. Through softplus it is right.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dists
from jax.scipy.special import gammaln


class _BernoulliLogits(dists.BernoulliLogits):
    def log_prob(self, value: Any) -> Any:
        """log p(1) = -softplus(-l), log p(0) = -softplus(l)."""
        log_prob = -jax.nn.softplus(jnp.where(value == 1, -self.logits, self.logits))
        return jnp.where((value == 0) | (value == 1), log_prob, -jnp.inf)


class _BinomialLogits(dists.BinomialLogits):
    def log_prob(self, value: Any) -> Any:
        """log C(n, k) - k softplus(-l) - (n - k) softplus(l)."""
        n, k = self.total_count, value
        choose = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
        one, zero = jax.nn.softplus(-self.logits), jax.nn.softplus(self.logits)
        return jnp.where((0 <= k) & (k <= n), choose - k * one - (n - k) * zero, -jnp.inf)


REPAIRED: dict[type[dists.Distribution], type[dists.Distribution]] = {
    dists.BernoulliLogits: _BernoulliLogits,
    dists.BinomialLogits: _BinomialLogits,
}
