"""NumPyro distributions that are replaced when rebuilt, because a derivative would be wrong.

NumPyro 0.22 writes the Bernoulli and binomial densities in their logits l with clip(l, 0),
whose derivative JAX takes as 1, not 1/2, at the tie l = 0: the score at l = 0, where zero
weights start, is off by 1/2. Here they are written in a softplus that knows its derivative, the
logistic function, at every order; jax.nn.softplus does as well, at three times the cost. The
derivative of a Bernoulli's density in its probability is NaN at zero once it is multiplied with
more than three or so.

Its categorical and multinomial draw from p_k / sum_j p_j but score with log p_k, which differ, in
value or in derivative, wherever the sum is not held at one. Here the probabilities are
normalised, and 0 log 0 of a multinomial has the derivative zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dists
from jax.scipy.special import gammaln, xlogy
from numpyro.distributions.util import validate_sample


@jax.custom_jvp
def _softplus(x: Any) -> Any:
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@_softplus.defjvp
def _softplus_jvp(primals: Any, tangents: Any) -> Any:
    return _softplus(*primals), tangents[0] * jax.lax.logistic(primals[0])


@jax.custom_jvp
def _clamped_log(x: Any) -> Any:
    """log max(x, t) for the smallest normal number t, as one function: a limit, not a kink."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


@_clamped_log.defjvp
def _clamped_log_jvp(primals: Any, tangents: Any) -> Any:
    (x,), tiny = primals, jnp.finfo(primals[0].dtype).tiny
    slope = jnp.where(x > tiny, 1 / jnp.maximum(x, tiny), 0.0)
    return _clamped_log(x), tangents[0] * slope


class _BernoulliLogits(dists.BernoulliLogits):
    def log_prob(self, value: Any) -> Any:
        """log p(1) = -softplus(-l), log p(0) = -softplus(l), and -inf for anything else.

        In one pass, and with no cancellation: -softplus((1 - 2 x) l).
        """
        sign = 1.0 - 2.0 * jnp.asarray(value, self.logits.dtype)
        return jnp.where((value == 0) | (value == 1), -_softplus(sign * self.logits), -jnp.inf)


class _BernoulliProbs(dists.BernoulliProbs):
    def log_prob(self, value: Any) -> Any:
        """log(x p + (1 - x) (1 - p)), clamped as NumPyro clamps it, and -inf for anything else.

        The outcome that is not there has no part in it: at p = 0 its derivative would be zero
        times one that overflows.
        """
        x = jnp.asarray(value, self.probs.dtype)
        chosen = x * self.probs + (1 - x) * (1 - self.probs)
        return jnp.where((value == 0) | (value == 1), _clamped_log(chosen), -jnp.inf)


class _Normalised:
    @classmethod
    def tree_unflatten(cls, aux_data: Any, params: Any) -> Any:
        dist = super().tree_unflatten(aux_data, params)  # type: ignore[misc]
        dist.probs = dist.probs / jnp.sum(dist.probs, axis=-1, keepdims=True)
        return dist


class _CategoricalProbs(_Normalised, dists.CategoricalProbs):
    pass


class _MultinomialProbs(_Normalised, dists.MultinomialProbs):
    @validate_sample  # type: ignore[untyped-decorator]
    def log_prob(self, value: Any) -> Any:
        """log n! + sum_k [x_k log p_k - log x_k!], with no derivative of 0 log 0."""
        x = jnp.asarray(value, self.probs.dtype)
        possible = self.probs > 0
        logs = xlogy(x, jnp.where(possible, self.probs, 1.0))
        logs = jnp.where(possible | (jnp.asarray(value) == 0), logs, -jnp.inf)
        return gammaln(self.total_count + 1.0) + jnp.sum(logs - gammaln(x + 1.0), axis=-1)


class _BinomialLogits(dists.BinomialLogits):
    def log_prob(self, value: Any) -> Any:
        """log C(n, k) - k softplus(-l) - (n - k) softplus(l)."""
        n, k = self.total_count, value
        choose = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
        one, zero = _softplus(-self.logits), _softplus(self.logits)
        ones, zeros = jnp.where(k > 0, k * one, 0.0), jnp.where(k < n, (n - k) * zero, 0.0)
        return jnp.where((0 <= k) & (k <= n), choose - ones - zeros, -jnp.inf)


MASKING = (
    _BernoulliLogits,
    _BernoulliProbs,
    _BinomialLogits,
)  # outside of the support -inf, without validation
REPAIRED: dict[type[dists.Distribution], type[dists.Distribution]] = {
    dists.BernoulliLogits: _BernoulliLogits,
    dists.BernoulliProbs: _BernoulliProbs,
    dists.BinomialLogits: _BinomialLogits,
    dists.CategoricalProbs: _CategoricalProbs,
    dists.MultinomialProbs: _MultinomialProbs,
}
