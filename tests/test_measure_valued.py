"""Measure-valued derivatives: every distribution and parameter, against exact answers.

One table serves all: a distribution, its parameters, and the same law in scipy. Value and
gradient are those of four terms, of a smooth f and of an indicator, each of one lane, and of two
lanes that meet in a product, after an enumerated coin.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import estimand as em
from estimand.estimators import weak_derivatives
from estimand.estimators.weak_derivatives import Pair
from tests.messages import check_message
from tests.oracle import sigmoid, softmax
from tests.statistics import assert_exact, assert_unbiased, draws, enough_draws

STEP = 1e-4
RESOLVED = 0.3  # of every entry: a constant that is off by so much is caught
LANES, COIN, HEADS = (1.0, 1.2), (1.0, 1.3), 0.4  # what the parameters are scaled by


def nodes(law, jump):
    """Quadrature of a scipy law, exact for what is smooth but for a jump.

    A vector of concentrations is Dirichlet's, whose first coordinates are broken off a stick.
    """
    if isinstance(law, np.ndarray):
        (x, w), (y, v) = (
            nodes(stats.beta(law[0], law[1] + law[2]), jump),
            nodes(stats.beta(*law[1:]), 0.5),
        )
        x, y = (a.ravel() for a in np.meshgrid(x, y, indexing="ij"))
        return np.stack([x, (1 - x) * y, (1 - x) * (1 - y)], axis=-1), np.outer(w, v).ravel()
    if hasattr(law, "pmf"):
        x = np.arange(200)
        return x, law.pmf(x)
    tail = 10.0 ** np.arange(-16, -1, 2)
    edges = [*law.ppf(tail), *law.ppf(np.linspace(0.05, 0.95, 10)), *law.isf(tail), jump]
    edges = np.unique([e for e in edges if law.support()[0] < e < law.support()[1]])
    z, w = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (1 + z)
    return x.ravel(), (half * w * law.pdf(x)).ravel()


def first(x):
    """The first coordinate of vectors of three."""
    return x[..., 0] if x.shape[-1:] == (3,) else x


@dataclasses.dataclass(frozen=True)
class Row:
    """A distribution at `theta`, and the scipy law that it is."""

    make: Callable
    theta: tuple
    law: Callable
    jump: float
    smooth: Callable = lambda xp, x: xp.sin(x) + 0.3 * x

    def means(self, t):
        """E[smooth] and P(x > jump)."""
        x, w = nodes(self.law(t), self.jump)
        return np.array([w @ self.smooth(np, x), w @ (first(x) > self.jump)])

    def exact(self, t):
        lanes = [np.prod([self.means(t * c * k) for k in LANES], axis=0) for c in COIN]
        return np.concatenate([self.means(t), (1 - HEADS) * lanes[0] + HEADS * lanes[1]])

    def answer(self):
        """The four values [4], and their gradients [4, parameters]."""
        t = np.array(self.theta)
        steps = STEP * np.eye(len(t))
        slopes = [(self.exact(t + s) - self.exact(t - s)) / (2 * STEP) for s in steps]
        return self.exact(t), np.stack(slopes, axis=-1)

    def terms(self, x):
        x = x.astype(float)
        return jnp.stack([self.smooth(jnp, x), (first(x) > self.jump).astype(float)])

    def objective(self, via):
        @em.expectation
        def objective(t, choice):
            one = self.terms(em.draw(self.make(t), via=via))
            coin = em.draw(dist.Bernoulli(probs=HEADS), via=em.Enumerate())
            t = t * jnp.array(COIN, t.dtype)[coin]
            scales = jnp.array(LANES, t.dtype)
            lanes = jax.vmap(lambda k: self.terms(em.draw(self.make(t * k), via=via)))(scales)
            return jnp.concatenate([one, jnp.prod(lanes, axis=0)]) @ choice

        return objective


@dataclasses.dataclass(frozen=True)
class Relative:
    """All four terms of an objective, each by itself and divided by its exact answer."""

    objective: em.Expectation
    answer: tuple

    def value_and_grad(self, key, t, argnums=0):
        def one(choice, *answer):
            found = self.objective.value_and_grad(key, t, choice)
            return jax.tree.map(jnp.divide, found, answer)

        answer = (jnp.asarray(a, t.dtype) for a in self.answer)
        return jax.vmap(one)(jnp.eye(4, dtype=t.dtype), *answer)


def counts(xp, x):
    return xp.sqrt(1.0 + x)


def coordinates(xp, x):
    return xp.sin(2.0 * x[..., 0]) + x[..., 1] * x[..., 0] + 2.0 * x[..., 2] ** 2


def weighted(t):
    t = np.asarray(t)
    return t / t.sum()


def softened(t):
    return softmax(np.array([t[0], t[1], 0.0]))


def picked(weights):
    return stats.rv_discrete(values=(np.arange(len(weights)), weights))


ROWS = {
    "Bernoulli in probs": Row(
        lambda t: dist.Bernoulli(probs=t[0]), (0.4,), lambda t: stats.bernoulli(t[0]), 0.5
    ),
    "Bernoulli in logits": Row(
        lambda t: dist.Bernoulli(logits=t[0]), (0.4,), lambda t: stats.bernoulli(sigmoid(t[0])), 0.5
    ),
    "Categorical in probs": Row(
        lambda t: dist.Categorical(probs=t), (0.4, 0.5, 0.7), lambda t: picked(weighted(t)), 1.5
    ),
    "Categorical in logits": Row(
        lambda t: dist.Categorical(logits=jnp.append(t, 0.0)),
        (0.4, -0.5),
        lambda t: picked(softened(t)),
        0.5,
    ),
    "Binomial in probs": Row(
        lambda t: dist.Binomial(5, probs=t[0]), (0.4,), lambda t: stats.binom(5, t[0]), 2.5, counts
    ),
    "Binomial in logits": Row(
        lambda t: dist.Binomial(4, logits=t[0]),
        (-0.6,),
        lambda t: stats.binom(4, sigmoid(t[0])),
        1.5,
        counts,
    ),
    "Poisson": Row(
        lambda t: dist.Poisson(t[0]), (1.4,), lambda t: stats.poisson(t[0]), 1.5, counts
    ),
    "Normal": Row(lambda t: dist.Normal(t[0], t[1]), (0.4, 0.8), lambda t: stats.norm(*t), 0.9),
    "LogNormal": Row(
        lambda t: dist.LogNormal(t[0], t[1]),
        (0.4, 0.6),
        lambda t: stats.lognorm(t[1], scale=np.exp(t[0])),
        2.1,
        counts,
    ),
    "Exponential": Row(
        lambda t: dist.Exponential(t[0]), (0.8,), lambda t: stats.expon(scale=1 / t[0]), 0.9
    ),
    "Weibull": Row(
        lambda t: dist.Weibull(t[0], 1.7), (1.2,), lambda t: stats.weibull_min(1.7, scale=t[0]), 0.9
    ),
    "Gamma": Row(
        lambda t: dist.Gamma(t[0], t[1]),
        (1.4, 0.8),
        lambda t: stats.gamma(t[0], scale=1 / t[1]),
        1.1,
    ),
    "Gamma of a small concentration": Row(
        lambda t: dist.Gamma(t[0], 1.5), (0.3,), lambda t: stats.gamma(t[0], scale=1 / 1.5), 0.2
    ),
    "Beta": Row(lambda t: dist.Beta(t[0], t[1]), (0.8, 1.3), lambda t: stats.beta(*t), 0.25),
    "Dirichlet": Row(dist.Dirichlet, (0.8, 1.3, 1.1), np.asarray, 0.3, coordinates),
}
FULL = {"Gamma of a small concentration", "Dirichlet"}


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.full] * (name in FULL)) for name, row in ROWS.items()],
    ids=ROWS,
)
def test_value_and_gradient_in_every_parameter(row):
    objective = Relative(row.objective(em.MeasureValued()), row.answer())
    exact = jax.tree.map(np.ones_like, row.answer())
    found = enough_draws(objective, exact, RESOLVED, jnp.array(row.theta))
    assert_unbiased(found, exact, RESOLVED)


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
        return row.terms(em.draw(row.make(t), via=em.MeasureValued())) @ jnp.array([0.0, 1.0])

    values, slopes = row.answer()
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
    "impossible trials": lambda p: dist.Binomial(3, probs=p),
    "no trials": lambda p: dist.Binomial(0, probs=0.5 + p),
    "no trials, or impossible ones": lambda p: dist.Binomial(jnp.array([0, 4]), probs=p),
}


@pytest.mark.parametrize("make", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_happen_has_no_derivative(make):
    def objective(p):
        return em.draw(make(p), via=em.MeasureValued()).astype(float).sum() + p

    assert_exact(draws(em.expectation(objective), 8, jnp.array(0.0)), (0.0, 1.0))


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
    "Beta": lambda t: dist.Beta(2, t),
    "Normal": lambda t: dist.Normal(1, t),
    "Binomial": lambda t: dist.Binomial(jnp.asarray(t * 0 + 3).astype(int), probs=0.1 * t),
}


@pytest.mark.parametrize("make", CONCRETE.values(), ids=CONCRETE)
def test_integer_parameters(make):
    """Concrete, or traced as the number of trials is here."""

    def objective(t):
        return jnp.sum(jnp.square(em.draw(make(t), via=em.MeasureValued()).astype(float)))

    assert np.isfinite(draws(em.expectation(objective), 8, jnp.array(1.5))).all()


@pytest.mark.parametrize("meet", [jnp.exp, lambda total: total])
@pytest.mark.parametrize("name", ["Gamma", "Dirichlet", "Binomial in probs"])
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
    "Gamma": lambda t: dist.Gamma(t, 1.0),
}


@pytest.mark.parametrize("make", NAN.values(), ids=NAN)
def test_a_parameter_that_is_not_a_number_is_not_hidden(make):
    objective = em.expectation(lambda t: em.draw(make(t), via=em.MeasureValued()).astype(float))
    assert np.isnan(draws(objective, 2, jnp.array(jnp.nan))).all()


def test_the_concentration_of_a_weibull_is_refused_where_it_is_differentiated():
    objective = em.expectation(lambda t: em.draw(dist.Weibull(1.0, t), via=em.MeasureValued()))
    check_message("weak derivative of a concentration", objective.grad, jax.random.key(0), 1.5)
    assert np.isfinite(objective.estimate(jax.random.key(0), 1.5))


@pytest.mark.parametrize("n, exact", [(1, 2), (40, 41)])
def test_every_lane_costs_one_evaluation_more(n, exact):
    """A normal mean takes two, and all else one: its other end is the draw."""
    strategy = em.MeasureValued()
    assert strategy.count(dist.Exponential(1.0), n) == exact
    assert strategy.count(dist.Beta(1.0, 1.0), n) == 2 * exact - 1
    assert strategy.count(dist.Normal(0.0, 1.0), n) == 3 * exact - 2
