"""Cases: continuous and countable distributions, one strategy against another."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import estimand as em
from tests.cases.table import CONTINUOUS, DISCRETE, REPARAMETERISED, case, flip, normal
from tests.oracle import sigmoid

LEVELS = np.array([-0.5, 0.2, 0.9])


@case((0.4, -0.6, 1.5), CONTINUOUS)
class CubicOfANormal:
    def program(t, via):
        return t[2] * normal(t[0], jnp.exp(t[1]), via) ** 3

    def exact(world, t):
        return t[2] * world.normal(t[0], np.exp(t[1])) ** 3


@case((0.4, -0.6), CONTINUOUS)
class PlateOfNormals:
    def program(t, via):
        xs = jax.vmap(lambda level: normal(t[0] * level, jnp.exp(t[1]), via))(
            jnp.asarray(LEVELS, t.dtype)
        )
        return jnp.sin(xs).sum() + 0.1 * xs.sum()

    def exact(world, t):
        means = [expected_sine(t[0] * level, np.exp(t[1])) + 0.1 * t[0] * level for level in LEVELS]
        return sum(means)


def expected_sine(loc, scale):
    """E[sin x] for a normal x, in closed form."""
    return np.sin(loc) * np.exp(-0.5 * scale**2)


@case((0.4, -0.6), CONTINUOUS, mixed=True)
class NormalThenFlip:
    def program(t, via):
        x = normal(t[0], jnp.exp(t[1]), via)
        y = flip(jax.nn.sigmoid(x), em.Score())
        return (y - 0.5 * x) ** 2

    def exact(world, t):
        x = world.normal(t[0], np.exp(t[1]))
        return (world.flip(sigmoid(x)) - 0.5 * x) ** 2


@case((0.4, -0.6), DISCRETE, mixed=True)
class NormalThenFlipUnderTest:
    def program(t, via):
        x = normal(t[0], jnp.exp(t[1]), em.Pathwise())
        y = flip(jax.nn.sigmoid(x), via)
        return (y - 0.5 * x) ** 2

    def exact(world, t):
        x = world.normal(t[0], np.exp(t[1]))
        return (world.flip(sigmoid(x)) - 0.5 * x) ** 2


@case((0.3, 0.8), (em.Score, em.MeasureValued))
class PoissonCount:
    def program(t, via):
        x = em.draw(dist.Poisson(jnp.exp(t[0])), via=via).astype(float)
        return x**2 / (1 + t[1] * x)

    def exact(world, t):
        x = world.poisson(np.exp(t[0]))
        return x**2 / (1 + t[1] * x)


@case((0.3, 0.8), (em.Score,))
class GeometricCount:
    def program(t, via):
        x = em.draw(dist.GeometricProbs(probs=jax.nn.sigmoid(t[0])), via=via).astype(float)
        return x / (1 + t[1] * x)

    def exact(world, t):
        x = world.geometric(sigmoid(t[0]))
        return x / (1 + t[1] * x)


@case((0.3, 0.8), CONTINUOUS)
class ExponentialTime:
    def program(t, via):
        return t[1] * em.draw(dist.Exponential(jnp.exp(t[0])), via=via) ** 2

    def exact(world, t):
        return t[1] * world.gamma(1.0, np.exp(t[0])) ** 2


@case((0.3, 0.8), CONTINUOUS)
class GammaRate:
    def program(t, via):
        return em.draw(dist.Gamma(2.5, jnp.exp(t[0])), via=via) ** 2 * t[1]

    def exact(world, t):
        return world.gamma(2.5, np.exp(t[0])) ** 2 * t[1]


@case((0.9, 0.8), REPARAMETERISED)
class GammaConcentration:
    def program(t, via):
        return em.draw(dist.Gamma(jnp.exp(t[0]), 1.0 + t[1]), via=via) ** 2

    def exact(world, t):
        return world.gamma(np.exp(t[0]), 1.0 + t[1]) ** 2


@case((2.0, 3.0), REPARAMETERISED)
class BetaWeights:
    def program(t, via):
        return 10 * em.draw(dist.Beta(t[0], t[1]), via=via) ** 3

    def exact(world, t):
        return 10 * world.beta(t[0], t[1]) ** 3


@case((0.4, -0.6), REPARAMETERISED)
class CorrelatedNormals:
    def program(t, via):
        covariance = jnp.array([[1.0, 0.5], [0.5, 2.0]]) * jnp.exp(t[1])
        x = em.draw(dist.MultivariateNormal(t, covariance), via=via)
        return x[0] * x[1] + x[0] ** 2

    def exact(world, t):
        return t[0] * t[1] + 0.5 * np.exp(t[1]) + t[0] ** 2 + np.exp(t[1])


@case((0.4, -0.6), REPARAMETERISED)
class TransformedNormals:
    def program(t, via):
        base = dist.Normal(t, 0.5).to_event(1)
        x = em.draw(dist.TransformedDistribution(base, dist.transforms.ExpTransform()), via=via)
        return x[0] * x[1] + x[0]

    def exact(world, t):
        return np.exp(t[0] + t[1] + 0.25) + np.exp(t[0] + 0.125)
