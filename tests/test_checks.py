"""What would be biased, or mean something else than was written, stops while it is traced, and
says where and why.

A row is an objective and pieces of its error; a row of `FINE` is the same kind of program for
which no error is due.
"""

import re

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import estimand as em

THETA = jnp.array([0.3, 0.6])
HERE = r"\(test_checks\.py:\d+\)"
ROWS, FINE = {}, {}


def trace(objective):
    """Build value and gradient, without running them."""
    return jax.eval_shape(em.expectation(objective).value_and_grad, jax.random.key(0), THETA)


def refused(*pieces):
    def enter(objective):
        ROWS[objective.__name__] = objective, pieces
        return objective

    return enter


def fine(objective):
    FINE[objective.__name__] = objective
    return objective


@pytest.mark.parametrize("objective, pieces", ROWS.values(), ids=ROWS)
def test_it_is_refused_and_says_where(objective, pieces):
    with pytest.raises(em.EstimandError) as refusal:
        trace(objective)
    for piece in pieces:
        assert re.search(piece, str(refusal.value)), f"no {piece!r} in: {refusal.value}"


@pytest.mark.parametrize("objective", FINE.values(), ids=FINE)
def test_it_is_fine(objective):
    trace(objective)


def site(make, via, name="x"):
    """An objective with one site: the square of its value."""

    def objective(t):
        return (em.sample(name, make(t), via=via).astype(float) ** 2).sum()

    return objective


# Supports that the parameters move.

MOVING = {
    "Uniform": lambda t: dist.Uniform(0.0, t[0]),
    "LogUniform": lambda t: dist.LogUniform(t[0], 2.0),
    "Pareto": lambda t: dist.Pareto(t[0], 2.0),
    "truncated normal": lambda t: dist.TruncatedNormal(0.0, 1.0, low=t[0]),
    "transformed by a scale": lambda t: dist.TransformedDistribution(
        dist.Uniform(0.0, 1.0),
        dist.transforms.AffineTransform(0.0, t[0], domain=dist.constraints.unit_interval),
    ),
}
STANDING = {
    "Uniform": lambda t: dist.Uniform(0.0, 1.0),
    "Bernoulli": lambda t: dist.Bernoulli(probs=t[0]),
    "Categorical": lambda t: dist.Categorical(logits=t),
    "Binomial": lambda t: dist.Binomial(4, probs=t[0]),
    "Multinomial": lambda t: dist.Multinomial(4, logits=t),
    "DiscreteUniform": lambda t: dist.DiscreteUniform(0, 3),
    "truncated normal with fixed ends": lambda t: dist.TruncatedNormal(
        t[0], t[1], low=-1.0, high=1.0
    ),
    "Gamma": lambda t: dist.Gamma(t[0], t[1]),
    "Dirichlet": lambda t: dist.Dirichlet(t),
}


@pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
def test_a_score_where_a_parameter_bounds_the_support_is_refused(make):
    with pytest.raises(em.EstimandError, match=rf"'(objective/)?x' {HERE}(.|\n)*support"):
        trace(site(make, em.Score()))


@pytest.mark.parametrize("make", STANDING.values(), ids=STANDING)
def test_a_score_where_nothing_moves_the_support_is_fine(make):
    trace(site(make, em.Score()))


@refused("'(objective/)?y'", HERE, "support", "Uniform")
def support_bounded_by_a_pathwise_value(t):
    x = em.sample("x", dist.LogNormal(t[0], 1.0), via=em.Pathwise())
    return em.sample("y", dist.Uniform(0.0, x), via=em.Score())


@fine
def support_bounded_by_a_scored_value(t):
    x = em.sample("x", dist.LogNormal(t[0], 1.0), via=em.Score())
    return em.sample("y", dist.Uniform(0.0, x), via=em.Score())


@fine
def pathwise_value_with_a_moving_support(t):
    return em.sample("y", dist.Uniform(0.0, t[0]), via=em.Pathwise()) ** 2


# Guides and models that disagree.


@em.gen
def model():
    a = em.sample("a", dist.Gamma(2.0, 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(a, 1.0).expand([3]))
    em.sample("data", dist.Poisson(a).expand([5]))


def elbo(guide, observed):
    def objective(t):
        q = em.gen(guide).simulate(t)
        return model.log_density(em.merge(q.choices, observed)) - q.log_density

    return objective


def right_guide(t):
    em.sample("a", dist.LogNormal(t[0], 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(t[1], 1.0).expand([3]))


def wrong_guide(t):
    em.sample("a", dist.Normal(t[0], 1.0))
    em.sample("b", dist.Normal(t[1], 1.0).expand([2]))
    em.sample("c", dist.Bernoulli(0.5))


def short_guide(t):
    em.sample("a", dist.LogNormal(t[0], 1.0))
    with em.scope("plate"):
        em.sample("b", dist.Normal(t[1], 1.0).expand([2]))


COUNTS = jnp.array([1, 0, 2, 1, 1])
FINE["guide and model that agree"] = elbo(right_guide, {"data": COUNTS})
ROWS["a guide of other addresses"] = (
    elbo(wrong_guide, {"data": COUNTS}),
    ("model", "'plate/b'", "'b'", "'c'"),
)
ROWS["a guide of another shape"] = (
    elbo(short_guide, {"data": COUNTS}),
    (r"'plate/b'", r"\[3\]", r"\[2\]"),
)
ROWS["an observation of another shape"] = (
    elbo(right_guide, {"data": COUNTS[:1]}),
    ("'data'", r"\[5\]", r"\[1\]"),
)
ROWS["an observation of another dtype"] = (
    elbo(right_guide, {"data": COUNTS.astype(float) + 0.5}),
    ("'data'", "int", "float"),
)
ROWS["an observation of a latent"] = (
    elbo(right_guide, {"data": COUNTS, "a": 1.0}),
    ("merge", "'a'", "twice"),
)
ROWS["a missing observation"] = elbo(right_guide, {}), ("'data'", "missing")


@refused("'model/a'", HERE, "support", "Real", "Positive", "'wide/a'")
def a_guide_of_a_wider_support(t):
    def wide(t):
        em.sample("a", dist.Normal(t[0], 1.0))
        with em.scope("plate"):
            em.sample("b", dist.Normal(t[1], 1.0).expand([3]))

    return elbo(wide, {"data": COUNTS})(t)


# Strategies that a distribution cannot carry.

NOT_CARRIED = {
    "Pathwise for flips": (
        lambda t: dist.Bernoulli(probs=t[0]),
        em.Pathwise(),
        ("Score", "Enumerate", "MeasureValued"),
    ),
    "Pathwise for counts": (
        lambda t: dist.Poisson(t[0]),
        em.Pathwise(),
        ("Score", "MeasureValued"),
    ),
    "Enumerate for counts": (
        lambda t: dist.Poisson(t[0]),
        em.Enumerate(),
        ("Score", "MeasureValued"),
    ),
    "Enumerate for normals": (
        lambda t: dist.Normal(t[0], 1.0),
        em.Enumerate(),
        ("Pathwise", "Score", "MeasureValued"),
    ),
    "MeasureValued for betas": (
        lambda t: dist.Beta(t[0], t[1]),
        em.MeasureValued(),
        ("Pathwise", "Score"),
    ),
    "Pathwise for von Mises": (lambda t: dist.VonMises(t[0], t[1]), em.Pathwise(), ("Score",)),
    "Enumerate over a traced bound": (
        lambda t: dist.Binomial(t[0].astype(int) + 3, probs=t[0]),
        em.Enumerate(),
        ("Score",),
    ),
}


@pytest.mark.parametrize("make, via, others", NOT_CARRIED.values(), ids=NOT_CARRIED)
def test_a_strategy_that_the_distribution_cannot_carry_lists_those_that_it_can(make, via, others):
    with pytest.raises(em.EstimandError, match=rf"'(objective/)?x' {HERE}") as refusal:
        trace(site(make, via))
    for name in (type(via).__name__, *others):
        assert name in str(refusal.value)


@refused("'(objective/)?x'", HERE, "MeasureValued", "concentration")
def measure_valued_gamma_with_a_differentiated_concentration(t):
    return em.sample("x", dist.Gamma(t[0], 1.0), via=em.MeasureValued())


@refused("'(objective/)?x'", HERE, "strategy|via", "'score'")
def a_strategy_by_its_name(t):
    return em.sample("x", dist.Normal(t[0], 1.0), via="score")


# Derivatives of higher order than a strategy carries.


def second_derivative(via):
    objective = em.expectation(
        lambda t: (em.sample("x", dist.Bernoulli(probs=t), via=via).astype(float) + t) ** 3
    )
    return jax.eval_shape(
        jax.hessian(lambda t: objective.surrogate(jax.random.key(0), t)), jnp.array(0.4)
    )


def test_a_derivative_of_higher_order_than_a_strategy_carries_names_the_site():
    with pytest.raises(
        em.EstimandError, match=rf"'(.*/)?x' {HERE}(.|\n)*MeasureValued(.|\n)*Score"
    ):
        second_derivative(em.MeasureValued())
    second_derivative(em.Score())
    second_derivative(em.Enumerate())
