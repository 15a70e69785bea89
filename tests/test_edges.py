"""Strategies at the edges: probabilities of zero and one, or nearly so, and empty lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from tests.marks import by_default
from tests.statistics import assert_unbiased, elsewhere, enough_draws, keys

UNOPTIMIZED = {"xla_backend_optimization_level": 0}
KEY = jax.random.key(0)


def flips(p):
    return dist.Bernoulli(jnp.stack([0 * p, p, 0 * p + 1]))


def one_hot(p):
    return dist.Multinomial(1, jnp.stack([0 * p, p, 1 - p]))


ANY = (em.LeaveOneOut(2), em.Vimco(), em.Score(em.MovingAverage()), em.Score(em.LearnedBaseline()))
NONE = (em.DisArm(), em.Rebar(), em.Relax(), *ANY)
EDGES = [*((via, flips) for via in NONE), *((via, one_hot) for via in (em.Rebar(), em.Relax()))]


@pytest.mark.parametrize("via, make", EDGES)
def test_probabilities_of_zero_and_one(via, make):
    """They stay what they are, have no derivative, and leave the others' alone."""

    @em.expectation
    def objective(p):
        x = em.draw(make(p), via=via).astype(float)
        return x @ jnp.array([100.0, 1.0, 2.0], x.dtype) + jnp.prod(x[1:])

    state = objective.init(KEY, 0.3)

    def sample(key):
        return objective.value_and_grad(key, 0.3, state=state)[0]

    sampler = jax.jit(jax.vmap(sample), compiler_options=UNOPTIMIZED)
    values, slopes = sampler(jax.random.split(KEY, 2**14))
    exact = (0.3 + 1.4, -1.0) if make is one_hot else (2.6, 2.0)
    assert np.all(np.isfinite(slopes))
    assert_unbiased((values, slopes), exact, 0.2)


def test_a_support_of_one_element():
    @em.expectation
    def certain(t):
        return t * em.draw(dist.Categorical(logits=t[None]), via=em.Relax()).astype(float) + t

    state = certain.init(KEY, 0.7)
    (value, slope), _ = jax.jit(certain.value_and_grad)(KEY, 0.7, state=state)
    np.testing.assert_allclose((value, slope), (0.7, 1.0), rtol=1e-6)


def test_empty_lanes():
    def objective(via):
        def program(t):
            x = em.draw(dist.Bernoulli(logits=jnp.zeros(0) + t), via=via).astype(float)
            return t + jnp.exp(jnp.sum(x))

        return em.expectation(program)

    for via in NONE:
        state = objective(via).init(KEY, 0.5)
        (value, slope), _ = jax.jit(objective(via).value_and_grad)(KEY, 0.5, state=state)
        np.testing.assert_allclose((value, slope), (1.5, 1.0), rtol=1e-6)


def test_the_derivative_of_a_density_at_zero_and_one_is_finite():
    """NumPyro's is zero, but overflows once it is multiplied with a loss."""

    @em.expectation
    def objective(t):
        probs = jnp.stack([0 * t, 1 + 0 * t, jax.nn.sigmoid(t)])
        x = em.draw(dist.Bernoulli(probs), via=em.Score()).astype(float)
        return t * (x @ jnp.array([10.0, 2.0, 3.0], x.dtype)) ** 2

    exact = objective.using({"draw 0": em.Enumerate()}).value_and_grad(KEY, 0.4)
    exact = jax.tree.map(np.asarray, exact)
    assert_unbiased(enough_draws(objective, exact, 1.0, 0.4), exact, 1.0)


def test_a_uniform_number_of_zero_is_not_drawn(monkeypatch):
    """JAX's own is zero once in 2^23: then an impossible pair differed, with an infinite weight."""
    monkeypatch.setattr(jax.random, "uniform", smallest)

    @em.expectation
    def objective(p):
        x = em.draw(dist.Bernoulli(p), via=em.DisArm()).astype(float)
        return jnp.sum(jnp.where(x == 1, 2.0, 5.0).astype(p.dtype) * p)

    value, slope = objective.value_and_grad(KEY, jnp.array([1.0, 1e-9, 0.0], jnp.float32))
    np.testing.assert_allclose(value, 2.0, rtol=1e-5)
    np.testing.assert_allclose(slope, [2.0, 5.0, 5.0], rtol=1e-5)


def smallest(key, shape=(), dtype=float, minval=0.0, maxval=1.0):
    return jnp.full(shape, minval, dtype)


SMALL = {
    "flips": lambda t: dist.Bernoulli(logits=t),
    "flips by probabilities": lambda t: dist.Bernoulli(jnp.exp(t)),
    "one-hot": lambda t: dist.Multinomial(1, logits=t),
    "one-hot by probabilities": lambda t: dist.Multinomial(1, jax.nn.softmax(t)),
}


RUNS = {
    (name, type(via).__name__): (name, via) for name in SMALL for via in (em.Rebar(), em.Relax())
}


@pytest.mark.parametrize("name, via", by_default(RUNS, ("flips", "Rebar"), ("one-hot", "Relax")))
def test_derivatives_are_finite_however_small_a_probability(name, via):
    @em.expectation
    def objective(t):
        return em.draw(SMALL[name](t), via=via).astype(float) @ jnp.arange(5.0).astype(t.dtype)

    t = jnp.array([-0.5, -46.0, -60.0, -87.0, -200.0])
    state = jax.tree.map(elsewhere, objective.init(KEY, t))

    def derivatives(key):
        surrogate = lambda t: objective.surrogate(key, t, state=state)  # noqa: E731
        second = jax.hessian if "by" not in name else jax.grad  # 1/p^2 overflows
        step = objective.value_and_grad(key, t, state=state)
        return jax.tree.leaves((step, second(surrogate)(t)))

    found = jax.jit(jax.vmap(derivatives), compiler_options=UNOPTIMIZED)(keys(64))
    assert all(np.all(np.isfinite(x)) for x in found)
