"""Programs of x with an auxiliary choice u, proposals of u, and the density of x by quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpy.polynomial.hermite_e import hermegauss

import estimand as em


@em.gen
def normal():
    u = em.sample("u", dist.Normal(0.5, 1.2))
    em.sample("x", dist.Normal(0.6 * u, 1.0))


@em.gen
def normal_proposal(given):
    em.sample("u", dist.Normal(0.4 + 0.3 * given["x"], 1.3))


@em.gen
def gamma():
    u = em.sample("u", dist.Gamma(2.0, 1.5))
    em.sample("x", dist.Normal(0.7 * u, 1.0))


@em.gen
def gamma_proposal(given):
    em.sample("u", dist.Gamma(1.8, 1.2 - 0.2 * jnp.tanh(given["x"])))


@em.gen
def categorical():
    u = em.sample("u", dist.Categorical(jnp.array([0.2, 0.5, 0.3])))
    em.sample("x", dist.Normal(1.5 * u.astype(float), 1.0))


@em.gen
def categorical_proposal(given):
    em.sample("u", dist.Categorical(logits=given["x"] * jnp.array([-0.3, 0.0, 0.3])))


@em.gen
def mixed():
    with em.scope("aux"):
        k = em.sample("k", dist.Bernoulli(0.3))
        u = em.sample("u", dist.Normal(k.astype(float), 0.8))
    em.sample("x", dist.Normal(0.7 * u - k.astype(float), 1.0))


@em.gen
def mixed_proposal(given):
    with em.scope("aux"):
        em.sample("u", dist.Normal(0.3 + 0.2 * given["x"], 1.1))
        em.sample("k", dist.Bernoulli(0.45))


def by_quadrature(grid, weights, mean):
    """log sum_i weights_i N(x; mean_i, 1)."""
    grid, weights = jnp.asarray(mean(grid)), jnp.log(jnp.asarray(weights))
    return lambda x: jax.nn.logsumexp(weights + dist.Normal(grid, 1.0).log_prob(x))


def gamma_points(n=4_000, most=30.0):
    u = (np.arange(n) + 0.5) * most / n
    return u, 1.5**2 * u * np.exp(-1.5 * u) * most / n


NODES, MASSES = hermegauss(40)
MASSES = MASSES / MASSES.sum()
AUXILIARIES = {
    "normal": (
        normal,
        normal_proposal,
        by_quadrature(0.5 + 1.2 * NODES, MASSES, lambda u: 0.6 * u),
    ),
    "gamma": (gamma, gamma_proposal, by_quadrature(*gamma_points(), lambda u: 0.7 * u)),
    "categorical": (
        categorical,
        categorical_proposal,
        by_quadrature(np.arange(3), [0.2, 0.5, 0.3], lambda u: 1.5 * u),
    ),
    "mixed": (
        mixed,
        mixed_proposal,
        by_quadrature(
            np.concatenate([0.7 * 0.8 * NODES, 0.7 * (1 + 0.8 * NODES) - 1]),
            np.concatenate([0.7 * MASSES, 0.3 * MASSES]),
            lambda u: u,
        ),
    ),
}
