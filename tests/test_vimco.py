"""Importance-weighted bounds with discrete latents, against every path (NumPyro's have the wrong
sign), and lanes that meet in other ways.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import special

import estimand as em
from tests.marks import by_default
from tests.messages import check_message
from tests.statistics import assert_unbiased, enough, enough_draws, gradients, scale

THETA = jnp.array([0.3, -0.5, 0.2, 0.7])
LOADINGS, DATUM = np.array([[1.0, -2.0], [0.5, 1.5]]), np.array([0.4, -1.0])
PARTICLES = 3


@em.gen
def guide(t):
    a = em.sample("a", dist.Bernoulli(logits=t[:2])).astype(float)
    em.sample("b", dist.Bernoulli(logits=t[2] + a.sum() * t[3]))


@em.gen
def model():
    a = em.sample("a", dist.Bernoulli(jnp.full(2, 0.4))).astype(float)
    b = em.sample("b", dist.Bernoulli(0.7)).astype(float)
    em.sample("x", dist.Normal(a @ jnp.array(LOADINGS, a.dtype) + b, 1.0))


@em.expectation
def bound(t):
    def log_weight(_):
        q = guide.simulate(t)
        observed = em.merge(q.choices, {"x": jnp.array(DATUM, t.dtype)})
        return model.log_density(observed) - q.log_density

    return jax.nn.logsumexp(jax.vmap(log_weight)(jnp.arange(PARTICLES))) - jnp.log(1.0 * PARTICLES)


def exact(t):
    """Over all paths of all particles, in numpy."""
    paths = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    a, b = paths[:, :2], paths[:, 2]
    logits = np.column_stack([np.broadcast_to(t[:2], a.shape), t[2] + a.sum(1) * t[3]])
    log_q = np.sum(paths * logits - np.logaddexp(0.0, logits), axis=1)
    prior = np.log(np.where(a == 1, 0.4, 0.6)).sum(1) + np.log(np.where(b == 1, 0.7, 0.3))
    residual = DATUM - a @ LOADINGS - b[:, None]
    log_w = prior - 0.5 * np.sum(residual**2 + np.log(2 * np.pi), axis=1) - log_q
    sets = np.array(list(itertools.product(range(8), repeat=PARTICLES)))
    values = special.logsumexp(log_w[sets], axis=1) - np.log(PARTICLES)
    return np.exp(log_q[sets].sum(1)) @ values


def answer(step=1e-5):
    t = np.asarray(THETA, np.float64)
    slopes = [(exact(t + d) - exact(t - d)) / (2 * step) for d in step * np.eye(4)]
    return exact(t), np.array(slopes)


VIAS = (em.Vimco(), em.LeaveOneOut(3), em.DisArm(), em.Rebar(), em.Enumerate(cap=2**9))


@pytest.mark.parametrize("via", by_default({type(v).__name__: v for v in VIAS}, "Vimco", "Rebar"))
def test_a_bound_with_discrete_latents_is_unbiased(via):
    objective = bound.using({"a": via, "b": via})
    assert_unbiased(enough_draws(objective, answer(), 0.05, THETA), answer(), 0.05)


def test_the_others_are_a_better_baseline_than_none():
    variance = {
        via: gradients(bound.using({"a": via, "b": via}), 2**13, THETA).var(axis=0).sum()
        for via in (em.Vimco(), em.Score())
    }
    assert variance[em.Vimco()] < 0.1 * variance[em.Score()]


def test_the_meeting_alone_is_evaluated_again():
    explained = bound.using({"a": em.Vimco(), "b": em.Vimco()}).explain(THETA)
    assert explained.count("4 evaluations") == 2  # the draw, and three replacements


def plate(t, via, n, meet):
    """n lanes in a plate of two, which meet in groups and stay apart over the plate."""

    def group(level):
        x = jax.vmap(lambda _: em.draw(dist.Bernoulli(logits=t[0] + level), via=via))(jnp.arange(n))
        return meet(x.astype(float) * t[1] + level)

    return jax.vmap(group)(jnp.array([0.2, -0.4])).sum()


MEETINGS = {
    "exp of a sum": lambda x: jnp.exp(jnp.sum(x)),
    "apart": lambda x: jnp.sum(jnp.exp(x)),
    "apart and together": lambda x: jnp.sum(x**2) + jax.nn.logsumexp(x),
    "sorted": lambda x: jnp.sort(x)[-1],
    "running": lambda x: jnp.prod(jnp.cumsum(x)),
    "impossible lanes": lambda x: jnp.logaddexp(
        jax.nn.logsumexp(jnp.where(x > 0.5, x, -jnp.inf)), 0.0
    ),
}


RUNS = [(name, n) for name in MEETINGS for n in (1, 3)]
CHOSEN = ("apart and together", 3), ("impossible lanes", 3), ("sorted", 3), ("running", 1)


@pytest.mark.parametrize("name, n", by_default(RUNS, *CHOSEN))
def test_lanes_that_meet_in_any_way(name, n):
    def program(t, via):
        return plate(t, via, n, MEETINGS[name])

    t = jnp.array([0.3, 0.8])
    exact = em.expectation(lambda t: program(t, em.Enumerate())).value_and_grad(
        jax.random.key(0), t
    )
    exact = jax.tree.map(np.asarray, exact)
    objective = em.expectation(lambda t: program(t, em.Vimco()))
    samples = enough_draws(objective, exact, 0.2, t)
    assert np.all(np.isfinite(samples[1]))
    assert_unbiased(samples, exact, 0.2)


def test_a_second_derivative_where_lanes_meet():
    def program(via):
        return em.expectation(lambda t: plate(t, via, 3, MEETINGS["exp of a sum"]))

    def second(via, key, t):
        return jax.hessian(lambda t: program(via).surrogate(key, t))(t)

    t = jnp.array([0.3, 0.8])
    exact = np.asarray(second(em.Enumerate(), KEY, t))
    sampler = jax.jit(jax.vmap(lambda key: second(em.Vimco(), key, t)))
    min_bias = 0.1 * scale(exact)
    assert_unbiased(enough(sampler, exact, min_bias), exact, min_bias)


def test_particles_of_a_loop_are_refused():
    def program(t):
        def step(total, _):
            x = em.draw(dist.Bernoulli(logits=t), via=em.Vimco()).astype(float)
            return total + jnp.exp(x.sum()), None

        return jax.lax.scan(step, jnp.zeros(()), None, length=40)[0]

    check_message("strategies: Vimco in a loop", em.expectation(program).grad, KEY, THETA)


KEY = jax.random.key(0)
