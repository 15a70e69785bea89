"""Gradients chosen at the level of the objective: written in the program, with no strategy of
their own. Stick the landing (Roeder et al. 2017) and doubly reparameterised (Tucker et al. 2019).
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.statistics import assert_unbiased, enough_draws, gradients

PHI = {"mean": jnp.array(0.4), "log_scale": jnp.array(-0.3)}
DATUM, PARTICLES = 1.2, 4


@em.gen
def model():
    z = em.sample("z", dist.Normal(0.0, 1.0))
    em.sample("x", dist.Normal(z, 0.5))


@em.gen
def guide(phi):
    em.sample("z", dist.Normal(phi["mean"], jnp.exp(phi["log_scale"])))


def log_weight(phi, scored_by):
    q = guide.simulate(phi)
    log_p = model.log_density(em.merge(q.choices, {"x": DATUM}))
    return log_p - guide.log_density(q.choices, scored_by)


@em.expectation
def elbo(phi):
    return log_weight(phi, phi)


@em.expectation
def stick_the_landing(phi):
    return log_weight(phi, lax.stop_gradient(phi))


def exact_elbo(phi):
    """E_q[log p(z, x) - log q(z)] of normals."""
    mean, scale = phi["mean"], jnp.exp(phi["log_scale"])
    prior = -0.5 * (mean**2 + scale**2) - 0.5 * jnp.log(2 * jnp.pi)
    error = (DATUM - mean) ** 2 + scale**2
    likelihood = -0.5 * error / 0.25 - 0.5 * jnp.log(2 * jnp.pi * 0.25)
    return prior + likelihood + 0.5 * jnp.log(2 * jnp.pi * jnp.e) + phi["log_scale"]


def test_stick_the_landing_is_unbiased():
    answer = jax.tree.map(np.asarray, jax.value_and_grad(exact_elbo)(PHI))
    for objective in (elbo, stick_the_landing):
        assert_unbiased(enough_draws(objective, answer, 0.1, PHI), answer, 0.1)


def test_stick_the_landing_lands():
    """At the posterior its gradient has no variance, and the other's has."""
    posterior = {"mean": jnp.array(0.8 * DATUM), "log_scale": jnp.log(jnp.sqrt(jnp.array(0.2)))}
    spread = jax.tree.map(np.std, gradients(stick_the_landing, 2**10, posterior))
    assert max(spread.values()) < 1e-4
    assert max(jax.tree.map(np.std, gradients(elbo, 2**10, posterior)).values()) > 0.5


def log_weights(phi, scored_by):
    return jax.vmap(lambda _: log_weight(phi, scored_by))(jnp.arange(PARTICLES))


def log_mean_exp(log_w):
    return jax.nn.logsumexp(log_w) - jnp.log(float(PARTICLES))


@em.expectation
def bound(phi):
    return log_mean_exp(log_weights(phi, phi))


def doubly_reparameterised(power):
    """Of the same value; its derivative in phi is sum_i w_i^2 dlog w_i/dz_i dz_i/dphi."""

    @em.expectation
    def objective(phi):
        log_w = log_weights(phi, lax.stop_gradient(phi))
        fixed = lax.stop_gradient(log_w)
        return log_mean_exp(fixed) + jnp.sum(jax.nn.softmax(fixed) ** power * (log_w - fixed))

    return objective


def differences(objective, n):
    """Gradients less those of the bound, by the same noise: their exact mean is zero."""
    pairs = (gradients(each, n, PHI) for each in (objective, bound))
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), *pairs)


def test_a_doubly_reparameterised_bound_is_unbiased_and_better():
    zero = jax.tree.map(np.zeros_like, PHI)
    assert_unbiased(differences(doubly_reparameterised(2), 2**18), zero, 0.02)
    with pytest.raises(AssertionError, match="the mean is"):  # w in the place of its square
        assert_unbiased(differences(doubly_reparameterised(1), 2**18), zero, 0.02)
    reference, better = (gradients(each, 2**14, PHI) for each in (bound, doubly_reparameterised(2)))
    for name in PHI:
        assert np.var(better[name]) < 0.5 * np.var(reference[name])
