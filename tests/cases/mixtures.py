"""Cases: mixtures of reparameterised components."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

import estimand as em
from tests.cases.table import Table, flip
from tests.oracle import normal_logpdf, sigmoid, softmax

CASES = Table()
case = CASES.case
T = (0.4, 0.8, -0.5)
LEVELS = np.array([-0.5, 0.2, 0.9])


def mixture(t, shift=0.0):
    """Two normals: t[0] the logit of the first, t[1] and t[2] the means."""
    logits = jnp.stack([t[0] + shift, 0 * t[0]])
    return dist.MixtureSameFamily(
        dist.Categorical(logits=logits), dist.Normal(t[1:], jnp.array([0.5, 1.0], t.dtype))
    )


def drawn(world, t, shift=0.0, order=24):
    k = world.categorical(softmax([t[0] + shift, 0.0]))
    return world.normal(t[1 + k], (0.5, 1.0)[k], order)


@case(T)
class OneMixture:
    def program(t, via):
        return jnp.sin(em.draw(mixture(t), via=via) * 2) + t[0]

    def exact(world, t):
        return np.sin(drawn(world, t) * 2) + t[0]


@case((0.4, 1.3, -0.5))
class OfDifferentFamilies:
    def program(t, via):
        parts = [dist.Gamma(2.0, t[1]), dist.LogNormal(t[2], 0.3)]
        x = em.draw(
            dist.Mixture(dist.Categorical(probs=jnp.stack([t[0], 1 - t[0]])), parts), via=via
        )
        return jnp.sqrt(1 + x)

    def exact(world, t):
        k = world.categorical([t[0], 1 - t[0]])
        return np.sqrt(1 + (np.exp(world.normal(t[2], 0.3)) if k else world.gamma(2.0, t[1])))


@case((0.4, 1.3, 0.7))
class UnnormalisedProbabilities:
    def program(t, via):
        mixing = dist.Categorical(probs=t)
        return em.draw(dist.MixtureSameFamily(mixing, dist.Normal(t, 0.5)), via=via) ** 2

    def exact(world, t):
        return world.normal(t[world.categorical(t / t.sum())], 0.5) ** 2


@case(T)
class LanesApart:
    def program(t, via):
        def lane(level):
            return jnp.cos(em.draw(mixture(t, level), via=via) + level)

        return jax.vmap(lane)(jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):  # one lane at a time: the sum of three expectations
        level = world.choose(LEVELS, np.ones(3))
        return np.cos(drawn(world, t, level) + level)


@case(T)
class LanesThatMeet:
    def program(t, via):
        xs = jax.vmap(lambda level: em.draw(mixture(t, level), via=via))(
            jnp.asarray(LEVELS[:2], t.dtype)
        )
        return jnp.exp(-(xs.sum() ** 2) / 4) * xs[1]

    def exact(world, t):
        xs = [drawn(world, t, level, 10) for level in LEVELS[:2]]
        return np.exp(-(sum(xs) ** 2) / 4) * xs[1]


@case(T)
class NativeLanes:
    def program(t, via):
        xs = em.draw(mixture(t).expand([2, 1]).expand([2, 3]), via=via)
        return (jnp.sin(xs) * jnp.asarray(LEVELS, t.dtype)).sum()

    def exact(world, t):
        return 2 * LEVELS.sum() * np.sin(drawn(world, t))


@case(T)
class Vectors:
    def program(t, via):
        means = jnp.stack([t[1:], t[:2]])
        mixing = dist.Categorical(logits=t[:2])
        x = em.draw(dist.MixtureSameFamily(mixing, dist.Normal(means, 0.5).to_event(1)), via=via)
        return jnp.tanh(x[0] * x[1])

    def exact(world, t):
        mean = (t[1:], t[:2])[world.categorical(softmax(t[:2]))]
        return np.tanh(world.normal(mean[0], 0.5, 12) * world.normal(mean[1], 0.5, 12))


@case(T)
class AfterAnEnumeratedFlip:
    def program(t, via):
        z = flip(jax.nn.sigmoid(t[0]), em.Enumerate())
        x = em.draw(mixture(t, z), via=via)
        return jnp.sin(x + z) * z + x**2

    def exact(world, t):
        z = world.flip(sigmoid(t[0]))
        x = drawn(world, t, z)
        return np.sin(x + z) * z + x**2


@case(T)
class AScanOfMixtures:
    def program(t, via):
        def step(x, _):
            x = 0.5 * x + em.draw(mixture(t, x), via=via)
            return x, None

        return jnp.cos(lax.scan(step, jnp.zeros((), t.dtype), None, length=2)[0])

    def exact(world, t):
        x = 0.0
        for _ in range(2):
            x = 0.5 * x + drawn(world, t, x, 10)
        return np.cos(x)


@case(T)
class TheEntropyOfAGuide:
    def program(t, via):
        guide = em.gen(lambda: em.sample("x", mixture(t), via=via)).simulate()
        return guide.choices["x"] ** 2 - guide.log_density

    def exact(world, t):
        x, p = drawn(world, t), softmax([t[0], 0.0])
        q = p * np.exp(normal_logpdf(x, t[1:], np.array([0.5, 1.0])))
        return x**2 - np.log(q.sum())
