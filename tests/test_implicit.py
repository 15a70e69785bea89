"""Pathwise derivatives of samplers without a closed form, against quadrature.

The value, the gradient in every parameter, bounds of the support included, and for some the
second derivative, of a smooth function of the draw.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import estimand as em
from tests.marks import by_default
from tests.messages import check_message
from tests.quadrature import gradient, hessian, nodes, truncated
from tests.statistics import assert_unbiased, assert_unbiased_to, keys

RESOLVED = 0.2  # of every value and derivative


def bent(xp, x):
    return xp.sqrt(1.0 + (x + 1.0) ** 2)


def log(xp, x):
    return xp.log1p(x)


def coordinates(xp, x):
    return xp.sin(2.0 * x[..., 0]) + x[..., 1] * x[..., 0] + 2.0 * x[..., 2] ** 2


@dataclasses.dataclass(frozen=True)
class Row:
    make: Callable
    law: Callable  # in scipy
    theta: tuple
    f: Callable = bent

    def value(self, t):
        return self.f(jnp, em.draw(self.make(t), via=em.Pathwise()))

    def exact(self, t):
        x, w = nodes(self.law(t))
        return w @ self.f(np, x)


def gamma(t):
    return stats.gamma(t[0], scale=1 / t[1])


ROWS = {
    "Gamma": Row(lambda t: dist.Gamma(t[0], t[1]), gamma, (1.4, 0.8)),
    "Gamma, a small concentration": Row(lambda t: dist.Gamma(t[0], t[1]), gamma, (0.1, 0.8)),
    "Gamma, a large concentration": Row(lambda t: dist.Gamma(t[0], t[1]), gamma, (90.0, 1.5), log),
    "InverseGamma": Row(
        lambda t: dist.InverseGamma(t[0], t[1]),
        lambda t: stats.invgamma(t[0], scale=t[1]),
        (3.5, 1.4),
    ),
    "Chi2": Row(lambda t: dist.Chi2(t[0]), lambda t: stats.chi2(t[0]), (3.5,)),
    "Beta": Row(lambda t: dist.Beta(t[0], t[1]), lambda t: stats.beta(*t), (1.5, 1.3)),
    "Beta, a small concentration": Row(
        lambda t: dist.Beta(t[0], t[1]), lambda t: stats.beta(*t), (0.1, 1.5)
    ),
    "Dirichlet": Row(dist.Dirichlet, np.asarray, (0.8, 1.3, 1.1), coordinates),
    "StudentT": Row(
        lambda t: dist.StudentT(t[0], t[1], t[2]),
        lambda t: stats.t(*t),
        (1.5, 0.6, 1.3),
        lambda xp, x: xp.log1p(x**2),
    ),
    "TruncatedNormal": Row(
        lambda t: dist.TruncatedNormal(t[0], t[1], low=t[2], high=t[3]),
        lambda t: truncated(*t),
        (0.4, 1.2, -0.5, 1.5),
        lambda xp, x: xp.sin(2 * x) + x**2,
    ),
    "TruncatedNormal, in the right tail": Row(
        lambda t: dist.TruncatedNormal(t[0], t[1], low=t[2], high=t[3]),
        lambda t: truncated(*t),
        (0.1, 1.0, 2.5, 3.0),
    ),
    "TruncatedNormal, in the left tail": Row(
        lambda t: dist.TruncatedNormal(t[0], t[1], low=t[2], high=t[3]),
        lambda t: truncated(*t),
        (0.1, 1.0, -3.0, -2.5),
    ),
    "left-truncated Normal": Row(
        lambda t: dist.LeftTruncatedDistribution(dist.Normal(t[0], t[1]), low=t[2]),
        lambda t: truncated(*t, np.inf),
        (0.3, 1.0, 0.8),
    ),
    "right-truncated Normal": Row(
        lambda t: dist.RightTruncatedDistribution(dist.Normal(t[0], t[1]), high=t[2]),
        lambda t: truncated(t[0], t[1], -np.inf, t[2]),
        (0.3, 1.0, 0.8),
    ),
}


CHOSEN = ("Gamma", "Beta", "StudentT", "TruncatedNormal, in the right tail", "Dirichlet")


@pytest.mark.parametrize("row", by_default(ROWS, *CHOSEN))
def test_value_and_gradient_in_every_parameter(row):
    theta = np.array(row.theta)
    answer = row.exact(theta), gradient(row.exact, theta)
    assert_unbiased_to(em.expectation(row.value), answer, RESOLVED, jnp.asarray(theta, float))


def detached(t):
    """A Gamma whose concentration has no derivative."""
    return dist.Gamma(em.detach(t[0]), t[1])


def test_a_missing_derivative_is_caught():
    row = dataclasses.replace(ROWS["Gamma"], make=detached)
    with pytest.raises(AssertionError, match="the mean is"):
        test_value_and_gradient_in_every_parameter(row)


@pytest.mark.full
@pytest.mark.parametrize("name", ["Gamma", "Beta"])
def test_the_second_derivative(name):
    """JAX differentiates its implicit derivative, too."""
    row, theta = ROWS[name], jnp.array(ROWS[name].theta)
    surrogate = em.expectation(row.value).surrogate
    samples = jax.jit(jax.vmap(jax.hessian(surrogate, 1), (0, None)))(keys(2**15), theta)
    exact = hessian(row.exact, np.array(row.theta))
    assert_unbiased(samples, exact, RESOLVED * np.abs(exact).max())


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_probability") is not None,
    reason="the sampler is installed",
)
def test_a_sampler_that_is_not_installed_is_asked_for_only_by_a_draw():
    """NumPyro inverts Student's t with TensorFlow Probability, and its density needs none of it."""

    @em.gen
    def model():
        em.sample("x", dist.LeftTruncatedDistribution(dist.StudentT(3.0, 0.0, 1.0), low=0.5))

    exact = stats.t(3.0).logpdf(1.0) - stats.t(3.0).logsf(0.5)
    np.testing.assert_allclose(model.log_density({"x": 1.0}), exact, rtol=1e-5)
    drawn = em.expectation(lambda: model.simulate().choices["x"])
    check_message("a sampler that is not installed", drawn.estimate, jax.random.key(0))
