"""Models with known evidence and posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em

KEY = jax.random.key(0)
X = 1.0
LOG_Z = -0.25 * X**2 - 0.5 * np.log(4.0 * np.pi)  # log N(X; 0, 2)


@em.gen
def gaussian():
    """p(u | x) = N(x / 2, 1/2)."""
    u = em.sample("u", dist.Normal(0.0, 1.0))
    em.sample("x", dist.Normal(u, 1.0))


@em.gen
def wide(given):
    em.sample("u", dist.Normal(given["x"] / 2.0, 1.0))


@em.gen
def posterior(given):
    em.sample("u", dist.Normal(given["x"] / 2.0, 0.5**0.5))


@em.gen
def narrow(given):
    em.sample("u", dist.Normal(given["x"] / 2.0, 0.1))


@em.gen
def mixture(means):
    k = em.sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
    with em.scope("seen"):
        em.sample("x", dist.Normal(means[k], 1.0))


@em.gen
def walk(n):
    def step(z, _):
        z = em.sample("z", dist.Normal(0.9 * z, 1.0))
        em.sample("x", dist.Normal(z, 0.5))
        return z, None

    lax.scan(step, 0.0, None, length=n)


MEANS = jnp.array([-1.0, 0.0, 3.0])
WEIGHTS = np.log([0.2, 0.3, 0.5]) - 0.5 * (2.0 - np.asarray(MEANS)) ** 2 - 0.5 * np.log(2 * np.pi)
