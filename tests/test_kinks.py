"""A pathwise value that passes a kink has a right first derivative, and a second one that misses
what the jump of the first brings: it is refused.

Everything is decided while tracing, so nothing here is compiled.
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import pytest
from jax import lax

import estimand as em
from tests.test_continuity import KNOTS, LAPLACE, NORMAL, THETA, log_density, trace

pytestmark = pytest.mark.legs
SITE = r"'x' \(test_kinks\.py:\d+\)"


KINKED = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "abs": jnp.abs,
    "maximum": lambda x: jnp.maximum(x, 0.1),
    "max": jnp.max,
    "clip": lambda x: jnp.clip(x, -1.0, 1.0),
    "sort": jnp.sort,
    "interp": lambda x: jnp.interp(x, KNOTS, KNOTS**2),
    "a Laplace density": jax.vmap(LAPLACE),
    "in a scan": lambda x: lax.scan(lambda c, u: (c + jax.nn.relu(u), None), 0.0, x)[0],
}
SMOOTH = {
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
    "logsumexp": jax.nn.logsumexp,
    "softmax": jax.nn.softmax,
    "logaddexp": lambda x: jnp.logaddexp(x, KNOTS),
    "a normal density": jax.vmap(NORMAL),
    "a Bernoulli density": lambda x: log_density(dist.Bernoulli(logits=x))(jnp.ones(3, int)),
    "a kink of something still": lambda x: x**2 * jax.nn.relu(KNOTS),
}


def curvature(f, via=None):
    """Build the second derivative of E[f(x)], without running it."""
    objective = em.expectation(lambda t: f(em.sample("x", dist.Normal(t, 1.0), via=via)).sum())
    surrogate = jax.tree_util.Partial(objective.surrogate, jax.random.key(0))
    return jax.eval_shape(jax.hessian(surrogate), THETA)


@pytest.mark.parametrize("f", KINKED.values(), ids=KINKED)
def test_a_second_derivative_through_a_kink_is_refused_unless_scored(f):
    """d^2/dt^2 E[relu(x)] is the density at 0; the second derivative of relu is 0."""
    trace(f)
    with pytest.raises(em.EstimandError, match=rf"{SITE}(.|\n)*whose derivative jumps"):
        curvature(f)
    curvature(f, via=em.Score())


@pytest.mark.parametrize("f", SMOOTH.values(), ids=SMOOTH)
def test_a_second_derivative_of_what_is_smooth_is_fine(f):
    curvature(f)


def test_a_mixed_second_derivative_through_a_kink_is_refused():
    def slope(shift):
        rectified = em.expectation(lambda t: jax.nn.relu(em.draw(dist.Normal(t + shift, 1.0))))
        return rectified.grad(jax.random.key(0), 0.3)

    assert jnp.isfinite(slope(0.2))
    with pytest.raises(em.EstimandError, match="whose derivative jumps"):
        jax.grad(slope)(0.2)
