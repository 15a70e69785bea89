"""Measure-valued derivatives: every distribution and parameter, against exact answers.

Value and gradient are those of two terms, a smooth f and an indicator, of one lane, or of two
lanes that meet in a product, after an enumerated coin.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import estimand as em
from estimand.estimators import weak_derivatives
from estimand.estimators.weak_derivatives import Pair
from tests.messages import check_message
from tests.statistics import (
    assert_exact,
    assert_unbiased,
    assert_unbiased_to,
    draws,
    enough_draws,
)
from tests.weak_table import ROWS

RESOLVED = 0.3  # of every entry: a constant that is off by so much is caught
MEETING = {"Normal", "Beta", "Poisson", "Gamma"}
LEGS = {f"{name}, lanes that meet": (name, True) for name in ROWS} | {
    f"{name}, one lane": (name, False) for name in ROWS
}


@pytest.mark.parametrize(
    "name, meet",
    [
        pytest.param(name, meet, marks=[pytest.mark.full] * (not meet or name not in MEETING))
        for name, meet in LEGS.values()
    ],
    ids=LEGS,
)
def test_value_and_gradient_in_every_parameter(name, meet):
    row = ROWS[name]
    assert_unbiased_to(row.objective(meet), row.answer(meet), RESOLVED, jnp.array(row.theta))


TWINS = {
    "Binomial in probs": lambda c: -c,
    "Gamma": lambda c: c / np.sqrt(2.0),
    "Exponential": lambda c: 1.3 * c,
}


@pytest.mark.parametrize("name", TWINS)
def test_a_wrong_constant_is_caught(name, monkeypatch):
    """A constant that belongs to another parametrisation, or has the wrong sign."""
    row = ROWS[name]
    cls = type(row.make(row.theta))
    rule = weak_derivatives.RULES[cls]

    def wrong(key, d, x):
        *others, pair = rule(key, d, x)
        return [*others, Pair(pair.theta, TWINS[name](pair.c), *pair[2:])]

    def objective(t):
        return row.draw(t)[1]

    values, slopes = row.answer(meet=False)
    exact, theta = (values[1], slopes[1]), jnp.array(row.theta)
    bound = 0.2 * abs(slopes[1]).min()
    assert_unbiased(enough_draws(em.expectation(objective), exact, bound, theta), exact, bound)
    monkeypatch.setitem(weak_derivatives.RULES, cls, wrong)
    with pytest.raises(AssertionError, match="the mean is"):
        samples = enough_draws(em.expectation(objective), exact, bound, theta)
        assert_unbiased(samples, exact, bound)


@pytest.mark.parametrize("name", ROWS)
def test_a_second_derivative_is_refused(name):
    row = ROWS[name]

    def objective(t):
        return row.terms(em.sample("x", row.make(t), via=em.MeasureValued())).sum()

    with pytest.raises(em.EstimandError, match=r"site 'x' .*order 1 only"):
        jax.eval_shape(
            jax.hessian(lambda t: em.expectation(objective).surrogate(jax.random.key(0), t)),
            jnp.array(row.theta),
        )


def at_the_edge(make, theta, via=em.MeasureValued):
    """sqrt(x t) of a draw x, whose derivative in t is not finite where x = 0."""

    def objective(t):
        return jnp.sum(jnp.sqrt(em.draw(make(t[0]), via=via()).astype(float) * t[1]))

    return draws(em.expectation(objective), 8, jnp.array([theta, 1.0]))


INF = jnp.inf
EDGES = {
    "a certain flip": (lambda p: dist.Bernoulli(probs=p), 1.0, 1.0),
    "certain trials": (lambda p: dist.Binomial(4, probs=p), 1.0, 2.0),
    "certain trials in logits": (
        lambda p: dist.Binomial(4, logits=INF + p, validate_args=False),
        1.0,
        2.0,
    ),
    "one category": (lambda p: dist.Categorical(probs=jnp.stack([0.0 * p, p])), 1.0, 1.0),
}


@pytest.mark.parametrize("make, theta, root", EDGES.values(), ids=EDGES)
def test_no_nan_comes_from_points_of_probability_zero(make, theta, root):
    assert_exact(at_the_edge(make, theta), (root, np.array([0.0, root / 2])))


IMPOSSIBLE = {
    "an impossible flip": lambda p: dist.Bernoulli(probs=p),
    "no trials, or impossible ones": lambda p: dist.Binomial(jnp.array([0, 4]), probs=p),
}


@pytest.mark.parametrize("make", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_happen_has_no_derivative(make):
    def objective(p):
        return em.draw(make(p), via=em.MeasureValued()).astype(float).sum() + p

    assert_exact(draws(em.expectation(objective), 8, jnp.array(0.0)), (0.0, 1.0))


def test_the_rate_of_a_poisson_may_be_zero():
    """The derivative is the right one, f(1) - f(0)."""
    objective = em.expectation(
        lambda r: jnp.exp(em.draw(dist.Poisson(r), via=em.MeasureValued()).astype(float))
    )
    assert_exact(draws(objective, 8, jnp.array(0.0)), (1.0, np.e - 1))


def test_lanes_with_different_numbers_of_trials():
    """Native lanes that meet: E[2^(x + y)] is (1 + p)^5."""

    @em.expectation
    def objective(p):
        x = em.draw(dist.Binomial(jnp.array([0, 2, 3]), probs=p), via=em.MeasureValued())
        return jnp.exp2(x.sum().astype(float))

    exact = 1.3**5, 5 * 1.3**4
    assert_unbiased(enough_draws(objective, exact, 1.0, jnp.array(0.3)), exact, 1.0)


CONCRETE = {
    "Gamma": lambda t: dist.Gamma(2, t),
    "Binomial": lambda t: dist.Binomial(jnp.asarray(t * 0 + 3).astype(int), probs=0.1 * t),
}


@pytest.mark.parametrize("make", CONCRETE.values(), ids=CONCRETE)
def test_integer_parameters(make):
    """Concrete, or traced as the number of trials is here."""

    def objective(t):
        return jnp.sum(jnp.square(em.draw(make(t), via=em.MeasureValued()).astype(float)))

    assert np.isfinite(draws(em.expectation(objective), 8, jnp.array(1.5))).all()


@pytest.mark.parametrize(
    "name, meet", [("Gamma", jnp.exp), ("Gamma", jnp.sin), ("Dirichlet", jnp.sum)]
)
def test_no_lanes_at_all(name, meet):
    row = ROWS[name]

    @em.expectation
    def objective(t):
        xs = jax.vmap(lambda _: em.draw(row.make(t), via=em.MeasureValued()))(jnp.arange(0))
        return meet(jnp.sum(xs.astype(float))) + t[0]

    exact = meet(0.0) + row.theta[0], np.eye(len(row.theta))[0]
    assert_exact(draws(objective, 2, jnp.array(row.theta)), exact)


def test_a_short_scan_is_written_out():
    """Two gamma steps: E[x] = a and E[y] = a E[x]."""

    @em.expectation
    def objective(a):
        def step(x, _):
            y = em.draw(dist.Gamma(a, 1.0 / x), via=em.MeasureValued())
            return y, y

        return jnp.sum(jax.lax.scan(step, 1.0, None, length=2)[1])

    exact = 1.5 + 1.5**2, 1 + 2 * 1.5
    assert_unbiased(enough_draws(objective, exact, 0.5, jnp.array(1.5)), exact, 0.5)


NAN = {
    "Bernoulli": lambda t: dist.Bernoulli(probs=t),
    "Categorical": lambda t: dist.Categorical(probs=jnp.stack([t, t])),
    "Poisson": dist.Poisson,
}


@pytest.mark.parametrize("make", NAN.values(), ids=NAN)
def test_a_parameter_that_is_not_a_number_is_not_hidden(make):
    objective = em.expectation(lambda t: em.draw(make(t), via=em.MeasureValued()).astype(float))
    assert np.isnan(draws(objective, 2, jnp.array(jnp.nan))).all()


def test_the_concentration_of_a_weibull_is_refused_where_it_is_differentiated():
    objective = em.expectation(lambda t: em.draw(dist.Weibull(1.0, t), via=em.MeasureValued()))
    given = jax.random.key(0), jnp.array(1.5)
    check_message("weak derivative of a concentration", jax.eval_shape, objective.grad, *given)
    jax.eval_shape(objective.estimate, *given)


@pytest.mark.parametrize("n, exact", [(1, 2), (40, 41)])
def test_every_lane_costs_one_evaluation_more(n, exact):
    """A normal mean takes two, and all else one: its other end is the draw."""
    strategy = em.MeasureValued()
    assert strategy.count(dist.Exponential(1.0), n) == exact
    assert strategy.count(dist.Beta(1.0, 1.0), n) == 2 * exact - 1
    assert strategy.count(dist.Normal(0.0, 1.0), n) == 3 * exact - 2
