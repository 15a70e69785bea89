"""Pathwise values in NumPyro's densities: no alarm where the support stands still, an error
where it is moved.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest

import estimand as em

THETA = jnp.array([0.3, -0.2, 0.8])
pytestmark = pytest.mark.legs


def real(t):
    return dist.Normal(t[0], jnp.exp(t[1]))


def positive(t):
    return dist.LogNormal(t[0], jnp.exp(t[1]))


def unit(t):
    return dist.Beta(jnp.exp(t[0]), jnp.exp(t[1]))


def vector(t):
    return dist.Normal(t, 1.0).to_event(1)


def simplex(t):
    return dist.Dirichlet(jnp.exp(t))


@pytest.fixture(autouse=True)
def standard_promotion():
    """NumPyro's own constructors do not live under strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def trace(site, density):
    """Build the gradient of E[log density], read by a model's `assess`, without running it."""

    @em.expectation
    def objective(t):
        distribution, value = density(em.sample("x", site(t), via=em.Pathwise()))
        return em.gen(lambda: em.sample("y", distribution)).log_density({"y": value})

    return jax.eval_shape(objective.grad, jax.random.key(0), THETA)


def at(make):
    """The density of a distribution at x."""
    return lambda x: (make(), x)


EYE = jnp.eye(3)
STANDING = {
    "Normal at x": (real, at(lambda: dist.Normal(0.0, 1.0))),
    "StudentT at x": (real, at(lambda: dist.StudentT(3.0, 0.0, 1.0))),
    "Cauchy at x": (real, at(lambda: dist.Cauchy(0.0, 1.0))),
    "Laplace at x": (real, at(lambda: dist.Laplace(0.0, 1.0))),
    "Logistic at x": (real, at(lambda: dist.Logistic(0.0, 1.0))),
    "Gumbel at x": (real, at(lambda: dist.Gumbel(0.0, 1.0))),
    "MVN at x": (vector, at(lambda: dist.MultivariateNormal(0.0, EYE))),
    "LowRankMVN at x": (
        vector,
        at(lambda: dist.LowRankMultivariateNormal(THETA, EYE[:, :1], THETA**2)),
    ),
    "mixture at x": (
        real,
        at(
            lambda: dist.MixtureSameFamily(
                dist.Categorical(probs=jnp.ones(3) / 3), dist.Normal(THETA, 1.0)
            )
        ),
    ),
    "Gamma at x > 0": (positive, at(lambda: dist.Gamma(2.0, 1.0))),
    "Exponential at x > 0": (positive, at(lambda: dist.Exponential(1.0))),
    "HalfNormal at x > 0": (positive, at(lambda: dist.HalfNormal(1.0))),
    "HalfCauchy at x > 0": (positive, at(lambda: dist.HalfCauchy(1.0))),
    "InverseGamma at x > 0": (positive, at(lambda: dist.InverseGamma(2.0, 1.0))),
    "Weibull at x > 0": (positive, at(lambda: dist.Weibull(1.0, 2.0))),
    "LogNormal at x > 0": (positive, at(lambda: dist.LogNormal(0.0, 1.0))),
    "Beta at 0 < x < 1": (unit, at(lambda: dist.Beta(2.0, 3.0))),
    "Uniform at 0 < x < 1": (unit, at(lambda: dist.Uniform(0.0, 1.0))),
    "Dirichlet at a simplex": (simplex, at(lambda: dist.Dirichlet(jnp.ones(3)))),
    "Normal around x": (real, lambda x: (dist.Normal(x, jnp.exp(x)), 0.3)),
    "StudentT around x": (real, lambda x: (dist.StudentT(jnp.exp(x), x, 1.0), 0.3)),
    "Bernoulli logits x": (real, lambda x: (dist.Bernoulli(logits=x), 1)),
    "Bernoulli probs x": (unit, lambda x: (dist.Bernoulli(probs=x), 1)),
    "Categorical logits x": (vector, lambda x: (dist.Categorical(logits=x), 1)),
    "Categorical probs x": (simplex, lambda x: (dist.Categorical(probs=x), 1)),
    "Binomial logits x": (real, lambda x: (dist.Binomial(4, logits=x), 2)),
    "Multinomial logits x": (
        vector,
        lambda x: (dist.Multinomial(4, logits=x), jnp.array([1, 2, 1])),
    ),
    "Poisson rate x": (positive, lambda x: (dist.Poisson(x), 2)),
    "NegativeBinomial2 mean x": (positive, lambda x: (dist.NegativeBinomial2(x, 2.0), 2)),
    "Gamma of x": (positive, lambda x: (dist.Gamma(x, 1.0 / x), 0.3)),
    "Beta of x": (positive, lambda x: (dist.Beta(x, 2.0), 0.3)),
    "Exponential rate x": (positive, lambda x: (dist.Exponential(x), 0.3)),
    "LKJ concentration x": (positive, lambda x: (dist.LKJCholesky(3, x), EYE)),
    "MVN precision of x": (
        positive,
        lambda x: (dist.MultivariateNormal(0.0, precision_matrix=x * EYE), THETA),
    ),
    "truncated normal, fixed ends": (
        real,
        lambda x: (dist.TruncatedNormal(x, 1.0, low=-1.0, high=1.0), 0.3),
    ),
    "zero-inflated Poisson": (positive, lambda x: (dist.ZeroInflatedPoisson(0.3, x), 0)),
    "ordered logistic": (real, lambda x: (dist.OrderedLogistic(x, jnp.array([-1.0, 1.0])), 1)),
}

WRITTEN_OUT = {  # NumPyro's own log_prob, called in the objective
    "Normal at x": (real, lambda x: dist.Normal(0.0, 1.0).log_prob(x)),
    "Bernoulli logits x": (real, lambda x: dist.Bernoulli(logits=x).log_prob(1)),
    "Categorical logits x": (vector, lambda x: dist.Categorical(logits=x).log_prob(1)),
    "Poisson rate x": (positive, lambda x: dist.Poisson(x).log_prob(2)),
    "Exponential at x > 0": (positive, lambda x: dist.Exponential(1.0).log_prob(x)),
    "Gamma at x > 0": (positive, lambda x: dist.Gamma(2.0, 1.0).log_prob(x)),
    "HalfNormal at x > 0": (positive, lambda x: dist.HalfNormal(1.0).log_prob(x)),
    "LogNormal at x > 0": (positive, lambda x: dist.LogNormal(0.0, 1.0).log_prob(x)),
    "Uniform at 0 < x < 1": (unit, lambda x: dist.Uniform(0.0, 1.0).log_prob(x)),
}


@pytest.mark.parametrize("site, log_prob", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_a_density_that_is_written_out_raises_no_alarm(site, log_prob):
    objective = em.expectation(lambda t: log_prob(em.sample("x", site(t), via=em.Pathwise())).sum())
    jax.eval_shape(objective.grad, jax.random.key(0), THETA)


def with_an_edge_at_one():
    components = [dist.Uniform(0.0, 1.0), dist.Normal(0.0, 3.0)]
    return dist.MixtureGeneral(
        dist.Categorical(jnp.ones(2) / 2), components, support=dist.constraints.real
    )


MOVED = {
    "a mixture with an inner edge": (real, at(with_an_edge_at_one)),
    "a transform that claims all of the reals": (
        real,
        at(
            lambda: dist.TransformedDistribution(
                dist.Uniform(0.0, 1.0), dist.transforms.AffineTransform(0.0, 2.0)
            )
        ),
    ),
    "Uniform up to x": (positive, lambda x: (dist.Uniform(0.0, x), 0.9)),
    "Uniform around x": (real, lambda x: (dist.Uniform(x - 1, x + 1), 0.9)),
    "Pareto from x": (positive, lambda x: (dist.Pareto(x, 2.0), 0.9)),
    "truncated at x": (real, lambda x: (dist.TruncatedNormal(0.0, 1.0, low=x), 0.9)),
    "Exponential at a real x": (real, at(lambda: dist.Exponential(1.0))),
    "Gamma at a real x": (real, at(lambda: dist.Gamma(2.0, 1.0))),
    "Uniform at a real x": (real, at(lambda: dist.Uniform(0.0, 1.0))),
    "Uniform at x > 0": (positive, at(lambda: dist.Uniform(0.0, 1.0))),
}


@pytest.mark.parametrize("site, density", STANDING.values(), ids=STANDING)
def test_a_density_whose_support_stands_still_raises_no_alarm(site, density):
    trace(site, density)


@pytest.mark.parametrize("site, density", MOVED.values(), ids=MOVED)
def test_a_density_whose_support_is_moved_or_left_is_refused(site, density):
    with pytest.raises(em.EstimandError, match=r"test_densities\.py:\d+") as refusal:
        trace(site, density)
    assert "'x'" in str(refusal.value) and "support" in str(refusal.value)
