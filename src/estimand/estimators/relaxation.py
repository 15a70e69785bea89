"""A discrete draw as a function of continuous noise, and that noise given the draw.

Bernoulli(p), with u and v uniform: z = logit(p) + logit(u) is positive with probability p, so
x = [z > 0] is a draw. Given x, u is uniform above or below 1 - p, which gives

    z~ =  log(1 + v / ((1 - v) (1 - p)))   for x = 1,
    z~ = -log(1 + v / ((1 - v) p))         for x = 0

(Tucker et al. 2017, appendix C). Categorical(p), with Gumbel noise: z_k = log p_k + g_k is the
largest at k with probability p_k. Given that k is, z~_k is the maximum of all, a standard Gumbel,
and the others are below it:

    z~_k = -log(-log v_k),   z~_i = -log(-log v_i / p_i - log v_k).

Given x drawn by p, z~ has the law of z given x, so z and z~ are equal in law; both are
differentiable in p. `squash` takes them between the values of x: to x itself as the
temperature falls. Probabilities of zero and one have no noise, and no derivative.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dists

from estimand.errors import error, source_line
from estimand.transforms.jaxprs import is_concrete
from estimand.transforms.strategy import Law

BERNOULLI = (dists.BernoulliProbs, dists.BernoulliLogits)
ONE_HOT = (dists.MultinomialProbs, dists.MultinomialLogits)
CATEGORICAL = (dists.CategoricalProbs, dists.CategoricalLogits)
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
    probs = dist.probs.astype(float)
    if isinstance(dist, BERNOULLI):
        return _binary(jnp.broadcast_to(probs, dist.batch_shape), key)
    probs = jnp.broadcast_to(probs, (*dist.batch_shape, probs.shape[-1]))
    x, z, conditional = _gumbel(probs, key)
    return (x if isinstance(dist, ONE_HOT) else jnp.argmax(x, axis=-1)), z, conditional


def _binary(p: Any, key: Any) -> tuple[Any, Any, Any]:
    u, v = _uniform(key, (2, *p.shape), p.dtype)
    x = u > 1 - jax.lax.stop_gradient(p)
    inside = (0 < p) & (p < 1)
    p = jnp.where(inside, p, 0.5)
    odds = v / (1 - v)
    up, down = jnp.log1p(odds / (1 - p)), -jnp.log1p(odds / p)
    z = jnp.log(p) - jnp.log1p(-p) + jnp.log(u) - jnp.log1p(-u)
    sure = jnp.where(x, CERTAIN, -CERTAIN).astype(p.dtype)
    z, conditional = (jnp.where(inside, each, sure) for each in (z, jnp.where(x, up, down)))
    return x.astype(jnp.result_type(int)), z, conditional


def _gumbel(p: Any, key: Any) -> tuple[Any, Any, Any]:
    u, v = _uniform(key, (2, *p.shape), p.dtype)
    possible = p > 0
    p = jnp.where(possible, p, 1.0)
    z = jnp.where(possible, jnp.log(p) - jnp.log(-jnp.log(u)), -CERTAIN)
    x = jax.nn.one_hot(jnp.argmax(z, axis=-1), p.shape[-1], dtype=p.dtype)
    top = -jnp.sum(x * jnp.log(v), axis=-1, keepdims=True)
    others = -jnp.log(-jnp.log(v) / p + top)
    conditional = jnp.where(x == 1, -jnp.log(top), jnp.where(possible, others, -CERTAIN))
    return x.astype(jnp.result_type(int)), z, conditional


def _uniform(key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Inside of the interval: neither zero nor one."""
    tiny = jnp.finfo(dtype).eps / 2
    return jax.random.uniform(key, shape, dtype, tiny, 1 - tiny)


def squash(law: Law, z: Any, temperature: Any) -> Any:
    """z as values between those of the draw."""
    binary = law.static(lambda dist: isinstance(dist, BERNOULLI))
    return jax.nn.sigmoid(z / temperature) if binary else jax.nn.softmax(z / temperature)


def check_temperature(name: str, temperature: Any) -> None:
    if not isinstance(temperature, float | int) or not temperature > 0:
        raise error(
            f"em.{name} ({source_line()})",
            "at a temperature of zero nothing lies in between",
            expected="a positive Python number",
            got=repr(temperature),
            remedy=f"write {name}(temperature=0.5)",
        )
