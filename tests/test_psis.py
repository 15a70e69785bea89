"""Pareto-smoothed importance sampling: the shape of a tail, and the smoothed weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import estimand as em
from tests.evaluated import KEY


def pareto_draws(k, n, sets=100):
    return -k * jnp.log(jax.random.uniform(jax.random.key(3), (sets, n), minval=1e-7))


ALL_K = jax.jit(jax.vmap(lambda weights: em.psis(weights).pareto_k))


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.2])
def test_k_of_pareto_draws_is_found(k):
    found = np.asarray(ALL_K(pareto_draws(k, 4000)))
    count = np.floor(3 * 4000**0.5)
    prior = (count * k + 5.0) / (count + 10.0)  # the mean, with what the prior adds
    assert abs(found.mean() - prior) < 5 * found.std() / 10 + 0.01
    assert 0.5 < found.std() / ((1 + k) / count**0.5) < 1.2  # its asymptotic standard error


def test_smoothing():
    weights = pareto_draws(0.8, 400, sets=1)[0]
    smoothed, k = em.psis(weights)
    raw = weights - jax.nn.logsumexp(weights)
    order = np.argsort(weights)
    assert np.allclose(np.sum(np.exp(smoothed)), 1.0, rtol=1e-5)
    assert np.ptp((smoothed - raw)[order[:-60]]) < 1e-5 < np.ptp((smoothed - raw)[order[-60:]])
    assert np.all(np.diff(smoothed[order]) >= -1e-5)
    shuffled = jax.random.permutation(KEY, 400)
    again = em.psis(weights[shuffled] - 500.0)
    assert np.allclose(again.log_weights, smoothed[shuffled], atol=1e-3)
    assert np.allclose(again.pareto_k, k, atol=1e-3)


EPS = float(jnp.finfo(jnp.zeros(()).dtype).eps)
HALF = jnp.arange(100) < 50


@pytest.mark.parametrize(
    "weights, k",
    [
        (jnp.zeros(1), np.nan),
        (jnp.zeros(24), np.nan),
        (jnp.zeros(100), -np.inf),
        (1e-3 * EPS**0.5 * jnp.arange(100.0), -np.inf),
        (jnp.where(HALF, 0.0, -jnp.inf), -np.inf),
        (jnp.where(jnp.arange(100) < 3, 0.0, -jnp.inf), np.nan),
        (jnp.full(100, -jnp.inf), np.nan),
        (jnp.where(HALF, jnp.nan, 0.0), np.nan),
        (jnp.where(HALF, jnp.inf, 0.0), np.nan),
    ],
)
def test_weights_without_a_tail(weights, k):
    smoothed, found = em.psis(weights)
    assert np.array_equal(found, k, equal_nan=True)
    if np.max(weights) < np.inf and np.max(weights) > -np.inf:
        assert np.allclose(smoothed, weights - jax.nn.logsumexp(weights), rtol=1e-5)
    else:
        assert np.all(np.isnan(smoothed))


def test_weights_of_which_most_are_zero_have_the_tail_of_the_others():
    few = jnp.where(jnp.arange(100) < 15, 0.1 * jnp.arange(100.0), -jnp.inf)
    smoothed, k = em.psis(few)
    assert np.isfinite(k) and np.all(np.isneginf(smoothed[15:]))


@pytest.mark.parametrize("n", [30, 500])
@pytest.mark.parametrize("scale", [0.3, 1.7, 4.0])
def test_psis_is_that_of_arviz(n, scale):
    stats = pytest.importorskip("arviz_stats.base").array_stats
    weights = scale * jax.random.normal(KEY, (n,))
    smoothed, k = stats.psislw(-np.asarray(weights, np.float64))
    found = em.psis(weights)
    assert np.allclose(found.pareto_k, k, atol=1e-3)
    assert np.allclose(found.log_weights, smoothed, atol=1e-3)
