"""Programs on which earlier systems for programmable variational inference give a wrong answer
without an error.

Each row was run on one of them and came out wrong: constant noise under `scan`, one draw for
all lanes, a lost score under `jit`, `checkpoint` or `cond`, shared noise between sites, a
missing entropy. Here the answer is the exact one.
"""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from scipy import stats

import estimand as em
from tests.cases import Table
from tests.cases.table import CONTINUOUS, DISCRETE, REPARAMETERISED, flip, normal, pick
from tests.oracle import normal_logpdf

PEERS = Table()
case = PEERS.case


@case((1.0,), REPARAMETERISED)
class TwoSitesHaveTheirOwnNoise:
    def program(t, via):
        return normal(t[0], 1.0, via) ** 2 * normal(t[0], 1.0, via) ** 2

    def exact(world, t):
        return world.normal(t[0], 1.0) ** 2 * world.normal(t[0], 1.0) ** 2


@case((1.0,))
class PathwiseThenScore:
    def program(t, via):
        return normal(t[0], 1.0, em.Pathwise()) ** 2 * normal(t[0], 1.0, em.Score()) ** 2

    def exact(world, t):
        return world.normal(t[0], 1.0) ** 2 * world.normal(t[0], 1.0) ** 2


@case((0.3, 0.7), REPARAMETERISED)
class ElementsOfAVectorHaveTheirOwnNoise:
    def program(t, via):
        x = normal(t, 1.0, via)
        return x[0] * x[1] + x[0] ** 2 * x[1]

    def exact(world, t):
        x, y = world.normal(t[0], 1.0), world.normal(t[1], 1.0)
        return x * y + x**2 * y


@case((0.3, 0.7), (em.Pathwise,))
class ACorrelatedNormalOfConstantCovariance:
    def program(t, via):
        x = em.draw(dist.MultivariateNormal(t, jnp.array([[1.0, 0.6], [0.6, 1.0]])), via=via)
        return x[0] * x[1] ** 2

    def exact(world, t):
        x = world.normal(t[0], 1.0)
        y = t[1] + 0.6 * (x - t[0]) + world.normal(0.0, 0.8)
        return x * y**2


@case((0.5, np.log(np.sqrt(0.5)), -1.0, np.log(np.sqrt(0.5))), CONTINUOUS)
class AMeanFieldGuideAtItsOptimum:
    """The gradient is zero there; without the entropy, or with shared noise, it is not."""

    def program(t, via):
        @em.gen
        def model():
            for name in ("a", "b"):
                x = em.sample(name, dist.Normal(0.0, 1.0))
                em.sample(f"observed {name}", dist.Normal(x, 1.0))

        @em.gen
        def guide():
            em.sample("a", dist.Normal(t[0], jnp.exp(t[1])), via=via)
            em.sample("b", dist.Normal(t[2], jnp.exp(t[3])), via=via)

        q = guide.simulate()
        data = {"observed a": 1.0, "observed b": -2.0}
        return model.log_density(em.merge(q.choices, data)) - q.log_density

    def exact(world, t):
        total = 0.0
        for loc, scale, y in ((t[0], np.exp(t[1]), 1.0), (t[2], np.exp(t[3]), -2.0)):
            x = world.normal(loc, scale, order=6)
            total += (
                normal_logpdf(x, 0.0, 1.0) + normal_logpdf(y, x, 1.0) - normal_logpdf(x, loc, scale)
            )
        return total


@case((1.5, 1.6, -2.0, -1.8), CONTINUOUS)
class Cone:
    def program(t, via):
        @em.gen
        def model():
            x = em.sample("x", dist.Normal(0.0, 10.0))
            y = em.sample("y", dist.Normal(0.0, 10.0))
            r = x**2 + y**2
            em.sample("z", dist.Normal(r, 0.1 + r / 100.0))

        @em.gen
        def guide():
            em.sample("x", dist.Normal(t[0], jnp.exp(t[2])), via=via)
            em.sample("y", dist.Normal(t[1], jnp.exp(t[3])), via=via)

        q = guide.simulate()
        return model.log_density(em.merge(q.choices, {"z": 5.0})) - q.log_density

    def exact(world, t):
        x, y = world.normal(t[0], np.exp(t[2]), 12), world.normal(t[1], np.exp(t[3]), 12)
        r = x**2 + y**2
        prior = normal_logpdf(x, 0, 10) + normal_logpdf(y, 0, 10)
        guide = normal_logpdf(x, t[0], np.exp(t[2])) + normal_logpdf(y, t[1], np.exp(t[3]))
        return prior + normal_logpdf(5.0, r, 0.1 + r / 100) - guide


@case((0.4,), DISCRETE)
class FlipsInAScan:
    def program(t, via):
        return lax.scan(lambda total, _: (total + flip(t[0], via), None), 0 * t[0], None, length=3)[
            0
        ]

    def exact(world, t):
        return sum(world.flip(t[0]) for _ in range(3))


@case((0.4, 0.2), REPARAMETERISED)
class AGuideWithAScan:
    def program(t, via):
        @em.gen
        def guide():
            def step(state, _):
                state = em.sample("x", dist.Normal(0.5 * state + t[0], 1.0), via=via)
                return state, state**2

            return lax.scan(step, t[1], None, length=3)[1].sum()

        return guide.simulate().value

    def exact(world, t):
        state, total = t[1], 0.0
        for _ in range(3):
            state = world.normal(0.5 * state + t[0], 1.0, order=8)
            total += state**2
        return total


@case((0.3,), DISCRETE)
class LanesOfAVmapAreIndependent:
    """d/dp E[(x_1 + .. + x_4)^2] = 4 + 24 p; one draw for all lanes would give 16."""

    def program(t, via):
        return jax.vmap(lambda _: flip(t[0], via))(jnp.arange(4)).sum() ** 2

    def exact(world, t):
        return sum(world.flip(t[0]) for _ in range(4)) ** 2


@case((0.3, 0.8), DISCRETE)
class InsideJitCheckpointAndBranch:
    def program(t, via):
        x = jax.jit(lambda p: flip(p, via))(t[0])
        y = jax.checkpoint(lambda p: jnp.exp(flip(p, via)))(t[1])
        return lax.cond(x > 0.5, lambda: 0.6 * y, lambda: x - y)

    def exact(world, t):
        x, y = world.flip(t[0]), np.exp(world.flip(t[1]))
        return 0.6 * y if x else x - y


@case((0.3, 0.8), DISCRETE)
class FunctionsWithTheirOwnDerivatives:
    def program(t, via):
        x = flip(t[0], via)
        return jax.nn.relu(x - t[1]) + jnp.logaddexp(2 * x, t[1]) + jsp.special.xlogy(x, t[1] + x)

    def exact(world, t):
        x = world.flip(t[0])
        return np.maximum(x - t[1], 0.0) + np.logaddexp(2 * x, t[1]) + x * np.log(t[1] + x)


@case((0.3, 0.8, -0.1), DISCRETE)
class ASwitchOfFour:
    def program(t, via):
        z = pick(jnp.append(t, 0.2), via)
        return lax.switch(z, [lambda u: u, jnp.sin, jnp.cos, lambda u: u * u], t[1])

    def exact(world, t):
        z = world.categorical(np.exp([*t, 0.2]) / np.exp([*t, 0.2]).sum())
        return (t[1], np.sin(t[1]), np.cos(t[1]), t[1] ** 2)[z]


@case((1.0,), (em.Score, em.MeasureValued))
class AComparisonOfANormal:
    """d/dmu P(x > 0) is the density of a standard normal at mu = 1: 0.242."""

    def program(t, via):
        return (normal(t[0], 1.0, via) > 0.0).astype(float)

    def exact(world, t):
        return stats.norm.cdf(t[0])


@case((0.3,))
class ADistributionWithoutAStrategy:
    def program(t, via):
        return (
            -em.draw(dist.Bernoulli(probs=t[0])).astype(float)
            + em.draw(dist.Normal(t[0], 1.0)) ** 2
        )

    def exact(world, t):
        return -world.flip(t[0]) + world.normal(t[0], 1.0) ** 2
