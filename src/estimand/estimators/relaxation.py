"""A discrete draw as a function of continuous noise, and that noise given the draw.

Bernoulli(p), with u and v uniform: z = logit(p) + logit(u) is positive with probability p, so
x = [z > 0] is a draw. Given x, u is uniform above or below 1 - p, which gives

    z~ =  log(1 + v / ((1 - v) (1 - p))) =  log(1 + e^l (1 + e^phi))    for x = 1,
    z~ = -log(1 + v / ((1 - v) p))       = -log(1 + e^l (1 + e^-phi))   for x = 0

(Tucker et al. 2017, appendix C), with phi = logit(p) and l = logit(v).
Categorical(p), with Gumbel noise: z_k = log p_k + g_k is the largest at k with probability p_k.
Given that k is, z~_k is the maximum of all, a standard Gumbel, and the others are below it:

    z~_k = -log(-log v_k),   z~_i = -log(-log v_i / p_i - log v_k).

No sum is divided by a probability, however small: everything is a function of phi or of log p.
Given x drawn by p, z~ has the law of z given x, so z and z~ are equal in law; both are
differentiable in p. `squash` takes them between the values of x: to x itself as the
temperature falls. Probabilities of zero and one have no noise, and no derivative.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import error, is_number, source_line
from estimand.transforms.distributions import probabilities
from estimand.transforms.jaxprs import is_concrete
from estimand.transforms.strategy import Law

BERNOULLI = (dists.BernoulliProbs, dists.BernoulliLogits)
ONE_HOT = (dists.MultinomialProbs, dists.MultinomialLogits)
CATEGORICAL = (dists.CategoricalProbs, dists.CategoricalLogits)
CAVEAT = "no derivative in probabilities of exactly zero or one"
CERTAIN = 1e4  # what z is, up to its sign, where there is no doubt


class Noise(NamedTuple):
    """A draw, its noise, and the noise given the draw: z of shape [*lanes] or [*lanes, K]."""

    x: Any
    z: Any
    conditional: Any


def refuses(dist: Any, index: bool) -> str | None:
    """Why a distribution has no such noise, or none whose draws have values in between."""
    if isinstance(dist, BERNOULLI):
        return None
    if isinstance(dist, CATEGORICAL):
        return None if index else "between two indices is no value; Multinomial(1, ...) is one-hot"
    if isinstance(dist, ONE_HOT):
        count = dist.total_count
        one = is_concrete(count) and bool(np.all(np.asarray(count) == 1))
        return None if one else "it is not one-hot: its total count is not 1"
    return "it is made for Bernoulli and for one-hot values, which are Multinomial(1, ...)"


def noise(key: Any, law: Law) -> Noise:
    keys = jax.random.split(key, law.site.lanes) if law.site.lanes else key
    return Noise(*law.map(lambda dist, key: _noise(dist, key), keys))


def _noise(dist: Any, key: Any) -> tuple[Any, Any, Any]:
    """In the default floating type: a bfloat16 has too few uniform numbers."""
    if isinstance(dist, BERNOULLI):
        return _binary(dist, key)
    return _gumbel(dist, key)


def _binary(dist: Any, key: Any) -> tuple[Any, Any, Any]:
    p = probabilities(dist).astype(float)
    u, v = uniform(key, (2, *p.shape), p.dtype)
    x = u > 1 - jax.lax.stop_gradient(p)
    inside = _possible(p) & (p < 1)
    if isinstance(dist, dists.BernoulliLogits):
        phi = jnp.where(inside, dist.logits.astype(float), 0.0)
    else:
        p = jnp.where(inside, p, 0.5)
        phi = jnp.log(p) - jnp.log1p(-p)
    logit_v = jnp.log(v) - jnp.log1p(-v)
    larger = jnp.logaddexp(-jnp.log1p(-v), logit_v + jnp.where(x, phi, -phi))  # 1 + e^l = 1/(1-v)
    z = phi + jnp.log(u) - jnp.log1p(-u)
    sure = jnp.where(x, CERTAIN, -CERTAIN).astype(p.dtype)
    given = jnp.where(x, larger, -larger)
    z, conditional = (jnp.where(inside, each, sure) for each in (z, given))
    return x.astype(jnp.result_type(int)), z, conditional


def _gumbel(dist: Any, key: Any) -> tuple[Any, Any, Any]:
    p = probabilities(dist).astype(float)
    u, v = uniform(key, (2, *p.shape), p.dtype)
    possible = _possible(p)
    if isinstance(dist, dists.CategoricalLogits | dists.MultinomialLogits):
        log_p = jnp.where(possible, jax.nn.log_softmax(dist.logits.astype(float)), 0.0)
    else:
        log_p = jnp.log(jnp.where(possible, p, 1.0))
    z = jnp.where(possible, log_p - jnp.log(-jnp.log(u)), -CERTAIN)
    x = jax.nn.one_hot(jnp.argmax(z, axis=-1), p.shape[-1], dtype=p.dtype)
    top = -jnp.sum(x * jnp.log(v), axis=-1, keepdims=True)
    others = log_p - jnp.log(-jnp.log(v) + jnp.exp(log_p) * top)
    conditional = jnp.where(x == 1, -jnp.log(top), jnp.where(possible, others, -CERTAIN))
    one_hot = x.astype(jnp.result_type(int))
    return (one_hot if isinstance(dist, ONE_HOT) else jnp.argmax(x, axis=-1)), z, conditional


def _possible(p: Any) -> Any:
    """Not zero, and not so small that its reciprocal overflows."""
    return p >= jnp.finfo(p.dtype).tiny


def uniform(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Inside of the interval: neither zero, which JAX's own may be, nor one."""
    tiny = jnp.finfo(dtype).eps / 2
    return jax.random.uniform(key, shape, dtype, tiny, 1 - tiny)


def squash(law: Law, z: Any, temperature: Any) -> Any:
    """z as values between those of the draw."""
    binary = law.static(lambda dist: isinstance(dist, BERNOULLI))
    return jax.nn.sigmoid(z / temperature) if binary else jax.nn.softmax(z / temperature)


def check_temperature(name: str, temperature: Any) -> None:
    if not is_number(temperature) or temperature <= 0:
        raise error(
            f"em.{name} ({source_line()})",
            "the temperature says how far between the values of the site the others lie",
            expected="a positive, finite Python number",
            got=repr(temperature),
            remedy="write temperature=0.5",
        )
