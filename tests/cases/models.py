"""Cases: generative functions in objectives, detached sites, and expectations inside
expectations.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.cases.table import CONTINUOUS, DISCRETE, REPARAMETERISED, case, flip, normal
from tests.oracle import flip_logpmf, normal_logpdf, sigmoid


@em.gen
def burglary():
    """Two causes and one observed alarm."""
    a = em.sample("a", dist.Bernoulli(probs=0.3)).astype(float)
    b = em.sample("b", dist.Bernoulli(probs=0.6)).astype(float)
    em.sample("alarm", dist.Bernoulli(logits=2 * a - b))


@case((0.2, -0.5), DISCRETE)
class DiscreteElbo:
    def program(t, via):
        @em.gen
        def guide():
            a = em.sample("a", dist.Bernoulli(logits=t[0]), via=via).astype(float)
            em.sample("b", dist.Bernoulli(logits=t[1] + a), via=via)

        q = guide.simulate()
        return burglary.log_density(em.merge(q.choices, {"alarm": 1})) - q.log_density

    def exact(world, t):
        pa = sigmoid(t[0])
        a = world.flip(pa)
        pb = sigmoid(t[1] + a)
        b = world.flip(pb)
        model = flip_logpmf(a, 0.3) + flip_logpmf(b, 0.6) + np.log(sigmoid(2 * a - b))
        return model - flip_logpmf(a, pa) - flip_logpmf(b, pb)


@case((0.2, -0.5), CONTINUOUS)
class GaussianElbo:
    def program(t, via):
        @em.gen
        def model():
            x = em.sample("x", dist.Normal(0.0, 1.0))
            em.sample("y", dist.Normal(x, 0.5))

        @em.gen
        def guide():
            em.sample("x", dist.Normal(t[0], jnp.exp(t[1])), via=via)

        q = guide.simulate()
        return model.log_density(em.merge(q.choices, {"y": 0.7})) - q.log_density

    def exact(world, t):
        x = world.normal(t[0], np.exp(t[1]))
        return (
            normal_logpdf(x, 0, 1)
            + normal_logpdf(0.7, x, 0.5)
            - normal_logpdf(x, t[0], np.exp(t[1]))
        )


@case((0.2, -0.5), (em.Score, em.Enumerate))
class TwoSampleBound:
    """The log mean of two weights: the lanes are scored, or enumerated, jointly."""

    def program(t, via):
        @em.gen
        def guide():
            a = em.sample("a", dist.Bernoulli(logits=t[0]), via=via).astype(float)
            em.sample("b", dist.Bernoulli(logits=t[1] + a), via=via)

        def weight(_):
            q = guide.simulate()
            return burglary.log_density(em.merge(q.choices, {"alarm": 1})) - q.log_density

        return jax.nn.logsumexp(jax.vmap(weight)(jnp.arange(2))) - jnp.log(2.0)

    def exact(world, t):
        def weight():
            pa = sigmoid(t[0])
            a = world.flip(pa)
            pb = sigmoid(t[1] + a)
            b = world.flip(pb)
            model = flip_logpmf(a, 0.3) + flip_logpmf(b, 0.6) + np.log(sigmoid(2 * a - b))
            return np.exp(model - flip_logpmf(a, pa) - flip_logpmf(b, pb))

        return np.log((weight() + weight()) / 2)


@case((0.2, -0.5, 0.4), DISCRETE, mixed=True)
class PathwiseInsideAMixture:
    def program(t, via):
        z = em.sample("z", dist.Bernoulli(logits=t[0]), via=via)
        x = em.sample("x", dist.Normal(t[1:][z], 0.5), via=em.Pathwise())
        return dist.Normal(0.0, 1.0).log_prob(x) * 2 + z.astype(float) * x

    def exact(world, t):
        z = world.flip(sigmoid(t[0]))
        x = world.normal(t[1 + int(z)], 0.5)
        return normal_logpdf(x, 0, 1) * 2 + z * x


@case((0.3, 0.6), DISCRETE)
class OffPolicy:
    """The value comes from the behaviour policy; no derivative of its probability may appear."""

    def program(t, via):
        x = em.detach(flip(jax.nn.sigmoid(t[0]), via))
        target = jnp.where(x > 0.5, t[1], 1 - t[1])
        return (x + 0.5) * jnp.log(target)

    def exact(world, t):
        x = world.flip(sigmoid(world.theta[0]))
        return (x + 0.5) * flip_logpmf(x, t[1])


@case((0.3, 0.6), DISCRETE)
class OffPolicyByStopGradient:
    def program(t, via):
        x = lax.stop_gradient(flip(jax.nn.sigmoid(t[0]), via))
        y = flip(t[1], via)
        return (x + 0.5) * jnp.exp(y)

    def exact(world, t):
        return (world.flip(sigmoid(world.theta[0])) + 0.5) * np.exp(world.flip(t[1]))


@case((0.3, 0.6), REPARAMETERISED)
class DetachedNoise:
    def program(t, via):
        noise = lax.stop_gradient(normal(t[0], 1.0, via))
        return (noise * t[1] - t[0]) ** 2

    def exact(world, t):
        return (world.normal(world.theta[0], 1.0) * t[1] - t[0]) ** 2


@case((0.3, 0.6), DISCRETE)
class ExpectationsInALinearPosition:
    def program(t, via):
        @em.expectation
        def lane(p, level):
            return (flip(p, via) - level) ** 2

        x = flip(t[1], via)
        return jax.vmap(lane, (None, 0))(t[0], t).mean() - 2 * x * lane(t[1], x)

    def exact(world, t):
        x = world.flip(t[1])
        return (
            sum((world.flip(t[0]) - level) ** 2 for level in t) / 2
            - 2 * x * (world.flip(t[1]) - x) ** 2
        )
