"""Lanes that meet, each with a baseline made of the others (VIMCO).

An importance-weighted bound is a non-linear function h(v_1, ..., v_n) of n lanes, here of their log
weights: log mean exp v. Let b_i be h with v_i replaced by the mean of the other v_j, which is
the geometric mean of their weights. With rho_i = exp(L_i - sg L_i) of lane i, and rho that of all,

    S = h rho + sum_i sg(b_i) (1 - rho_i),   dS = sum_i (h - b_i) dL_i + dh

(Mnih and Rezende 2016, equations 9 to 11). Given the other lanes b_i is a number, for the lanes are
drawn independently: so the second part has mean zero at every order, for every h, and whatever
number is put in the place of v_i. The compiler finds where the lanes meet (`Strategy.meets`) and
evaluates what follows, and nothing before it, with each lane's part replaced.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from estimand.estimators.score import ratio
from estimand.transforms.strategy import Law, Strategy


@dataclass(frozen=True)
class Vimco(Strategy):
    """Score, each lane against the others where lanes meet; any distribution, any order.

    For lanes of a `vmap` that a program brings together, such as the particles of an importance-
    weighted bound: the outermost of the axes whose lanes meet is that of the particles. Costs n
    more evaluations of what follows their meeting, and none of what comes before it.

    Example:
        >>> import estimand as em, jax, jax.numpy as jnp, numpyro.distributions as dist
        >>> @em.expectation
        ... def bound(logits):
        ...     def log_weight(_):
        ...         x = em.draw(dist.Bernoulli(logits=logits))
        ...         log_joint = jnp.where(x == 1, jnp.log(0.2), jnp.log(0.05))
        ...         return log_joint - jax.nn.log_sigmoid(jnp.where(x == 1, logits, -logits))
        ...     return jax.nn.logsumexp(jax.vmap(log_weight)(jnp.arange(3))) - jnp.log(3.0)
        >>> exact = bound.grad(jax.random.key(0), 0.5)  # by enumeration, of 2^3 points
        >>> vimco = bound.using({"draw 0": em.Vimco()})
        >>> step = jax.jit(lambda key: vimco.grad(key, 0.5, num_samples=1000))
        >>> bool(abs(step(jax.random.key(0)) - exact) < 0.03)
        True
    """

    meets = True

    def points(self, key: Any, law: Law) -> Any:
        return jax.lax.stop_gradient(law.sample(key))

    def combine(self, law: Law, values: Any, f: Any) -> Any:
        log_density = law.log_density(values).astype(f.dtype)
        together = ratio(law.gather(log_density))
        if f.ndim == len(law.batch_shape):
            return f * together  # a term in which the lanes are apart
        particles = min(law.joint)
        inside = tuple(i for i in law.joint if i != particles)
        each = ratio(jnp.sum(log_density, axis=inside))
        at = particles - sum(i < particles for i in inside)
        baselines = jax.lax.stop_gradient(jnp.moveaxis(f[1:], 0, at))
        return f[0] * together + jnp.sum(baselines * (1 - each), axis=at)
