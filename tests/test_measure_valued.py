"""Weak derivatives of probabilities, which no pathwise derivative gives, and of programs."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.cells import CELLS, THETA
from tests.messages import check_message
from tests.statistics import assert_unbiased, enough_draws

KEY = jax.random.key(0)
THRESHOLDS = {
    "Binomial": 1.5,
    "Poisson": 0.5,
    "Normal": 0.3,
    "LogNormal": 1.2,
    "Exponential": 0.8,
    "Weibull": 0.8,
    "Gamma": 1.3,
    "Beta": 0.45,
}


def above(name):
    """P(x > threshold), an objective whose function jumps, and the exact answer."""
    cell, threshold = CELLS[name], THRESHOLDS[name]

    @em.expectation
    def objective(t):
        x = em.draw(cell.make(t), via=em.MeasureValued())
        return (x.astype(float) > threshold).astype(float)

    def exact(t):
        with jax.numpy_dtype_promotion("standard"):
            mass = jnp.exp(cell.make(t).log_prob(jnp.asarray(cell.points))) * cell.weights
        return jnp.sum(jnp.where(cell.points > threshold, mass, 0.0))

    return objective, jax.tree.map(np.asarray, jax.value_and_grad(exact)(THETA))


@pytest.mark.parametrize("name", THRESHOLDS)
def test_the_derivative_of_a_probability(name):
    objective, answer = above(name)
    assert_unbiased(enough_draws(objective, answer, 0.05, THETA), answer, 0.05)


class HalfTheIncrement(em.MeasureValued):
    """Weights as if the increment of a gamma process were exponential."""

    def _pairs(self, key, law, x):
        return [pair._replace(c=jnp.ones_like(pair.c)) for pair in super()._pairs(key, law, x)]


@pytest.mark.parametrize("name", ["Gamma", "Beta"])
def test_a_wrong_weight_is_caught(name):
    objective, answer = above(name)
    objective = objective.using({"draw 0": HalfTheIncrement()})
    with pytest.raises(AssertionError, match="the mean is"):
        assert_unbiased(enough_draws(objective, answer, 0.05, THETA), answer, 0.05)


def test_lanes_that_meet_after_an_enumerated_choice():
    @em.expectation
    def objective(t):
        k = em.draw(dist.Bernoulli(t[0]), via=em.Enumerate()).astype(float)
        x = em.draw(dist.Gamma(jnp.stack([1 + t[1] + k, 2.0 + 0 * k]), 2.0), via=em.MeasureValued())
        return jnp.prod(x) + k

    def exact(t):  # E[x_1] E[x_2] given k, and k
        return (1 + t[1] + t[0]) / 2 * 1.0 + t[0]

    answer = jax.tree.map(np.asarray, jax.value_and_grad(exact)(THETA))
    assert_unbiased(enough_draws(objective, answer, 0.1, THETA), answer, 0.1)


EDGES = [
    (lambda p: dist.Binomial(3, probs=jnp.stack([0 * p, p, 0 * p + 1])), 3 * 0.4 + 3.0, 3.0),
    (lambda p: dist.Binomial(jnp.array([0, 3]), probs=p), 3 * 0.4, 3.0),
    (lambda p: dist.Bernoulli(jnp.stack([0 * p, p])), 0.4, 1.0),
]


@pytest.mark.parametrize("make, value, slope", EDGES)
def test_probabilities_of_zero_and_one_and_counts_of_none(make, value, slope):
    @em.expectation
    def total(p):
        return jnp.sum(em.draw(make(p), via=em.MeasureValued()).astype(float))

    samples = enough_draws(total, (value, slope), 0.1, 0.4)
    assert_unbiased(samples, (value, slope), 0.1)


def test_a_second_derivative_is_refused():
    @em.expectation
    def mean(t):
        return em.draw(dist.Beta(1 + t[0], 2.0), via=em.MeasureValued()) ** 2

    check_message("MeasureValued: a second derivative", jax.hessian(mean.surrogate, 1), KEY, THETA)
